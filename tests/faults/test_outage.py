"""`headrace up` while what it stands on is frozen, killed or refuses: what it says, what it answers, and how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Home, clear, new_home
from disk import Disk, mounted
from serving import Api, served
from shell import as_json, run
from traffic import until

from headrace.answering.engine import QueryEngine
from headrace.answering.unrecorded import NOTE, Unrecorded, record_late
from headrace.catalog import CHUNKS, INTERACTIONS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import HeadraceError
from headrace.landing.land import land
from headrace.platform.address import brought, overlay
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.readiness import DEADLINE_S
from headrace.settings import Inference, Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.handles import VectorReader

PUMP = b"# The pump\n\nThe pump of the northern station was greased on day 12 by crew 7.\n"
QUESTION = {"question": "On which day was the pump of the northern station greased?"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, handbook: Path) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("outage")
    home = new_home(folder, None, handbook)
    try:
        with served(home, folder / "log") as service:
            client = service.client(service.keys["acme"])
            client.put("/v1/documents/pump.md", content=PUMP).raise_for_status()
            assert service.indexed(client, "pump.md")["status"] == "indexed"
            client.post("/v1/ask", json=QUESTION).raise_for_status()  # everything that answers is open
            yield service
    finally:
        clear(home)


@pytest.fixture
def acme(service: Api) -> httpx.Client:
    until(60, lambda: health(service)["status"] == "ok", lambda: health(service))  # whatever another test did to it
    return service.client(service.keys["acme"])


def health(service: Api) -> dict[str, Any]:
    found: dict[str, Any] = service.client().get("/health/ready").json()
    return found


def wanting(service: Api) -> dict[str, dict[str, Any]]:
    """The parts that are not ready."""
    return {part["part"]: part for part in health(service)["parts"] if not part["ready"]}


def metric(service: Api, name: str) -> float:
    text = service.client().get("/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


def pid(service: Api, part: str) -> int:
    state = read_state(PlatformHome(service.home.path))
    assert state is not None
    return state.children[part].pid


@contextmanager
def frozen(service: Api, part: str) -> Iterator[None]:
    number = pid(service, part)
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


@pytest.fixture
def runner(service: Api, tmp_path: Path) -> Runner:
    assert service.models is not None
    chosen = Settings(home=service.home.path, models=service.models.models)
    return Runner(Run("test", tmp_path), overlay(service.endpoints, brought(chosen)))


def test_everything_is_ready_and_says_so_everywhere(service: Api, acme: httpx.Client) -> None:
    answer = service.client().get("/health/ready")
    names = {part["part"] for part in answer.json()["parts"]}
    assert names == {
        "platform",
        "disk",
        "objects",
        "head",
        "metadata",
        "embedder",
        "reranker",
        "generator",
        "landing",
        "indexing",
    }
    assert (answer.status_code, wanting(service)) == (200, {})
    for name in names:
        assert metric(service, f'headrace_up{{part="{name}"}}') == 1.0
    assert metric(service, "headrace_indexing_failing") == metric(service, "headrace_landing_failing") == 0.0
    shown = as_json(service.home, "status")
    assert (shown["status"], shown["index"].keys()) == ("ok", {"waiting", "lag_s"})


def test_a_home_in_which_nothing_runs_is_not_ready(tmp_path: Path, handbook: Path) -> None:
    home: Home = new_home(tmp_path, None, handbook)
    said = run(home, "status", code=1).stdout
    assert "platform" in said
    assert f"headrace --home {home.path} up" in said
    assert home.processes() == [], "asking starts nothing"


def test_answers_are_given_while_the_head_is_frozen_and_recorded_once_when_it_is_back(service: Api, acme: httpx.Client) -> None:
    given = []
    with frozen(service, "head"):
        for path in ("/v1/ask", "/v1/search", "/v1/ask"):
            answer = acme.post(path, json=QUESTION)
            assert answer.status_code == 200, answer.text
            assert NOTE in answer.json()["note"]
            given.append(answer.json()["answer_id"])
        assert metric(service, "headrace_unrecorded_answers") == 3.0
        assert len(list((service.home.path / "unrecorded").glob("*.json"))) == 3
        assert wanting(service)["head"]["state"] == "does not list its topics"
        refused = service.client().get("/health/ready")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert "127.0.0.1" not in refused.text
    until(60, lambda: metric(service, "headrace_unrecorded_answers") == 0.0, service.log.read_text)
    assert acme.post("/v1/feedback", json={"answer_id": given[0], "up": True}).status_code == 200
    straight = acme.post("/v1/ask", json=QUESTION).json()
    assert "note" not in straight
    given.append(straight["answer_id"])
    names = ", ".join(f"'{name}'" for name in given)

    def landed() -> list[str]:
        return [row["answer_id"] for row in service.sql(f"SELECT answer_id FROM interactions WHERE answer_id IN ({names})")]

    until(60, lambda: len(landed()) >= len(given), service.log.read_text)
    assert sorted(landed()) == sorted(given), "each once"


def test_answers_that_waited_when_their_process_ended_are_recorded_by_the_next_once_each(
    service: Api, acme: httpx.Client, runner: Runner, tmp_path: Path
) -> None:
    """Of one the head has acknowledged nothing and holds it all the same, of another it has landed already."""
    kept = Unrecorded(tmp_path)
    kept.away = True
    engine = QueryEngine(runner, Inference(), kept)
    ids = [engine.search("pump", tenant="acme", user="ann").answer_id for _ in range(4)]
    rows = [kept.find(one) for one in ids]
    runner.run(record_late, rows=rows[:1])
    runner.run(land)
    runner.run(record_late, rows=rows[1:2])
    again = Unrecorded(tmp_path)
    assert again.record(runner) == 2
    assert (len(again), again.record(runner)) == (0, 0)
    runner.run(land)
    names = ", ".join(f"'{name}'" for name in ids)
    found = service.sql(f'SELECT answer_id, "user", run FROM {INTERACTIONS.name} WHERE answer_id IN ({names})')
    assert sorted(row["answer_id"] for row in found) == sorted(ids)
    assert {row["run"] for row in found} == {runner.record.id}


def test_nothing_is_a_500_while_the_object_store_is_killed(service: Api, acme: httpx.Client) -> None:
    vectors = VectorReader(CHUNKS, service.endpoints, Meter(Ledger(), "test"))
    assert vectors.version().startswith("g1.")
    ended, unforeseen = threading.Event(), []

    def watch() -> None:
        while not ended.is_set():
            for ask in (vectors.version, vectors.width, vectors.count):
                try:
                    ask()
                except HeadraceError:
                    pass
                except Exception as error:
                    unforeseen.append(error)

    asks: list[Callable[[], httpx.Response]] = [
        lambda: acme.post("/v1/ask", json=QUESTION),
        lambda: acme.post("/v1/search", json=QUESTION),
        lambda: acme.get("/v1/index"),
        lambda: acme.get("/v1/documents"),
        lambda: acme.put("/v1/documents/other.md", content=b"# Other\n\nAnother text."),
    ]
    watching = threading.Thread(target=watch)
    watching.start()
    found: list[httpx.Response] = []

    def asking(ask: Callable[[], httpx.Response]) -> None:
        for _ in range(3):
            found.append(ask())

    threads = [threading.Thread(target=asking, args=(ask,)) for ask in asks]
    try:
        os.kill(pid(service, "objects"), signal.SIGKILL)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(90, lambda: health(service)["status"] == "ok", lambda: health(service))
    finally:
        ended.set()
        watching.join()
    assert not unforeseen
    assert {answer.status_code for answer in found} <= {200, 202, 429, 503}, [answer.text for answer in found]
    assert all("retry-after" in answer.headers for answer in found if answer.status_code in (429, 503))
    assert acme.post("/v1/ask", json=QUESTION).status_code == 200


def test_a_frozen_object_store_is_named_within_the_deadline_and_is_ready_when_it_goes_on(
    service: Api, acme: httpx.Client
) -> None:
    with frozen(service, "objects"):
        started = time.monotonic()
        until(60, lambda: "objects" in wanting(service), lambda: health(service))
        assert wanting(service)["objects"]["remedy"]
        # One look may have been under way, and each takes its deadline at most; a busy machine takes its time.
        assert time.monotonic() - started < 4 * DEADLINE_S
        assert service.client().get("/health/live").json()["status"] == "ok"
    until(60, lambda: health(service)["status"] == "ok", lambda: health(service))
    assert acme.post("/v1/ask", json=QUESTION).status_code == 200


@pytest.mark.soak(minutes=0.4)
def test_what_holds_others_up_is_left_out_by_a_command(service: Api, acme: httpx.Client) -> None:
    acme.put("/v1/documents/heavy.md", content=b"# Heavy\n\nIt holds others up.").raise_for_status()
    assert service.indexed(acme, "heavy.md")["status"] == "indexed"
    said = run(service.home, "index", "--tenant", "acme", "--skip", "heavy.md", "--reason", "too heavy").stderr
    assert "heavy.md is left out until it is put again" in said
    until(60, lambda: acme.get("/v1/documents/heavy.md").json()["status"] == "failed", service.log.read_text)
    assert acme.get("/v1/documents/heavy.md").json()["reason"].endswith(": too heavy")
    assert acme.put("/v1/documents/heavy.md", content=b"# Heavy\n\nIt holds others up.").status_code == 202
    until(60, lambda: acme.get("/v1/documents/heavy.md").json()["status"] == "indexed", service.log.read_text)
    place = f"feedback/0/{10**9}"
    assert f"{place} becomes a dead letter" in run(service.home, "land", "--once", "--skip", place, "--reason", "why").stderr
    assert "There is no partition" in run(service.home, "land", "--once", "--skip", "nowhere/0/1", code=1).stderr
    assert "There is nothing to index" in run(service.home, "index", code=2).stderr


def test_indexing_that_is_held_up_says_since_when_and_goes_on(service: Api, acme: httpx.Client) -> None:
    assert service.models is not None
    service.models.refused = {"": 401}  # a key that is no longer right: no document's fault
    try:
        acme.put("/v1/documents/held.md", content=b"# Held\n\nIt is held up.").raise_for_status()
        until(60, lambda: "indexing" in wanting(service), lambda: health(service))
        first = wanting(service)["indexing"]
        assert first["state"] == "fails and is tried again (RequestRefused)"
        assert metric(service, "headrace_indexing_failing") == 1.0
        assert metric(service, 'headrace_up{part="indexing"}') == 0.0
        said = run(service.home, "status", code=1).stdout
        assert "headrace index --skip" in said
        time.sleep(1.1)
        assert wanting(service)["indexing"]["for_s"] > first["for_s"]
    finally:
        service.models.refused = {}
    assert service.indexed(acme, "held.md")["status"] == "indexed"
    until(60, lambda: not wanting(service), lambda: health(service))


def test_a_document_that_the_embedder_refuses_is_failed_in_its_status(service: Api, acme: httpx.Client) -> None:
    assert service.models is not None
    service.models.refused = {"xenolith": 400}
    try:
        acme.put("/v1/documents/stone.md", content=b"# Stone\n\nA xenolith.").raise_for_status()
        assert acme.put("/v1/documents/sand.md", content=b"# Sand\n\nA dune.").status_code == 202
        found = service.indexed(acme, "stone.md")
        assert (found["status"], found["reason"]) == ("failed", "the embedder rejected a passage of it (400)")
        assert service.indexed(acme, "sand.md")["status"] == "indexed"
    finally:
        service.models.refused = {}
    assert acme.put("/v1/documents/stone.md", content=b"# Stone\n\nA xenolith.").status_code == 202
    until(60, lambda: acme.get("/v1/documents/stone.md").json()["status"] == "indexed", service.log.read_text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=700) as disk:
        yield disk
        clear(Home(disk.path / "home", disk.path))


@pytest.mark.soak(minutes=1)
def test_a_full_disk_is_507_for_everything_that_writes_and_what_is_full_no_longer_answers(
    small_disk: Disk, tmp_path: Path, handbook: Path
) -> None:
    home = new_home(small_disk.path, None, handbook)
    with served(home, tmp_path / "log") as service:
        client = service.client(service.keys["acme"])
        client.put("/v1/documents/pump.md", content=PUMP).raise_for_status()
        assert service.indexed(client, "pump.md")["status"] == "indexed"
        answer = client.post("/v1/ask", json=QUESTION).raise_for_status().json()
        small_disk.fill()
        assert wanting(service)["disk"]["state"] == "is full"
        asks = (
            lambda: client.put("/v1/documents/more.md", content=os.urandom(100_000).hex().encode()),
            lambda: client.post("/v1/ask", json=QUESTION),
            lambda: client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}),
        )
        for ask in asks:
            refused = ask()
            assert refused.status_code == 507, refused.text
            assert str(small_disk.path) not in refused.text
        small_disk.free()
        until(90, lambda: health(service)["status"] == "ok", lambda: health(service))
        until(60, lambda: client.post("/v1/ask", json=QUESTION).status_code == 200, service.log.read_text)
        assert client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}).status_code == 200
