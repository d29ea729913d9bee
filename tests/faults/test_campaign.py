"""Ten minutes of faults under a `headrace up` that people use: nothing acknowledged is lost, and each outage ends unaided.

`make soak K=campaign` prints a table of what each kind of fault did.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from confluent_kafka import Producer
from conftest import clear, new_home
from disk import Disk, mounted
from serving import Api, started
from signed import signed

from headrace.catalog import DOCUMENT_EVENTS, FEEDBACK, INTERACTIONS
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.scheduler import status

SECONDS = float(os.environ.get("HEADRACE_SOAK_SECONDS", "600"))
ONLY = os.environ.get("HEADRACE_SOAK_FAULTS", "").split(",")
"""Words of the faults to try, such as `objects,disk`; all of them where none is named."""
SEED = int(os.environ.get("HEADRACE_SOAK_SEED", "7"))
OUTAGE_S = 15.0
"""A fault that has ended, or a process that was killed, must be past after so many seconds."""
GIVEN_UP_S = 120.0
NOTICED_S = 3.0
"""Within so many seconds readiness must know of an outage: its checks have deadlines, and their results are kept for a moment."""
SERVERS = ("objects", "head", "models")
QUIET = {
    "HEADRACE_TRAINING__NICE": "10",
    "HEADRACE_TRAINING__THREADS": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MOST_STEPS": "30",
    "HEADRACE_INFERENCE__LEAST_SIMILARITY": "-1",
}


@dataclass
class Outage:
    """A fault, when it began and was over, and when everything answered again (seconds of the monotonic clock)."""

    fault: str
    began: float
    over: float = 0.0
    answered: float = 0.0


@dataclass
class Load:
    """People who put documents, ask and judge, and what was acknowledged to them."""

    service: Api
    documents: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    tried: list[tuple[float, float, str, int]] = field(default_factory=list)
    """When a request began and ended, what it was, and its status; 0 where no answer came."""
    ready: list[tuple[float, int, str]] = field(default_factory=list)
    """What readiness said, and when."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def request(self, what: str, method: str, path: str, **body: Any) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = self._client().request(method, path, **body)
        except httpx.HTTPError:
            self.tried.append((began, time.monotonic(), what, 0))
            return None
        self.tried.append((began, time.monotonic(), what, answer.status_code))
        return answer

    def put(self, number: int) -> bool:
        uri = f"notes/{number}.md"
        text = f"# Note {number}\n\nThe lantern {number} hangs at gate {number % 17} and is lit on day {number % 365}.\n"
        answer = self.request("put", "PUT", f"/v1/documents/{uri}", content=text.encode())
        if answer is not None and answer.status_code == 202:
            self.documents.append(uri)
            return True
        return False

    def ask(self, number: int) -> bool:
        answer = self.request("ask", "POST", "/v1/search", json={"question": f"On which day is the lantern {number} lit?"})
        if answer is None or answer.status_code != 200:
            return answer is not None and answer.status_code == 404  # nothing is indexed yet
        found = answer.json()
        self.answers.append(found["answer_id"])
        if not found.get("note") and found["passages"]:
            given = {"answer_id": found["answer_id"], "chunk_id": found["passages"][0]["chunk_id"], "up": number % 3 > 0}
            judged = self.request("judge", "POST", "/v1/feedback", json=given)
            if judged is not None and judged.status_code == 200:
                self.verdicts.append(judged.json()["verdict_id"])
        return True

    def look(self) -> bool:
        """Whether the service says that it is ready."""
        began = time.monotonic()
        try:
            answer = self._client().get("/health/ready", timeout=10)
        except httpx.HTTPError as error:
            self.ready.append((began, 0, repr(error)))
            return False
        self.ready.append((began, answer.status_code, answer.text))
        return answer.status_code == 200

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Requests of every kind, all the time."""
        count = itertools.count()
        kinds = [(lambda: self.put(next(count)), 0.4), (lambda: self.ask(next(count)), 0.2), (self.look, 0.2)]
        threads = [threading.Thread(target=self._again, args=kind, daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(90)

    def _again(self, what: Callable[[], object], pause_s: float) -> None:
        while not self.stopping.wait(pause_s):
            what()

    def _client(self) -> httpx.Client:
        own = threading.current_thread()
        if not hasattr(own, "client"):
            own.client = self.service.client()  # type: ignore[attr-defined]
        client: httpx.Client = own.client  # type: ignore[attr-defined]
        return client


@pytest.fixture
def service(tmp_path: Path, handbook: Path) -> Iterator[Api]:
    """`headrace up` with its training, in a home on a disk of 1.5 GiB of its own."""
    with mounted(tmp_path / "disk", megabytes=1500) as disk:
        home = new_home(disk.path, None, handbook)
        home.env.update(QUIET)
        try:
            service = started(home, tmp_path / "up.log")
            try:
                yield service
                assert service.stop() == 0, service.log.read_text()
            finally:
                service.kill()
        finally:
            clear(home)


def process(service: Api, name: str) -> psutil.Process:
    """A server, or the training loop, that runs now."""
    if name == "loop":
        return psutil.Process(status.read(service.home.path)["pid"])
    state = read_state(PlatformHome(service.home.path))
    assert state is not None, "the platform's record is gone"
    return psutil.Process(state.children[name].pid)


def kill(service: Api, name: str) -> None:
    process(service, name).send_signal(signal.SIGKILL)


def freeze(service: Api, name: str, seconds: float) -> None:
    frozen = process(service, name)
    frozen.suspend()
    try:
        time.sleep(seconds)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # the supervisor may have had enough of it
            frozen.resume()


def fill_the_disk(service: Api, seconds: float) -> None:
    disk = Disk(service.home.path.parent)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # what was freed meanwhile is filled again
            disk.fill()
            time.sleep(0.05)
    finally:
        disk.free()


def nonsense(service: Api, dice: random.Random) -> None:
    """Signed events that are JSON objects of the right names and the wrong values, to every topic."""
    producer = Producer({"bootstrap.servers": service.endpoints.kafka_bootstrap, "message.timeout.ms": 5000})
    odd: list[Any] = [None, "", "../beta/x", -1, 1e308, "0001-01-01T00:00:00+01:00", ["ann"], {"a": 1}, "\u202e", "x" * 5000]
    for store in (DOCUMENT_EVENTS, INTERACTIONS, FEEDBACK):
        for _ in range(5):
            value = json.dumps({column.name: dice.choice(odd) for column in store.columns}).encode()
            headers = signed(service.endpoints, store.name, value, b"nonsense")
            with contextlib.suppress(BufferError):
                producer.produce(store.name, value=value, key=b"nonsense", headers=headers)
    producer.flush(6)


def faults(service: Api, dice: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """One fault after the other: each kind once in random order, then again."""
    while True:
        kinds: list[tuple[str, Callable[[], None]]] = [
            *((f"kill -9 {name}", lambda name=name: kill(service, name)) for name in (*SERVERS, "loop")),  # type: ignore[misc]
            *((f"freeze {name}", lambda name=name: freeze(service, name, dice.uniform(5, 30))) for name in SERVERS),  # type: ignore[misc]
            ("full disk", lambda: fill_the_disk(service, 8)),
            ("nonsense events", lambda: nonsense(service, dice)),
        ]
        kinds = [kind for kind in kinds if any(word in kind[0] for word in ONLY)]
        dice.shuffle(kinds)
        yield from kinds


def everything_answers(load: Load, since: float) -> bool:
    """Whether a put, a question and readiness that began after `since` have all gone well, and nothing after them has failed."""
    good = {"put": 202, "ask": 200, "judge": 200}
    newest = {what: (began, code) for began, _, what, code in list(load.tried) if began > since}
    fine = all(what in newest and newest[what][1] == good[what] for what in ("put", "ask"))
    return fine and bool(load.ready) and load.ready[-1][0] > since and load.ready[-1][1] == 200


@pytest.mark.soak(minutes=12)
@pytest.mark.timeout(3600)
def test_a_campaign_of_faults_loses_nothing_and_every_outage_ends_unaided(service: Api) -> None:
    dice, load = random.Random(SEED), Load(service)
    outages: list[Outage] = []
    with load.going_on():
        wait(60, lambda: everything_answers(load, 0.0) and len(load.answers) > 5, "it never answered")
        end = time.monotonic() + SECONDS
        for name, fault in faults(service, dice):
            if time.monotonic() > end:
                break
            outage = Outage(name, time.monotonic())
            outages.append(outage)
            fault()
            outage.over = time.monotonic()
            while not everything_answers(load, outage.over) and time.monotonic() < outage.over + GIVEN_UP_S:
                time.sleep(0.1)
            outage.answered = time.monotonic()  # or given up, which is too late; the faults after it are still tried
            time.sleep(dice.uniform(2, 5))
    print(table(load, outages))
    nothing_acknowledged_is_lost_or_doubled(load)
    codes = Counter(code for *_, code in load.tried)
    assert codes[500] == codes[502] == 0, codes
    late = [(outage.fault, round(outage.answered - outage.over, 1)) for outage in outages]
    assert [one for one in late if one[1] > OUTAGE_S] == []
    for outage in outages:
        readiness_told_the_truth(load, outage)


def readiness_told_the_truth(load: Load, outage: Outage) -> None:
    """Where requests failed for a while, readiness said so; and when it had said that all is well, they went well."""
    failed = [
        began
        for began, ended, what, code in load.tried
        if outage.began + NOTICED_S < ended < outage.answered and what != "judge" and code in (0, 503, 507)
    ]
    said = [code for at, code, _ in load.ready if outage.began <= at <= outage.answered]
    if len(failed) > 2:
        assert 503 in said or 0 in said, f"{outage.fault}: {len(failed)} requests failed and it said it was ready"


def nothing_acknowledged_is_lost_or_doubled(load: Load) -> None:
    service, client = load.service, load.service.client()
    for uri in load.documents:
        assert service.indexed(client, uri)["status"] == "indexed", uri

    def held(query: str) -> Counter[str]:
        return Counter(row["name"] for row in service.sql(query))

    wait(90, lambda: set(load.verdicts) <= set(held("SELECT verdict_id AS name FROM feedback")), "verdicts do not land")
    wait(90, lambda: set(load.answers) <= set(held("SELECT answer_id AS name FROM interactions")), "answers do not land")
    for names, query in (
        (load.verdicts, "SELECT verdict_id AS name FROM feedback"),
        (load.answers, "SELECT answer_id AS name FROM interactions"),
        (load.documents, "SELECT uri AS name FROM documents WHERE status = 'parsed'"),
    ):
        counts = held(query)
        assert {name: counts[name] for name in names if counts[name] != 1} == {}


def table(load: Load, outages: list[Outage]) -> str:
    """A line for each kind of fault: how often, how long until all answered again, what clients and readiness said meanwhile."""
    kinds: dict[str, list[Outage]] = defaultdict(list)
    for outage in outages:
        kinds[outage.fault].append(outage)
    lines = [
        "| fault | times | seconds until all answered: median, longest | clients met | readiness said | of |",
        "|---|---|---|---|---|---|",
    ]
    for name, those in sorted(kinds.items()):
        took = [one.answered - one.over for one in those]
        inside = [(one.began, one.answered) for one in those]
        met = Counter(code for began, _, _, code in load.tried if any(a <= began <= b for a, b in inside))
        heard = [(code, text) for at, code, text in load.ready if any(a <= at <= b for a, b in inside)]
        said = Counter(code for code, _ in heard)
        parts = Counter(part for code, text in heard if code == 503 for part in not_ready(text))
        lines.append(
            f"| {name} | {len(those)} | {statistics.median(took):.1f}, {max(took):.1f} | {_counts(met)} | {_counts(said)} |"
            f" {_counts(parts)} |"
        )
    done = f"{len(load.documents)} documents, {len(load.answers)} answers and {len(load.verdicts)} verdicts were acknowledged"
    return "\n".join(["", *lines, "", f"{done}; {len(outages)} faults, seed {SEED}."])


def not_ready(body: str) -> list[str]:
    """The parts that an answer of `/health/ready` names."""
    return [part["part"] for part in json.loads(body)["parts"] if not part["ready"]]


def _counts(met: Counter[Any]) -> str:
    return ", ".join(f"{what or 'no answer'} × {count}" for what, count in sorted(met.items()))


def wait(seconds: float, what: Callable[[], bool], why: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.1)
