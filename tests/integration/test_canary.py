"""A challenger's trial and a poisoned round against real storage: what is worse for users is not served to all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiny

from headrace.catalog import CHUNK_ROWS, FEEDBACK, FEEDBACK_ROWS, INTERACTIONS, LEASES, MODELS, PROMOTIONS
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.registry.canary import CanaryStatus, decide_canary
from headrace.scheduler.lease import LeaderLease
from headrace.settings import CanarySettings, Gate, Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training.promotions import ROLLBACK, champion, move, start_canary
from headrace.training.round import run_round

METER = Meter(Ledger(), "test")
TINY = Training(
    threads=1,
    recipe={"reranker": {"epochs": 4, "batch": 4, "max_tokens": 32, "learning_rate": 5e-3}},
    gate=Gate(least_questions=8, headroom=1e6),
    canary=CanarySettings(verdicts=12),
)
PACKAGED = TINY.model_copy(update={"recipe": {"reranker": {**TINY.recipe["reranker"], "learning_rate": 2e-4}}})
WORDS = ["yes", "no", "maybe", "never"]
THINGS = ["wheel", "weir", "mill", "pond", "gate", "bridge", "lock", "race"]


@pytest.fixture(scope="module", params=["tiny", pytest.param("packaged", marks=pytest.mark.soak(minutes=2))])
def settings(request: pytest.FixtureRequest) -> Training:
    return TINY if request.param == "tiny" else PACKAGED


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory, settings: Training) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("canary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        if settings == TINY:
            patch.setenv(INSTEAD, str(tiny.folder()))
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


@pytest.fixture
def runner(endpoints: Endpoints, tmp_path: Path) -> Iterator[Runner]:
    with recorded("train", tmp_path) as run:
        yield Runner(run, endpoints)


def filled(schema: pa.Schema, **given: Any) -> dict[str, Any]:
    """A row of a schema, with something empty of the right kind in every column that must have a value."""
    row: dict[str, Any] = {}
    for field in schema:
        kinds = ((pa.types.is_list, []), (pa.types.is_boolean, True), (pa.types.is_integer, 0))
        empty = next((value for is_kind, value in kinds if is_kind(field.type)), "")
        row[field.name] = None if field.nullable else empty
    return row | given


def asked(
    endpoints: Endpoints, name: str, count: int, *, seed: int, version: str = "none", liked: str = "yes", user: str
) -> None:
    """`count` answers of a version, each from four passages of which a user likes the one with the word `liked`.

    `none` shows them in random order; a released version shows the liked one last, or first if it is called `good`.
    """
    draw, at = random.Random(seed), datetime.now(UTC) + timedelta(seconds=1)
    chunks, answers, verdicts = [], [], []
    for n in range(count):
        words = draw.sample(WORDS, len(WORDS))
        passages = []
        for rank, word in enumerate(words, 1):
            chunk = f"{name}-{n}-{rank}"
            text = f"{word} the {draw.choice(THINGS)} by the {draw.choice(THINGS)}"
            given = {"chunk_id": chunk, "document_id": f"d{name}-{n}", "tenant": "acme", "text": text}
            chunks.append(filled(CHUNK_ROWS.columns, **given))
            served = None if version == "none" else (4 if word == liked else rank - (rank > words.index(liked) + 1))
            passages.append(
                {
                    "chunk_id": chunk,
                    "document": f"{n}.md",
                    "retrieval_score": 1.0 / (60 + rank),
                    "retrieval_rank": rank,
                    "rerank_score": None if served is None else 0.0,
                    "rerank_rank": served,
                    "cited": False,
                }
            )
            common = {"answer_id": f"{name}-{n}", "tenant": "acme", "user": user, "simulated": False, "at": at}
            verdicts.append(filled(FEEDBACK.columns, **common, verdict_id=f"v{chunk}", chunk_id=chunk, up=word == liked))
        question = f"does {draw.choice(THINGS)} {n} of {name} turn?"
        answers.append(
            filled(INTERACTIONS.columns, **common, kind="search", question=question, passages=passages, model_version=version)
        )
    TableWriter(CHUNK_ROWS, endpoints, METER).append(batch(CHUNK_ROWS.columns, chunks))
    TopicWriter(INTERACTIONS, endpoints, METER).append(answers, key="answer_id")
    TopicWriter(FEEDBACK, endpoints, METER).append(verdicts, key="answer_id")


def watched(runner: Runner, settings: Training, **more: Any) -> CanaryStatus:
    from headrace.landing.land import land

    runner.run(land)
    found = runner.run(decide_canary, model="reranker", settings=settings, **more)
    assert found is not None
    return found


@pytest.mark.soak(minutes=0.5)
def test_a_challenger_that_users_find_worse_retreats_and_a_poisoned_round_promotes_nothing(
    runner: Runner, endpoints: Endpoints, settings: Training
) -> None:
    models = ObjectReader(MODELS, endpoints, METER)
    for number in range(3):
        asked(endpoints, f"honest{number}", 25, seed=number, user=f"user-{number}")
    first = run_round(runner, recipe="reranker", settings=settings, canary=0.2)
    assert first.decision.promoted, first.decision.why
    assert (first.decision.serving, first.decision.canary) == ("none", "v000001"), "it is tried before it serves everybody"

    # The trial: users dislike what it does to their passages.
    asked(endpoints, "champion0", 20, seed=10, user="user-0")
    asked(endpoints, "champion1", 20, seed=11, user="user-1")
    asked(endpoints, "worse", 3, seed=12, version="v000001", user="user-2")
    going = watched(runner, settings)
    assert (going.ended, going.challenger.judged, going.champion_side.judged) == ("", 3, 40)
    assert going.challenger.outcome is not None
    assert going.champion_side.outcome is not None
    assert going.challenger.outcome < going.champion_side.outcome
    assert champion(models)[0].canary is not None
    asked(endpoints, "worse2", 9, seed=13, version="v000001", user="user-2")
    assert watched(runner, settings).ended == "", "one user ends no trial"
    asked(endpoints, "worse3", 4, seed=14, version="v000001", user="user-0")
    asked(endpoints, "worse4", 4, seed=15, version="v000001", user="user-1")
    over = watched(runner, settings)
    assert over.ended == "canary_ended", over
    standing, _ = champion(models)
    assert (standing.version, standing.canary, standing.kind, standing.who) == ("none", None, "canary_ended", "canary of round 1")
    assert "users find it worse" in standing.why
    moves = TableReader(PROMOTIONS, endpoints, METER).read(("version", "kind", "at")).sort_by("at").to_pylist()
    assert [(move["version"], move["kind"]) for move in moves] == [("v000001", "canary"), ("none", "canary_ended")]
    assert runner.run(decide_canary, model="reranker", settings=settings) is None, "the trial is over"

    # Tried again, nobody judges it for an hour: it becomes champion, for nothing says that it is worse.
    writer, promotions = ObjectWriter(MODELS, endpoints, METER), TableWriter(PROMOTIONS, endpoints, METER)
    start_canary(writer, promotions, "reranker", "v000001", share=0.2, who="ann", why="once more")
    promoted = watched(runner, settings, now=datetime.now(UTC) + timedelta(minutes=61))
    assert promoted.ended == "promote"
    honest, _ = champion(models)
    assert (honest.version, honest.canary, honest.round) == ("v000001", None, 1)

    # Poison: one user flips, in 30 % of all verdicts there are by then. Nothing that learned from them is served.
    asked(endpoints, "poison", 54, seed=21, liked="no", user="poisoner")
    share = TableReader(FEEDBACK_ROWS, endpoints, METER)
    other = {"reranker": {**settings.recipe["reranker"], "epochs": 2}}
    second = run_round(runner, recipe="reranker", settings=settings.model_copy(update={"recipe": other}))
    users = share.read(("user",))["user"].to_pylist()
    assert users.count("poisoner") / len(users) == pytest.approx(0.3, abs=0.03)
    assert not second.decision.promoted, second.decision.why
    standing, _ = champion(models)
    assert (standing.version, standing.canary) == ("v000001", None)
    # Nor does the ranking learn it: with the champion's logits, which few answers have, and without them.
    few = run_round(runner, recipe="ranking", settings=settings)
    assert not few.decision.promoted, few.decision.why
    move(writer, promotions, "reranker", "none", who="ann", why="", kind=ROLLBACK)
    third = run_round(runner, recipe="ranking", settings=settings)
    assert third.evaluation.questions > 100
    assert not third.decision.promoted, third.decision.why
    assert champion(models, "ranking")[0].version == "none"


def test_one_loop_has_the_seat_and_another_takes_it_when_that_is_gone(endpoints: Endpoints) -> None:
    landers = ObjectWriter(LEASES, endpoints, METER)
    one, other = LeaderLease(landers, "one"), LeaderLease(landers, "other", gone_s=0.1)
    assert one.beat()
    assert not other.beat()
    assert "(one)" in other.holder
    assert LeaderLease(landers, "one").beat(), "who is started again in its place goes on at once"
    for _ in range(3):  # as long as it beats it keeps the lease
        time.sleep(0.15)
        assert one.beat()
        assert not other.beat()
    time.sleep(0.15)
    assert other.beat(), "its count stood still"
    assert not one.beat()
    other.leave()
    assert one.beat(), "given up, it is free at once"
