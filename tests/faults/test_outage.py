"""`headrace up` while what it stands on is frozen, killed or refuses: what it says, what it answers, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import needs
import pytest
from conftest import Home, clear, new_home
from serving import Api, served
from traffic import until

from headrace.catalog import CHUNKS, INTERACTIONS
from headrace.errors import HeadraceError
from headrace.head.land import land
from headrace.inference.pipeline import Desk
from headrace.inference.unrecorded import NOTE, Unrecorded, record_late
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.platform.address import brought, overlay
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.readiness import DEADLINE_S
from headrace.settings import Inference, Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors import VectorReader

PUMP = b"# The pump\n\nThe pump of the northern station was greased on day 12 by crew 7.\n"
QUESTION = {"question": "On which day was the pump of the northern station greased?"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, handbook: Path) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("outage")
    home = new_home(folder, None, handbook)
    try:
        with served(home, folder / "log") as api:
            client = api.client(api.keys["acme"])
            client.put("/v1/documents/pump.md", content=PUMP).raise_for_status()
            assert api.indexed(client, "pump.md")["status"] == "indexed"
            client.post("/v1/ask", json=QUESTION).raise_for_status()  # everything that answers is open
            yield api
    finally:
        clear(home)


@pytest.fixture
def acme(api: Api) -> httpx.Client:
    until(60, lambda: health(api)["status"] == "ok", lambda: health(api))  # whatever another test did to it
    return api.client(api.keys["acme"])


def health(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.client().get("/health/ready").json()
    return found


def wanting(api: Api) -> dict[str, dict[str, Any]]:
    """The parts that are not ready."""
    return {part["part"]: part for part in health(api)["parts"] if not part["ready"]}


def metric(api: Api, name: str) -> float:
    text = api.client().get("/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


def pid(api: Api, part: str) -> int:
    state = read_state(PlatformHome(api.home.path))
    assert state is not None
    return state.children[part].pid


@contextmanager
def frozen(api: Api, part: str) -> Iterator[None]:
    number = pid(api, part)
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


@pytest.fixture
def runner(api: Api, tmp_path: Path) -> Runner:
    assert api.models is not None
    chosen = Settings(home=api.home.path, models=api.models.models)
    return Runner(Run("test", tmp_path), overlay(api.endpoints, brought(chosen)))


def test_everything_is_ready_and_says_so_everywhere(api: Api, acme: httpx.Client) -> None:
    answer = api.client().get("/health/ready")
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
    assert (answer.status_code, wanting(api)) == (200, {})
    for name in names:
        assert metric(api, f'headrace_up{{part="{name}"}}') == 1.0
    assert metric(api, "headrace_indexing_failing") == metric(api, "headrace_landing_failing") == 0.0
    assert api.home.json("status")["status"] == "ok"


def test_a_home_in_which_nothing_runs_is_not_ready(tmp_path: Path, handbook: Path) -> None:
    home: Home = new_home(tmp_path, None, handbook)
    said = home.run("status", code=1).stdout
    assert "platform" in said
    assert "headrace up" in said
    assert home.processes() == [], "asking starts nothing"


def test_answers_are_given_while_the_head_is_frozen_and_recorded_once_when_it_is_back(api: Api, acme: httpx.Client) -> None:
    given = []
    with frozen(api, "head"):
        for path in ("/v1/ask", "/v1/search", "/v1/ask"):
            answer = acme.post(path, json=QUESTION)
            assert answer.status_code == 200, answer.text
            assert NOTE in answer.json()["note"]
            given.append(answer.json()["answer_id"])
        assert metric(api, "headrace_unrecorded_answers") == 3.0
        assert len(list((api.home.path / "unrecorded").glob("*.json"))) == 3
        assert wanting(api)["head"]["state"] == "does not tell its topics"
        refused = api.client().get("/health/ready")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert "127.0.0.1" not in refused.text
    until(60, lambda: metric(api, "headrace_unrecorded_answers") == 0.0, api.log.read_text)
    assert acme.post("/v1/feedback", json={"answer_id": given[0], "up": True}).status_code == 200
    straight = acme.post("/v1/ask", json=QUESTION).json()
    assert "note" not in straight
    given.append(straight["answer_id"])
    names = ", ".join(f"'{name}'" for name in given)

    def landed() -> list[str]:
        return [row["answer_id"] for row in api.sql(f"SELECT answer_id FROM interactions WHERE answer_id IN ({names})")]

    until(60, lambda: len(landed()) >= len(given), api.log.read_text)
    assert sorted(landed()) == sorted(given), "each once"


def test_answers_that_waited_when_their_process_ended_are_recorded_by_the_next_once_each(
    api: Api, acme: httpx.Client, runner: Runner, tmp_path: Path
) -> None:
    """Of one the head has acknowledged nothing and holds it all the same, of another it has landed already."""
    kept = Unrecorded(tmp_path)
    kept.away = True
    desk = Desk(runner, Inference(), kept)
    ids = [desk.search("pump", tenant="acme", user="ann").answer_id for _ in range(4)]
    rows = [kept.find(one) for one in ids]
    runner.run(record_late, rows=rows[:1])
    runner.run(land)
    runner.run(record_late, rows=rows[1:2])
    again = Unrecorded(tmp_path)
    assert again.record(runner) == 2
    assert (len(again), again.record(runner)) == (0, 0)
    runner.run(land)
    names = ", ".join(f"'{name}'" for name in ids)
    found = api.sql(f'SELECT answer_id, "user", run FROM {INTERACTIONS.name} WHERE answer_id IN ({names})')
    assert sorted(row["answer_id"] for row in found) == sorted(ids)
    assert {row["run"] for row in found} == {runner.record.id}


def test_nothing_is_a_500_while_the_object_store_is_killed(api: Api, acme: httpx.Client) -> None:
    vectors = VectorReader(CHUNKS, api.endpoints, Meter(Ledger(), "test"))
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
        lambda: acme.get("/v1/standing"),
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
        os.kill(pid(api, "objects"), signal.SIGKILL)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(90, lambda: health(api)["status"] == "ok", lambda: health(api))
    finally:
        ended.set()
        watching.join()
    assert not unforeseen
    assert {answer.status_code for answer in found} <= {200, 202, 429, 503}, [answer.text for answer in found]
    assert all("retry-after" in answer.headers for answer in found if answer.status_code in (429, 503))
    assert acme.post("/v1/ask", json=QUESTION).status_code == 200


def test_a_frozen_object_store_is_named_within_the_deadline_and_is_ready_when_it_goes_on(api: Api, acme: httpx.Client) -> None:
    with frozen(api, "objects"):
        started = time.monotonic()
        until(30, lambda: "objects" in wanting(api), lambda: health(api))
        assert wanting(api)["objects"]["remedy"]
        # One look may have been under way, and each takes its deadline at most; a busy machine takes its time.
        assert time.monotonic() - started < 4 * DEADLINE_S
        assert api.client().get("/health/live").json()["status"] == "ok"
    until(60, lambda: health(api)["status"] == "ok", lambda: health(api))
    assert acme.post("/v1/ask", json=QUESTION).status_code == 200


def test_what_holds_others_up_is_left_out_by_a_command(api: Api, acme: httpx.Client) -> None:
    acme.put("/v1/documents/heavy.md", content=b"# Heavy\n\nIt holds others up.").raise_for_status()
    assert api.indexed(acme, "heavy.md")["status"] == "indexed"
    said = api.home.run("index", "--tenant", "acme", "--skip", "heavy.md", "--reason", "too heavy").stderr
    assert "heavy.md is left out until it is put again" in said
    until(30, lambda: acme.get("/v1/documents/heavy.md").json()["status"] == "failed", api.log.read_text)
    assert acme.get("/v1/documents/heavy.md").json()["reason"].endswith(": too heavy")
    assert acme.put("/v1/documents/heavy.md", content=b"# Heavy\n\nIt holds others up.").status_code == 202
    until(30, lambda: acme.get("/v1/documents/heavy.md").json()["status"] == "indexed", api.log.read_text)
    place = f"feedback/0/{10**9}"
    assert f"{place} becomes a dead letter" in api.home.run("land", "--once", "--skip", place, "--reason", "why").stderr
    assert "There is no partition" in api.home.run("land", "--once", "--skip", "nowhere/0/1", code=1).stderr
    assert "Nothing to index" in api.home.run("index", code=2).stderr


def test_indexing_that_is_held_up_says_since_when_and_goes_on(api: Api, acme: httpx.Client) -> None:
    assert api.models is not None
    api.models.refused = {"": 401}  # a key that is no longer right: no document's fault
    try:
        acme.put("/v1/documents/held.md", content=b"# Held\n\nIt is held up.").raise_for_status()
        until(30, lambda: "indexing" in wanting(api), lambda: health(api))
        first = wanting(api)["indexing"]
        assert first["state"] == "is held up and tried again (RequestRefused)"
        assert metric(api, "headrace_indexing_failing") == 1.0
        assert metric(api, 'headrace_up{part="indexing"}') == 0.0
        said = api.home.run("status", code=1).stdout
        assert "headrace index --skip" in said
        time.sleep(1.1)
        assert wanting(api)["indexing"]["for_s"] > first["for_s"]
    finally:
        api.models.refused = {}
    assert api.indexed(acme, "held.md")["status"] == "indexed"
    until(30, lambda: not wanting(api), lambda: health(api))


def test_a_document_that_the_embedder_refuses_is_failed_in_its_status(api: Api, acme: httpx.Client) -> None:
    assert api.models is not None
    api.models.refused = {"xenolith": 400}
    try:
        acme.put("/v1/documents/stone.md", content=b"# Stone\n\nA xenolith.").raise_for_status()
        assert acme.put("/v1/documents/sand.md", content=b"# Sand\n\nA dune.").status_code == 202
        found = api.indexed(acme, "stone.md")
        assert (found["status"], found["reason"]) == ("failed", "the embedder refused a passage of it (400)")
        assert api.indexed(acme, "sand.md")["status"] == "indexed"
    finally:
        api.models.refused = {}
    assert acme.put("/v1/documents/stone.md", content=b"# Stone\n\nA xenolith.").status_code == 202
    until(30, lambda: acme.get("/v1/documents/stone.md").json()["status"] == "indexed", api.log.read_text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 700 MiB."""
    needs.require(os.geteuid() == 0, "Mounting a small disk takes root.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m", "tmpfs", disk], check=True)
    yield disk
    clear(Home(disk / "home", disk))
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.soak(minutes=1)
def test_a_full_disk_is_507_for_everything_that_writes_and_what_is_full_no_longer_answers(
    small_disk: Path, tmp_path: Path, handbook: Path
) -> None:
    home = new_home(small_disk, None, handbook)
    with served(home, tmp_path / "log") as api:
        client = api.client(api.keys["acme"])
        client.put("/v1/documents/pump.md", content=PUMP).raise_for_status()
        assert api.indexed(client, "pump.md")["status"] == "indexed"
        answer = client.post("/v1/ask", json=QUESTION).raise_for_status().json()
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        assert wanting(api)["disk"]["state"] == "is full"
        asks = (
            lambda: client.put("/v1/documents/more.md", content=os.urandom(100_000).hex().encode()),
            lambda: client.post("/v1/ask", json=QUESTION),
            lambda: client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}),
        )
        for ask in asks:
            refused = ask()
            assert refused.status_code == 507, refused.text
            assert str(small_disk) not in refused.text
        ballast.unlink()
        until(90, lambda: health(api)["status"] == "ok", lambda: health(api))
        until(60, lambda: client.post("/v1/ask", json=QUESTION).status_code == 200, api.log.read_text)
        assert client.post("/v1/feedback", json={"answer_id": answer["answer_id"], "up": True}).status_code == 200
