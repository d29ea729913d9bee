"""kill -9 of any one process, then the same command again: it completes, nothing lost, nothing doubled.

Each test goes on in one home from kill to kill, so that every next run starts from what the last one left. The stages of the
training pipeline are killed in test_round.py. Demos with the real models are killed in the soak.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import psutil
import pytest
from forks import ForkedProcess
from indexed import assert_indexed
from shell import as_json
from words import Words, words

from headrace.answering.engine import INFERENCE, QueryEngine
from headrace.answering.record import Verdict, feedback
from headrace.catalog import CHECKPOINTS, LANDINGS, MODELS, PROMOTIONS, ROUNDS
from headrace.core.run import Run, recorded, runs
from headrace.core.runner import Runner
from headrace.documents.index import index_documents
from headrace.errors import NothingIndexed
from headrace.landing.land import land
from headrace.platform import open_platform
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.settings import Inference, Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, connect
from headrace.storage.sql import select
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader
from headrace.training import manifest
from headrace.training.manifest import Manifest
from headrace.training.promotions import champion

if TYPE_CHECKING:
    from conftest import Home

QUESTIONS = 16
Moment = Callable[["Home"], bool]


def moved(stage: str) -> Moment:
    """The moment the running demo's journal says that a stage moved something."""

    def seen(home: Home) -> bool:
        return any(j["state"] == "running" and any(row["stage"] == stage for row in j["rows"]) for j in runs(home.path))

    return seen


def appended(topic: str, events: int) -> Moment:
    """The moment the running demo's journal says that it has put that many events on the head."""

    def count(journal: dict[str, Any]) -> int:
        wanted = (topic, "stream", "write")
        return sum(row["ops"] for row in journal["rows"] if (row["store"], row["tier"], row["direction"]) == wanted)

    def seen(home: Home) -> bool:
        return any(j["state"] == "running" and count(j) >= events for j in runs(home.path))

    return seen


def put(name: str) -> Moment:
    """The moment an object whose key matches stands in the bucket."""

    def seen(home: Home) -> bool:
        state = read_state(PlatformHome(home.path))
        if state is None:
            return False
        with contextlib.suppress(obstore.exceptions.BaseError):
            return any(re.search(name, found["path"]) for page in obstore.list(connect(state.endpoints)) for found in page)
        return False

    return seen


def kill(
    home: Home, whom: str, when: Moment, command: list[str | Path] | None = None, then: Callable[[], object] = lambda: None
) -> str:
    """Run the demo, or another command, kill -9 one of its processes at a moment, and return what it said in the end."""
    process = home.start(*(command or home.demo(QUESTIONS)))
    try:
        end = time.monotonic() + 240
        while not when(home):
            assert process.poll() is None, f"it ended before that moment:\n{process.communicate()}"
            assert time.monotonic() < end, "that moment never came"
            time.sleep(0.02)
        if whom == "command":
            victim = process.pid
        else:
            state = read_state(PlatformHome(home.path))
            assert state is not None
            victim = state.supervisor.pid if whom == "supervisor" else state.children[whom].pid
        os.kill(victim, signal.SIGKILL)
        then()
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    if whom == "command":
        assert process.returncode == -signal.SIGKILL
    elif process.returncode == 0:
        assert whom != "supervisor", "it was over already"  # a server is started anew, perhaps before anybody misses it
    else:
        assert process.returncode == 1, out + err
        assert "Traceback" not in err, err
        assert "Unexpected error" not in err, err
        assert re.search(r"run the (same )?command again", err, re.IGNORECASE), err
    return out + err


def given_verdicts(said: list[str]) -> int:
    """Verdicts of demos that were told to be on the head before the demo went on."""
    told = re.findall(r"searches, ([\d,]+) passages liked, ([\d,]+) disliked", "\n".join(said))
    return sum(int(n.replace(",", "")) for pair in told for n in pair)


def assert_whole(home: Home, said: list[str], acknowledged: list[str]) -> Manifest:
    """Nothing lost, nothing doubled; returns the newest manifest."""
    # Events: each landed once, offsets without a gap, and what the head holds is what the tables hold.
    tables = {source: rows.table for source, rows in LANDINGS.items()}
    counts = "union all ".join(
        f"select '{source.name}' as topic, count(*) as rows, count(distinct (topic, partition, \"offset\")) as places,"
        f' min("offset") as low, max("offset") as high from {table} '
        for source, table in tables.items()
    )
    landed = {row.pop("topic"): row for row in home.sql(counts)}
    for topic, row in landed.items():
        assert (row["places"], row["low"], row["high"]) == (row["rows"], 0, row["rows"] - 1), (topic, row)

    with open_platform(Settings.load(home=home.path), parts=frozenset({"objects", "head"})) as endpoints:
        meter = Meter(Ledger(), "test")

        def sql(query: str) -> list[dict[str, Any]]:
            return select(query, endpoints, meter.ledger)

        assert_indexed(sql, endpoints, home.docs)
        verdicts = [row["verdict_id"] for row in sql("select verdict_id from feedback")]
        examples = sql("select dataset, example_id from examples")
        moves = TableReader(PROMOTIONS, endpoints, meter).count()  # a table only once something was promoted
        held = {
            source.name: [v for fetched in TopicReader(source, endpoints, meter).read({0: 0}) for v in fetched.values]
            for source in LANDINGS
        }
        rounds = ObjectReader(ROUNDS, endpoints, meter)
        round_keys = [info.key for info in rounds.list()]
        numbers = manifest.numbers(rounds)
        newest = manifest.read(rounds, numbers[-1])
        manifests = [manifest.read(rounds, number) for number in numbers]
        standing = champion(ObjectReader(MODELS, endpoints, meter))[0]
        weights = {info.key for info in ObjectReader(CHECKPOINTS, endpoints, meter).list() if "/weights/" in info.key}

    for topic, values in held.items():
        assert len(values) == landed[topic]["rows"], f"the head's {topic} and its table differ"
    on_head = [json.loads(value)["verdict_id"] for value in held["feedback"] if value is not None]
    assert sorted(on_head) == sorted(verdicts)
    assert len(set(verdicts)) == len(verdicts)
    assert set(acknowledged) <= set(verdicts)
    assert len(verdicts) >= given_verdicts(said) + len(acknowledged)

    # Rounds: numbered without a gap, one plan and one manifest each, each with its weights.
    assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(round_keys) == sorted(f"{n:06d}{kind}.json" for n in numbers for kind in ("", ".plan"))
    for found in manifests:
        assert any(key.startswith(found.training.weights) for key in weights)
    assert len({(row["dataset"], row["example_id"]) for row in examples}) == len(examples)
    assert {row["dataset"] for row in examples} == {found.dataset.version for found in manifests}
    assert moves == standing.moves
    return newest


def finish(home: Home, said: list[str]) -> None:
    """The same command again, to its end."""
    said.append(home.run(*home.demo(QUESTIONS)).stdout)
    home.run("land", "--once")  # the demo's last answer came after its round had landed the others


def nothing_is_left(home: Home) -> None:
    home.run("down")
    assert [process.cmdline() for process in home.processes()] == []


ASKED = "On which day was the pump of the upper station replaced?"


def killed_before(link: Connection, folder: Path, endpoints: Endpoints, docs: Path, stages: list[str]) -> None:
    """Commands in processes of their own, each killed (-9) before another stage of the inference pipeline."""
    run = Runner.run
    for name in stages:
        if (child := os.fork()) == 0:

            def running(self: Runner, stage: Any, *, last: str = name, **inputs: Any) -> Any:
                if stage.name == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return run(self, stage, **inputs)

            Runner.run = running  # type: ignore[method-assign]
            runner = Runner(Run("index", folder), endpoints)
            index_documents(runner, [docs], tenant="default", settings=Inference())
            asked_and_judged(runner)
            os._exit(0)
        link.send((name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def asked_and_judged(runner: Runner) -> str:
    """The id of an answer that is liked."""
    *_, answer = QueryEngine(runner, Inference()).ask(ASKED, tenant="default", user="ann")
    assert not isinstance(answer, str)
    runner.for_tenant("default").run(feedback, verdicts=[Verdict(answer.answer_id, True, "default", "ann")])
    return answer.answer_id


MOMENTS = ("chunk", "index", "feedback")
"""Stages before which tables, embeddings and an answer have just been written that the next command finds."""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak(minutes=1))])
def test_indexing_and_asking_killed_before_a_stage_lose_and_double_nothing(
    handbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
    stages = [stage.name for stage in INFERENCE.stages if every or stage.name in MOMENTS]
    with words() as models, open_platform(Settings(home=tmp_path / "home", models=models.models)) as endpoints:
        with recorded("ask", tmp_path) as run:
            runner = Runner(run, endpoints)
            with pytest.raises(NothingIndexed, match="No document has been indexed yet"):
                QueryEngine(runner, Inference()).search(ASKED, tenant="default", user="ann")
            children = ForkedProcess(killed_before, tmp_path, endpoints, handbook, stages)
            assert children.wait() == 0, children.said
            assert children.said == [(stage, -signal.SIGKILL) for stage in stages], children.said
            done = index_documents(runner, [handbook], tenant="default", settings=Inference())
            assert (done.put.put, done.put.unchanged, done.chunked.chunks) == (0, 12, 0), "the killed ones did it"
            answer = asked_and_judged(runner)
            runner.run(land)

        def sql(query: str) -> list[dict[str, Any]]:
            return select(query, endpoints, Ledger())

        assert_indexed(sql, endpoints, handbook)
        # Of the questions, that is recorded whose answer was there, and that verdict counts that was given.
        answered = {row["answer_id"] for row in sql("select answer_id from interactions")}
        assert len(answered) == 2, "the last, and the one that was killed before its verdict"
        assert sql("select answer_id, up from feedback") == [{"answer_id": answer, "up": True}]
        assert answer in answered


@pytest.mark.soak(minutes=0.5)
def test_index_is_killed_then_the_supervisor_then_both_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
    command: list[str | Path] = ["index", home.docs]
    with words() as models:
        home.env.update(models.env)
        models.gate.shut()  # each is killed while it embeds
        kill(home, "command", embeds(models), command)
        kill(home, "supervisor", embeds(models), command, models.gate.open)
        models.gate.shut()
        kill_both(home, embeds(models), command)
        models.gate.open()
        done = as_json(home, *command)
        assert (done["put"]["unchanged"], done["index"]["chunks"]) == (12, 72)
        with open_platform(Settings.load(home=home.path, models=models.models)) as endpoints:
            assert_indexed(lambda query: select(query, endpoints, Ledger()), endpoints, home.docs)
        states = [journal["state"] for journal in runs(home.path) if journal["command"] == "index"]
        assert states == ["died", "failed", "died", "done"]
        nothing_is_left(home)


def embeds(models: Words) -> Moment:
    """The moment another request for embeddings of passages is under way."""
    before = models.batches

    def seen(home: Home) -> bool:
        return models.batches > before

    return seen


def kill_both(home: Home, when: Moment, command: list[str | Path]) -> None:
    """The command and the supervisor, at once: the kernel ends the servers."""
    process = home.start(*command)
    try:
        end = time.monotonic() + 60
        while not when(home):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "that moment never came"
            time.sleep(0.02)
        state = read_state(PlatformHome(home.path))
        assert state is not None
        for pid in (state.supervisor.pid, process.pid):
            os.kill(pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=10)
    _, left = psutil.wait_procs(home.processes(), timeout=5)
    assert left == []


@pytest.fixture
def tested(real_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = real_home
    monkeypatch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
    home.env["HEADRACE_TRAINING__RECIPE__RERANKER__BATCH"] = "4"
    return home


@pytest.mark.soak(minutes=6)
@pytest.mark.timeout(1800)
def test_the_command_killed_at_four_moments(tested: Home) -> None:
    home = tested
    said = [kill(home, "command", appended("document-events", 1))]
    said.append(kill(home, "command", appended("interactions", 1 + QUESTIONS // 3)))
    acknowledged = []
    answer = home.json("search", "What was done to the pump?")["answer_id"]
    acknowledged.append(home.json("feedback", answer, "--up")["verdict_id"])
    said.append(kill(home, "command", put(r"checkpoints/.*/latest\.json")))
    said.append(kill(home, "command", put(r"checkpoints/.*/trained\.json")))
    assert all("challenger" not in one for one in said)
    finish(home, said)
    newest = assert_whole(home, said, acknowledged)
    assert newest.round == 1, "the round that was begun was taken up again"
    assert 0 < newest.training.taken < newest.training.steps, "training went on from its checkpoint"
    states = [run["state"] for run in home.json("runs")["runs"] if run["command"] == "demo"]
    assert states == ["done", "died", "died", "died", "died"]
    nothing_is_left(home)


@pytest.mark.soak(minutes=6)
@pytest.mark.timeout(1800)
def test_each_server_killed_in_turn(tested: Home) -> None:
    home = tested
    said = [
        kill(home, "supervisor", put(r"checkpoints/.*/latest\.json")),
        kill(home, "models", moved("rerank")),
        kill(home, "objects", appended("interactions", 1 + QUESTIONS // 3)),
        kill(home, "head", appended("interactions", 1 + QUESTIONS // 3)),
    ]
    finish(home, said)
    assert_whole(home, said, [])
    states = [run["state"] for run in home.json("runs")["runs"] if run["command"] == "demo"]
    assert (states[-1], states[0]) == ("failed", "done")
    assert set(states) == {"failed", "done"}
    nothing_is_left(home)
