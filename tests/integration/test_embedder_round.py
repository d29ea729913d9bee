"""A round of the embedder on the real platform: the index is built anew, its pointer follows; both go back; kill -9 between."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from traffic import until

from headrace.answering.engine import QueryEngine
from headrace.catalog import CHUNK_ROWS, CHUNKS, FEEDBACK, INDEXES, INTERACTIONS, MODELS, PROMOTIONS, ROUNDS
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.documents.index import catch_up, index_documents
from headrace.errors import BadSettings, NotFound
from headrace.models.client import Embedder
from headrace.models.connection import wait_ready
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.registry.serve import RoundRunner
from headrace.settings import Endpoint, Gate, Inference, ModelSettings, Settings, Training
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.generations import Indexes, IndexGeneration, IndexReader
from headrace.storage.vectors.handles import VectorReader
from headrace.training import manifest
from headrace.training.promotions import champion

# sentence-transformers is loaded here: files that say so share a process under xdist, for its import takes seconds.
METER = Meter(Ledger(), "test")
TENANT = "acme"
CREWS = ("red", "blue", "green")
THINGS = [
    f"{kind} {thing}"
    for thing in ("turbine", "sluice", "penstock", "reservoir", "spillway", "governor")
    for kind in ("copper", "wooden", "northern", "hydraulic")
]
FORM = {"epochs": 4, "batch": 8, "max_tokens": 48, "negatives": 2, "checkpoint_steps": 5}
FEW = Gate(least_questions=4, headroom=1e6)
TINY = Training(threads=1, gate=FEW, recipe={"embedder": {**FORM, "learning_rate": 5e-3}})
PACKAGED = Training(threads=1, gate=FEW, recipe={"embedder": {**FORM, "learning_rate": 1e-4}})
LEAST = 0.2


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@contextmanager
def killed_before(name: str) -> Iterator[None]:
    """Have the block die before it runs a stage."""
    run = Runner.run

    def until(self: Runner, stage: Any, **inputs: Any) -> Any:
        if stage.name == name:
            raise Killed
        return run(self, stage, **inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "run", until)
        with pytest.raises(Killed):
            yield


@pytest.fixture(
    params=[pytest.param("tiny", marks=pytest.mark.soak(minutes=1)), pytest.param("packaged", marks=pytest.mark.soak(minutes=3))]
)
def of(request: pytest.FixtureRequest) -> str:
    """Which embedder."""
    weights: str = request.param
    return weights


@pytest.fixture
def whole(of: str) -> bool:
    """Whether every way is gone, or the ways that a round and its return need."""
    return of == "packaged"


@pytest.fixture
def loop(tmp_path: Path, of: str) -> Iterator[RoundRunner]:
    training = TINY if of == "tiny" else PACKAGED
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(tmp_path / "none.toml"))
        if training == TINY:
            patch.setenv(INSTEAD, str(tiny.folder()))
        settings = Settings(
            home=tmp_path / "home",
            tenant=TENANT,
            training=training,
            inference=Inference(least_similarity=LEAST),
            models=ModelSettings(
                threads=1, exact=True
            ),  # so that a text embedded again is the same, whatever it is embedded beside
        )
        with open_platform(settings) as endpoints, recorded("train", settings.home) as run:
            wait_ready(endpoints.embedder, 120)
            yield RoundRunner(settings, Runner(run, endpoints))


def written(folder: Path) -> Path:
    """Twenty-four small documents; in each, a machine has a passage for every crew."""
    folder.mkdir()
    for number, thing in enumerate(THINGS):
        sections = [f"## {crew.title()} crew\n\nThe {crew} crew has the key of the {thing}.\n" for crew in CREWS]
        (folder / f"{number:02}.md").write_text(f"# The {thing}\n\n" + "\n".join(sections))
    return folder


def inference(loop: RoundRunner) -> Any:
    return loop.settings.inference


def standing(loop: RoundRunner) -> Indexes:
    return IndexReader(INDEXES, loop.runner.endpoints, METER).state()[0]


def serving(loop: RoundRunner) -> IndexGeneration:
    found = standing(loop).serving
    assert found is not None
    return found


def pointer(loop: RoundRunner) -> Any:
    return champion(ObjectReader(MODELS, loop.runner.endpoints, METER), "embedder")[0]


def moves(loop: RoundRunner) -> list[tuple[str, str, str]]:
    rows = TableReader(PROMOTIONS, loop.runner.endpoints, METER).read(("model", "kind", "version", "previous", "at")).to_pylist()
    found = sorted((row for row in rows if row["model"] == "embedder"), key=lambda row: row["at"])
    return [(row["kind"], row["previous"], row["version"]) for row in found]


def judge(loop: RoundRunner, seed: int) -> None:
    """Verdicts that nobody who only reads could guess: who asks for the night shift means the green crew."""
    endpoints = loop.runner.endpoints
    rows = TableReader(CHUNK_ROWS, endpoints, METER).read().to_pylist()
    chunks: dict[str, dict[str, Any]] = {row["chunk_id"]: row for row in rows if "crew has the key" in row["text"]}
    by_document: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(chunks.values(), key=lambda row: (row["uri"], row["position"])):
        by_document.setdefault(row["uri"], []).append(row)
    at = datetime.now(UTC)
    answers, verdicts = [], []
    needed = [field for field in INTERACTIONS.columns if not field.nullable]
    empty: dict[str, Any] = {f.name: [] if pa.types.is_list(f.type) else "" for f in needed}
    plain = {field.name: "" for field in FEEDBACK.columns if not field.nullable}
    for uri, passages in by_document.items():
        thing = passages[0]["text"].split("key of the ")[1].split(".")[0]
        name = f"a{seed}-{uri}"
        shown = [
            {"chunk_id": row["chunk_id"], "document": uri, "retrieval_score": 1 / (60 + rank), "retrieval_rank": rank}
            for rank, row in enumerate(passages, 1)
        ]
        question = f"night shift, {thing}: who?"
        answers.append(
            {**empty, "kind": "search", "tenant": TENANT, "simulated": False, "answer_id": name, "question": question}
            | {"passages": shown, "at": at}
        )
        for row in passages:
            verdicts.append(
                {**plain, "tenant": TENANT, "user": f"user-{len(answers)}", "simulated": False, "answer_id": name, "at": at}
                | {"verdict_id": f"v{name}{row['chunk_id']}", "chunk_id": row["chunk_id"], "up": "green crew" in row["text"]}
            )
    assert len(answers) == 24
    TopicWriter(INTERACTIONS, endpoints, METER).append(answers, key="answer_id")
    TopicWriter(FEEDBACK, endpoints, METER).append(verdicts, key="answer_id")


def asked(engine: QueryEngine, question: str = "night shift, wooden penstock: who?") -> tuple[int, list[str]]:
    """The generation that answered, and the texts it found."""
    answer = engine.search(question, tenant=TENANT, user="ann", record=False)
    assert answer.note == ""
    assert answer.similarity is not None, "not by words alone"
    return int(answer.index_version.partition(".")[0].removeprefix("g")), [passage.hit.text for passage in answer.passages]


@contextmanager
def polled(engine: QueryEngine, loop: RoundRunner) -> Iterator[list[tuple[int, int]]]:
    """(generation, passages) of every question asked while the block runs, and until the index that serves then answers."""
    told: list[tuple[int, int]] = []
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            number, texts = asked(engine)
            told.append((number, len(texts)))
            time.sleep(0.1)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        until(60, lambda: told, lambda: "nothing was answered")
        yield told
        until(60, lambda: told[-1][0] == serving(loop).number, lambda: told[-1])
    finally:
        ended.set()
        thread.join()


def held(loop: RoundRunner, generation: IndexGeneration) -> dict[str, np.ndarray[Any, Any]]:
    """Text → vector of everything in a generation."""
    reader = VectorReader(CHUNKS, loop.runner.endpoints, METER, generation=generation.number)
    names = sorted(set(reader.indexed()["document_id"].to_pylist()))
    rows = reader.embeddings(names).to_pylist()
    return {row["text"]: np.asarray(row["embedding"], np.float32) for row in rows}


def vectors_written(loop: RoundRunner) -> int:
    """Bytes that this run has written to the index so far."""
    return sum(row.bytes for row in loop.runner.record.ledger.rows() if (row.tier, row.direction) == ("vector", "write"))


def made_by(loop: RoundRunner, generation: IndexGeneration, version: str) -> bool:
    """Whether a generation's vectors are those of one version of the embedder."""
    vectors = held(loop, generation)
    endpoint = loop.runner.endpoints.embedder.model_copy(update={"model": f"embedder@{version}"})
    with Embedder(endpoint) as client:
        anew = client.embed(list(vectors), kind="passage")
    return bool(np.allclose(np.stack(list(vectors.values())), anew, atol=1e-4))


def test_a_round_of_the_embedder_and_the_ways_back(loop: RoundRunner, tmp_path: Path, whole: bool) -> None:
    an_embedder_of_the_users_own_is_not_trained(loop)
    docs = written(tmp_path / "docs")
    index_documents(loop.runner, [docs], tenant=TENANT, settings=inference(loop))
    a_round_killed_before_the_index_is_finished_by_the_next_and_questions_are_answered_all_along(loop)
    answers_and_what_is_indexed_after_it_are_of_the_new_embedder(loop, docs)
    back_and_forth(loop)
    if whole:
        another_chunk_size_keeps_the_embedder_and_one_no_longer_at_hand_is_built_again(loop)


def an_embedder_of_the_users_own_is_not_trained(loop: RoundRunner) -> None:
    theirs = Endpoint(type="endpoint", url="http://127.0.0.1:9/v1", model="words")
    settings = loop.settings.model_copy(update={"models": ModelSettings(embedder=theirs)})
    other = RoundRunner(settings, loop.runner)
    for attempt in (
        lambda: other.round("embedder"),
        lambda: other.promote("embedder", version="none", who="ann", why=""),
        lambda: other.rollback("embedder", who="ann", why=""),
    ):
        with pytest.raises(BadSettings, match="your own embedder"):
            attempt()
    assert manifest.numbers(ObjectReader(ROUNDS, loop.runner.endpoints, METER)) == []
    assert loop.embedder.reconcile().version == "none", "nothing is indexed, nothing is done"


def a_round_killed_before_the_index_is_finished_by_the_next_and_questions_are_answered_all_along(
    loop: RoundRunner,
) -> None:
    engine, first = QueryEngine(loop.runner, inference(loop)), serving(loop)
    assert first.embedder == "embedder"
    judge(loop, 1)
    with killed_before("begin"):
        loop.round("embedder")
    committed = manifest.read(ObjectReader(ROUNDS, loop.runner.endpoints, METER), 1)
    seen = committed.evaluation
    assert committed.decision.promote, committed.decision.why
    assert seen.challenger > seen.champion
    assert committed.recipe_settings["least_similarity"] == LEAST, "what answering asks for"
    assert seen.beside["refused"]["challenger"] == 0.0
    assert (committed.model, committed.weights.version) == ("embedder", "v000001")
    assert (serving(loop), pointer(loop).version) == (first, "none")

    # Killed again when the new index is built: the old one answers on.
    with killed_before("switch"):
        loop.round("embedder")
    building = standing(loop).building
    assert (serving(loop), pointer(loop).version) == (first, "none")
    assert building is not None
    assert building.embedder == "embedder@v000001"
    assert asked(engine)[0] == first.number

    with polled(engine, loop) as told:
        settled = loop.embedder.reconcile()
    assert serving(loop) == building, "the one that was begun"
    assert (building.window, standing(loop).fallback) == (first.window, first)
    assert (settled.version, settled.round, settled.who) == ("v000001", 1, "round 1")
    assert pointer(loop) == settled
    numbers = [number for number, _ in told]
    assert set(numbers) == {first.number, building.number}
    assert numbers == sorted(numbers)
    assert all(count > 0 for _, count in told)
    assert made_by(loop, building, "v000001")
    assert made_by(loop, first, "none")
    assert not made_by(loop, building, "none")
    assert loop.embedder.reconcile() == settled, "and no more than once"
    assert moves(loop) == [("promote", "none", "v000001")]


def answers_and_what_is_indexed_after_it_are_of_the_new_embedder(loop: RoundRunner, docs: Path) -> None:
    now = serving(loop)
    engine = QueryEngine(loop.runner, inference(loop))
    assert now.embedder == "embedder@v000001"
    number, texts = asked(engine, "night shift, copper spillway: who?")
    assert number == now.number
    assert "green crew" in texts[0], "what the verdicts taught"
    (docs / "new.md").write_text("# The lantern\n\nThe lantern is made of copper and hangs over the lock.")
    index_documents(loop.runner, [docs], tenant=TENANT, settings=inference(loop))
    assert serving(loop) == now
    assert any("copper" in text for text in held(loop, now))
    assert made_by(loop, now, "v000001")
    number, texts = asked(engine, "what is the lantern made of?")
    assert number == now.number
    assert "copper" in texts[0]
    # Whoever was told of another embedder meanwhile does not answer with vectors that cannot be compared.
    theirs = loop.runner.endpoints.embedder.model_copy(update={"model": "words"})
    other = Runner(loop.runner.record, loop.runner.endpoints.model_copy(update={"embedder": theirs}))
    answer = QueryEngine(other, inference(loop)).search("lantern", tenant=TENANT, user="ann", record=False)
    assert "made with the embedder embedder@v000001, not words: full-text search answered alone" in answer.note
    with pytest.raises(BadSettings, match="made with the embedder embedder@v000001"):
        catch_up(other, inference(loop))


def back_and_forth(loop: RoundRunner) -> None:
    engine, now, before = QueryEngine(loop.runner, inference(loop)), serving(loop), standing(loop).fallback
    assert before is not None
    # What came in meanwhile is in the earlier index before that answers.
    with polled(engine, loop) as told:
        gone_back = loop.rollback("embedder", who="ann", why="slower")
    assert (gone_back.version, gone_back.kind, gone_back.who, gone_back.history) == ("none", "rollback", "ann", [])
    assert (serving(loop), standing(loop).fallback) == (before, now)
    assert {number for number, _ in told} == {before.number, now.number}
    assert any("copper" in text for text in held(loop, before))
    assert made_by(loop, before, "none")
    assert loop.embedder.reconcile() == gone_back, "somebody's will is left alone"
    with pytest.raises(NotFound, match="no earlier version"):
        loop.rollback("embedder", who="ann", why="")
    with pytest.raises(NotFound, match="No version 'v000099' of embedder"):
        loop.promote("embedder", version="v000099", who="ann", why="")
    assert serving(loop) == before

    # Nothing changed meanwhile: nothing is embedded or written.
    assert loop.promote("embedder", version="v000001", who="ann", why="").version == "v000001"
    assert serving(loop) == now
    written = vectors_written(loop)
    assert loop.rollback("embedder", who="ann", why="").version == "none"
    assert vectors_written(loop) == written > 0
    until(60, lambda: asked(engine)[0] == before.number, lambda: asked(engine))

    # Killed between index and pointer: the next settles it, and the command again does not go back twice.
    with killed_before("set_champion"):
        loop.promote("embedder", version="v000001", who="ann", why="")
    assert (serving(loop), pointer(loop).version) == (now, "none")
    assert loop.embedder.reconcile().version == "v000001"
    with killed_before("rollback"):
        loop.rollback("embedder", who="ann", why="")
    assert (serving(loop), pointer(loop).version) == (before, "v000001")
    again = loop.rollback("embedder", who="bob", why="")
    assert (again.version, again.who, again.kind) == ("none", "bob", "rollback")
    assert serving(loop) == before

    # An index can be gone back to by itself: the pointer follows.
    assert loop.embedder.index_before().generation == now
    assert pointer(loop).version == "v000001"


def another_chunk_size_keeps_the_embedder_and_one_no_longer_at_hand_is_built_again(loop: RoundRunner) -> None:
    assert serving(loop).embedder == "embedder@v000001"
    done = loop.embedder.rebuild(inference(loop).model_copy(update={"chunk_tokens": 40}))
    assert (done.generation.window, done.generation.embedder) == (40, "embedder@v000001")
    assert pointer(loop).version == "v000001"
    # The earlier index was made by the same embedder: for the packaged one another is built, cut as this one is.
    assert loop.rollback("embedder", who="ann", why="").version == "none"
    now = serving(loop)
    assert (now.number > done.generation.number, now.window, now.embedder) == (True, 40, "embedder")
    assert made_by(loop, now, "none")
    assert [kind for kind, _, _ in moves(loop)][:3] == ["promote", "rollback", "promote"]
