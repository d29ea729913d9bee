"""Readiness: each part is asked, none for longer than its deadline, and nobody who asks often costs anything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace import readiness
from headrace.errors import Unavailable
from headrace.platform.address import choose_ports, embedded_endpoints
from headrace.platform.home import Home
from headrace.platform.keys import keys_of
from headrace.platform.state import Process, State, write_state
from headrace.readiness import Ask, PartState, Readiness, Trouble, platform_trouble


def fails() -> None:
    raise Unavailable("http://10.0.0.1:9000 does not answer.")


def test_what_a_part_says_is_told_without_addresses() -> None:
    since = time.monotonic() - 90
    asks = [
        Ask("a", lambda: None, "none"),
        Ask("b", fails, "look at b"),
        Ask("c", lambda: Trouble("is held up", since), "look at c"),
    ]
    a, b, c = Readiness(asks).check()
    assert a == PartState("a")
    assert a.as_dict() == {"part": "a", "ready": True, "state": "ready"}
    assert (b.ready, b.state, b.remedy) == (False, "does not answer (Unavailable)", "look at b")
    told = c.as_dict()
    assert told["for_s"] == 90
    assert abs(datetime.fromisoformat(told["since"]) - (datetime.now(UTC) - timedelta(seconds=90))) < timedelta(seconds=5)


def test_a_part_that_hangs_is_given_up_asked_once_and_believed_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "DEADLINE_S", 0.1)
    shut, begun = threading.Event(), []

    def hang() -> None:
        begun.append(1)
        shut.wait(30)

    ready = Readiness([Ask("quick", lambda: None, ""), Ask("slow", hang, "")])
    try:
        for _ in range(3):
            started = time.monotonic()
            quick, slow = ready.check(0.0)
            assert time.monotonic() - started < 2
            assert quick.ready
            assert slow.state == "does not answer"
        assert len(begun) == 1, "threads do not pile up"
        first = slow.for_s
        assert first is not None
        assert first > 0
    finally:
        shut.set()
    time.sleep(0.05)
    assert ready.check(0.0)[1].ready
    assert len(begun) == 2


def test_who_asks_often_is_told_what_was_said_a_moment_ago() -> None:
    asked = []
    ready = Readiness([Ask("a", lambda: asked.append(1), "")])
    for _ in range(50):
        ready.check(60.0)
    assert len(asked) == 1
    threads = [threading.Thread(target=ready.check, args=(0.0,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ready.recent(60.0) == (PartState("a"),)
    assert ready.recent(0.0) is None


def test_since_is_kept_while_a_part_is_away_and_no_longer() -> None:
    troubles = [Trouble("is away"), Trouble("is away still"), None, Trouble("is away again")]
    ready = Readiness([Ask("a", lambda: troubles.pop(0), "")])
    first, second, third, fourth = (ready.check(0.0)[0] for _ in range(4))
    assert first.for_s is not None
    assert second.for_s is not None
    assert second.for_s > first.for_s
    assert third.ready
    assert fourth.for_s is not None
    assert fourth.for_s < second.for_s


def test_a_part_that_no_command_has_needed_did_not_end(tmp_path: Path) -> None:
    home, here = Home(tmp_path), Process.from_pid(os.getpid())
    home.prepare()
    ports = choose_ports()
    endpoints = embedded_endpoints(home, keys_of(home), ports)
    state = State(supervisor=here, children={"objects": here}, parts=frozenset({"objects"}), ports=ports, endpoints=endpoints)
    write_state(home, state)
    assert platform_trouble(home, frozenset({"objects"})) is None
    wanted = frozenset({"objects", "models"})
    assert platform_trouble(home, wanted) == Trouble("models not started: no command has needed it yet")
    write_state(home, state.model_copy(update={"parts": wanted}))
    assert platform_trouble(home, wanted) == Trouble("models ended and is being restarted")


def test_a_platform_that_does_not_run_is_named(tmp_path: Path, within: Callable[..., bool]) -> None:
    trouble = platform_trouble(Home(tmp_path), frozenset({"objects"}))
    assert trouble == Trouble("the embedded servers do not run")
