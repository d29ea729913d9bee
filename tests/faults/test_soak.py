"""The demo over and over while something of it is killed every few seconds; then everything is counted. `make soak`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from events import METER, Events, assert_exactly_once, missing, rows, topic
from lander import EVENT_ROWS, EVENTS, Lander
from servers import Servers
from test_kill import QUESTIONS, assert_whole
from test_kill import finish as finish_demo

from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import HeadraceError, Unavailable
from headrace.landing.positions import positions
from headrace.landing.trim import trim
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter


@pytest.mark.soak(minutes=11)
@pytest.mark.timeout(3600)
def test_kills_for_ten_minutes_lose_nothing_and_double_nothing(real_home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home = real_home
    monkeypatch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
    home.env["HEADRACE_TRAINING__RECIPE__RERANKER__BATCH"] = "4"
    dice = random.Random(5)
    end = time.monotonic() + float(os.environ.get("HEADRACE_SOAK_SECONDS", "600"))
    said: list[str] = []
    kills = 0
    while time.monotonic() < end:
        process = home.start(*home.demo(QUESTIONS))
        try:
            process.wait(timeout=dice.uniform(2, 25))
        except Exception:
            state = read_state(PlatformHome(home.path))
            victims = [process.pid]
            if state is not None:
                victims += [state.supervisor.pid, *(child.pid for child in state.children.values())]
            os.kill(dice.choice(victims), signal.SIGKILL)
            kills += 1
        out, err = process.communicate(timeout=200)
        assert "Traceback" not in err, err
        assert "Unexpected error" not in err, err
        said.append(out + err)
    finish_demo(home, said)
    assert kills > 0
    assert_whole(home, said, [])


def landed_all(endpoints: Endpoints, events: Events) -> bool:
    return missing(rows(endpoints), events) == {}


def keep(endpoints: Endpoints, folder: Path) -> None:
    with contextlib.suppress(HeadraceError):
        TableWriter(EVENT_ROWS, endpoints, METER).maintain(Maintenance())
    with contextlib.suppress(HeadraceError):
        Runner(Run("trim", folder), endpoints).run(trim.over(topics=[EVENTS], tables=[EVENT_ROWS]), keep_s=10.0)


def account(servers: Servers, events: Events, landers: list[Lander], within: Any) -> str:
    """What the head, the table and the landers say of what is missing, and whether it comes once the broker is started anew."""
    endpoints = servers.endpoints
    reader = topic(endpoints)
    lost = missing(rows(endpoints), events)

    def held_at(partition: int, offset: int) -> Any:
        try:
            return (record := reader.record(partition, offset)) and record.value
        except Unavailable as error:
            return error.message

    held = {number: held_at(*place) for number, place in list(lost.items())[:9]}
    servers.kill("head")
    servers.start("head")
    landed = within(60, lambda: landed_all(endpoints, events))
    for process in landers:
        process.kill()
    said = [process.said[-5:] for process in landers]
    at = positions(TableReader(EVENT_ROWS, endpoints, METER).snapshot_properties(), EVENTS.name)
    told = f"missing {lost}\nhead has of them {held}\nspans {reader.spans()}\npositions {at}\nlanders said {said}"
    return f"{told}\nlanded after the broker was started anew: {landed}"


@pytest.mark.soak(minutes=11)
@pytest.mark.timeout(3600)
def test_ten_minutes_of_kills_while_events_land(tmp_path: Path, within: Any) -> None:
    """Two landers follow, events keep coming, and every few seconds one of landers, broker and object store is killed."""
    seconds = float(os.environ.get("HEADRACE_SOAK_SECONDS", "600"))
    dice = random.Random(int(os.environ.get("HEADRACE_SOAK_SEED", "7")))
    servers = Servers(tmp_path / "servers")
    landers: list[Lander] = []
    try:
        endpoints = servers.endpoints
        topic(endpoints).ensure()
        events = Events(endpoints)  # only what was acknowledged counts, and where
        stop = threading.Event()

        def produce() -> None:
            writer = TopicWriter(EVENTS, endpoints, METER)
            while not stop.is_set():
                numbers = range(events.sent, events.sent + 20)
                events.sent += 20
                with contextlib.suppress(Unavailable):
                    places = writer.append([{"n": n, "text": f"event {n}"} for n in numbers], key="n")
                    events.places.update(zip(numbers, places, strict=True))
                time.sleep(0.05)

        producing = threading.Thread(target=produce)
        producing.start()
        landers += [Lander(endpoints, follow=True, commit_s=1.0) for _ in range(2)]
        kills: Counter[str] = Counter()
        maintenance_at = time.monotonic() + 30
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(dice.uniform(1.0, 6.0))
            if time.monotonic() > maintenance_at:  # as a following lander does it, and killed under it as well
                maintenance_at = time.monotonic() + 30
                maintenance = threading.Thread(target=keep, args=(endpoints, tmp_path), daemon=True)
                maintenance.start()
            whom = dice.choice(["lander", "lander", "head", "objects"])
            kills[whom] += 1
            if whom == "lander":
                victim = landers.pop(dice.randrange(len(landers)))
                victim.kill()
                landers.append(Lander(endpoints, follow=True, commit_s=1.0))
                continue
            servers.kill(whom)
            if whom == "objects":
                # As the supervisor does: a Tansu that outlives its store acknowledges what it cannot keep, and may hang later.
                servers.kill("head")
            time.sleep(dice.uniform(0.0, 2.0))
            for part in ("objects", "head"):
                if servers.children[part].ended:
                    servers.start(part)
        stop.set()
        producing.join()
        wanted = len(events.places)
        assert within(120, lambda: landed_all(endpoints, events)), account(servers, events, landers, within)
        for process in landers:
            assert process.finish()["refused"] == []
        landers.clear()
        print(f"{sum(kills.values())} kills {dict(kills)}, {wanted} events acknowledged, {len(rows(endpoints))} landed")
        assert min(kills.values()) > 0
        assert_exactly_once(endpoints, events)
    finally:
        for process in landers:
            process.kill()
        servers.close()
