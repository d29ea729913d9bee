"""Another index beside the one that answers: no question without an answer, nothing lost at the switch, kill -9 at any moment."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import victims
from forks import ForkedProcess
from words import Words, words

from headrace import cli
from headrace.answering.engine import QueryEngine
from headrace.catalog import CHUNKS, INDEXES
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents import generations as generation
from headrace.documents.generations import begin, index_state, switch
from headrace.documents.index import back, catch_up, fill, index_documents, reindex
from headrace.documents.put import put
from headrace.errors import BadSettings, NotFound
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader

METER = Meter(Ledger(), "test")
SETTINGS = Settings.model_fields["inference"].default
TENANT = "acme"
pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reindex")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        yield folder / "home"


@pytest.fixture(scope="module")
def served() -> Iterator[Words]:
    with words() as served:
        yield served


@pytest.fixture(scope="module")
def endpoints(home: Path, served: Words) -> Iterator[Endpoints]:
    with open_platform(Settings(home=home, models=served.models)) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def runner(endpoints: Endpoints, home: Path) -> Iterator[Runner]:
    with recorded("index", home) as run:
        yield Runner(run, endpoints)


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Path:
    folder = tmp_path_factory.mktemp("files") / "docs"
    folder.mkdir()
    for number in range(4):
        lines = [f"Lock {number}, line {line}: the gate is heavy and the keeper rounds the wheel at dawn." for line in range(9)]
        (folder / f"{number}.md").write_text(f"# Lock {number}\n" + "\n\n".join(lines))
    with pytest.raises(NotFound, match="Nothing is indexed yet"):
        reindex(runner, SETTINGS)
    index_documents(runner, [folder], tenant=TENANT, settings=SETTINGS)
    return folder


def of(tokens: int) -> object:
    return SETTINGS.model_copy(update={"chunk_tokens": tokens})


def now(endpoints: Endpoints) -> int:
    """The generation that is served."""
    served = IndexReader(INDEXES, endpoints, METER).state()[0].serving
    assert served is not None
    return served.number


def asked(engine: QueryEngine, question: str = "who rounds the wheel at dawn?") -> tuple[int, list[str]]:
    """The generation that answered, and the texts it found."""
    answer = engine.search(question, tenant=TENANT, user="ann", record=False)
    number, _, version = answer.index_version.partition(".")
    assert int(version) > 0
    return int(number.removeprefix("g")), [passage.hit.text for passage in answer.passages]


@contextmanager
def polled(engine: QueryEngine, until: Callable[[], int]) -> Iterator[list[tuple[int, int]]]:
    """(generation, passages) of every question asked while the block runs, and on until one is answered by `until()`."""
    told: list[tuple[int, int]] = []
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(0.02):
            number, texts = asked(engine)
            told.append((number, len(texts)))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield told
        deadline = time.monotonic() + 10
        while told[-1][0] != until() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        ended.set()
        thread.join()


def followed(engine: QueryEngine, number: int) -> None:
    """Wait until a generation answers, as it must about a second after it is served."""
    deadline = time.monotonic() + 10
    while asked(engine)[0] != number:
        assert time.monotonic() < deadline


@pytest.mark.soak(minutes=0.4)
def test_the_old_index_answers_until_the_new_one_does_and_can_be_gone_back_to(
    runner: Runner, endpoints: Endpoints, docs: Path
) -> None:
    engine, first = QueryEngine(runner, SETTINGS), now(endpoints)
    longest = max(map(len, asked(engine)[1]))
    with polled(engine, lambda: first + 1) as told:
        done = reindex(runner, of(40))
    assert (done.generation.number, done.generation.window, done.fallback and done.fallback.number) == (first + 1, 40, first)
    generations = [number for number, _ in told]
    assert generations == sorted(generations)
    assert set(generations) == {first, first + 1}
    assert all(count > 0 for _, count in told)
    assert max(map(len, asked(engine)[1])) < longest / 2

    # Back: what changed meanwhile is in the earlier one too, before it answers.
    (docs / "0.md").write_text("# Lock 0\nThe sluice was painted purple in spring.")
    index_documents(runner, [docs], tenant=TENANT, settings=SETTINGS)
    with polled(engine, lambda: first) as told:
        assert back(runner).generation.number == first
    assert {number for number, _ in told} == {first, first + 1}
    assert all(count > 0 for _, count in told)
    number, texts = asked(engine, "which colour is the sluice painted?")
    assert number == first
    assert any("purple" in text for text in texts)
    assert back(runner).generation.number == first + 1, "and forth again"


def test_what_changes_while_another_is_built_is_in_it_at_the_switch(runner: Runner, endpoints: Endpoints, docs: Path) -> None:
    embedder, engine = endpoints.embedder, QueryEngine(runner, SETTINGS)
    to = runner.run(begin, window=48, embedder=embedder)
    fill(runner, to)
    seen = runner.run(index_state)
    (docs / "1.md").write_text("# Lock 1\nThe lantern is made of copper.")
    index_documents(runner, [docs], tenant=TENANT, settings=SETTINGS)
    assert runner.run(switch, to=to, seen=seen) is False, "a pass ended after the last look"
    # A pass that began before the switch and ends after it does its work again, in the new one.
    (docs / "2.md").write_text("# Lock 2\nThe anchor weighs ninety pounds.")
    runner.run(put, tenant=TENANT, places=[docs], most_bytes=10**6)
    switched = []
    catch_up(runner, SETTINGS, after=lambda stage: switched.append(reindex(runner, of(48))) if stage == "embed" else None)
    assert [done.generation for done in switched] == [to], "the one that was begun is gone on with"
    followed(engine, to.number)
    for question, word in (("what is the lantern made of?", "copper"), ("what does the anchor weigh?", "ninety")):
        number, texts = asked(engine, question)
        assert number == to.number
        assert any(word in text for text in texts)
    held = VectorReader(CHUNKS, endpoints, METER, generation=to.number).indexed()["uri"].to_pylist()
    assert set(held) == {f"docs/{path.name}" for path in docs.iterdir()}


def test_killed_anywhere_the_old_index_answers_and_the_next_run_completes(
    runner: Runner,
    endpoints: Endpoints,
    docs: Path,
    home: Path,
    served: Words,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    within: Callable[[float, Callable[[], bool]], bool],
) -> None:
    (docs / "3.md").write_text("\n\n".join(f"# Sill {n}\nThe keeper of sill {n} rounds the wheel at dawn." for n in range(240)))
    index_documents(runner, [docs], tenant=TENANT, settings=SETTINGS)
    monkeypatch.setattr(served, "delay", 0.3)  # so that there is a midst to be killed in
    engine, first = QueryEngine(runner, SETTINGS), now(endpoints)
    indexes = IndexReader(INDEXES, endpoints, METER)
    newest = indexes.state()[0].newest

    def begun() -> bool:
        return indexes.state()[0].building is not None

    def embedding() -> bool:
        return VectorReader(CHUNKS, endpoints, METER, generation=newest + 1).count() > 0

    moments: tuple[Callable[[], bool], ...] = (begun, embedding)
    for moment in moments:
        process = ForkedProcess(victims.reindexing, endpoints, of(36))
        assert within(60, lambda moment=moment, process=process: moment() or process.ended)  # type: ignore[misc]
        process.kill()
        process.killed()
        number, texts = asked(engine)
        assert (now(endpoints), number) == (first, first)
        assert texts
    monkeypatch.undo()
    for name, value in served.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["headrace", "--home", str(home), "reindex", "--chunk-tokens", "36", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["generation"]["number"] == newest + 1, "the one that was begun"
    followed(engine, newest + 1)
    assert now(endpoints) == newest + 1
    held = VectorReader(CHUNKS, endpoints, METER, generation=newest + 1).indexed()
    assert set(held["uri"].to_pylist()) == {f"docs/{path.name}" for path in docs.iterdir()}
    assert len(set(held["chunk_id"].to_pylist())) == held.num_rows


def test_another_embedder_of_another_width_and_what_is_no_fallback_any_more_goes(
    runner: Runner, endpoints: Endpoints, docs: Path, served: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = QueryEngine(runner, SETTINGS)
    monkeypatch.setattr(generation, "_GRACE_S", 0.0)
    before = IndexReader(INDEXES, endpoints, METER).state()[0]
    assert before.serving is not None
    assert before.fallback is not None
    other = ModelEndpoint(url=served.url, model="words-32")
    theirs = Runner(runner.record, endpoints.model_copy(update={"embedder": other}))
    with pytest.raises(BadSettings, match="made with the embedder words-384; the settings name words-32"):
        index_documents(theirs, [docs], tenant=TENANT, settings=SETTINGS)
    done = reindex(theirs, of(64))
    assert (done.generation.embedder, done.generation.width) == ("words-32", 32)
    assert asked(QueryEngine(theirs, SETTINGS))[0] == done.generation.number
    # A process that still has the earlier embedder: half an answer, and it says so.
    followed(old, done.generation.number)
    answer = old.search("who rounds the wheel?", tenant=TENANT, user="ann", record=False)
    assert answer.passages
    assert "full-text search answered alone" in answer.note
    with pytest.raises(BadSettings, match="settings name words-32"):
        back(theirs)
    # What was the fallback before is no fallback now.
    gone = before.fallback.number
    index_documents(theirs, [docs], tenant=TENANT, settings=SETTINGS)
    assert VectorReader(CHUNKS, endpoints, METER, generation=gone).version() == "none"
    assert back(runner).generation == before.serving
    assert asked(old)[1]
