"""The training loop against real storage: exact resume, promotion of what is better, refusal of what is not."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from judged import judge
from rounds import won
from traffic import until

from headrace.catalog import CHECKPOINTS, DATASETS, EXAMPLES, MODELS, PROMOTIONS, ROUNDS
from headrace.core.run import recorded
from headrace.core.runner import Runner
from headrace.errors import LostRace, NothingToLearn, Permanent
from headrace.models.served_ranking import RankingReader
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.registry.champion import rollback, set_champion
from headrace.registry.serve import RoundRunner
from headrace.scheduler.scheduler import ReportingRunner
from headrace.scheduler.status import Status
from headrace.settings import Gate, Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training import manifest
from headrace.training.checkpoint import Checkpoints, newest, resume
from headrace.training.data import Dataset, dataset_version, prepare
from headrace.training.manifest import Clock
from headrace.training.promote import serve_promoted
from headrace.training.promotions import card, champion, versions
from headrace.training.round import run_round
from headrace.training.trainer import Trained

METER = Meter(Ledger(), "test")
FEW = Gate(least_questions=8, headroom=1e6)
ANY = Gate(least_questions=1, least_users=1, headroom=1e6)
"""What they could show does not count here."""
TINY = Training(threads=1, gate=FEW, recipe={"reranker": {"epochs": 4, "batch": 4, "max_tokens": 32, "learning_rate": 2e-3}})
PACKAGED = Training(gate=FEW, recipe={"reranker": {"epochs": 4, "batch": 4, "max_tokens": 32, "learning_rate": 2e-4}})


@contextmanager
def installation(folder: Path, models: Path | None) -> Iterator[Endpoints]:
    """An object store and a head of their own; `models` is taken in place of the packaged ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        if models is not None:
            patch.setenv(INSTEAD, str(models))
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with installation(tmp_path_factory.mktemp("training"), tiny.folder()) as endpoints:
        yield endpoints


@pytest.fixture
def runner(endpoints: Endpoints, tmp_path: Path) -> Iterator[Runner]:
    with recorded("train", tmp_path) as run:
        yield Runner(run, endpoints)


def test_checkpoints_come_back_whole_and_old_ones_go(endpoints: Endpoints) -> None:
    import torch

    store, prefix = ObjectWriter(CHECKPOINTS, endpoints, METER), f"test/{uuid.uuid4().hex}"
    torch.manual_seed(5)
    model = torch.nn.Linear(3, 1)
    model.bias.requires_grad = False
    optimizer = torch.optim.AdamW([model.weight], lr=0.1)
    kept = Checkpoints(store, prefix, keep=2)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        torch.autograd.backward(model(torch.ones(3)).sum())
        optimizer.step()
        kept.save(step, model, optimizer, {"losses": [0.5] * step})
        kept.wait()
    kept.close()
    drawn = torch.rand(4)
    assert [info.key for info in store.list(f"{prefix}/step-")] == [f"{prefix}/step-{n:06d}.pt" for n in (2, 3)]
    fresh = torch.nn.Linear(3, 1)
    anew = torch.optim.AdamW([fresh.weight], lr=0.1)
    assert newest(store, prefix) == 3
    assert resume(store, prefix, 3, fresh, anew) == (3, f"{prefix}/step-000003.pt", {"losses": [0.5] * 3})
    assert torch.equal(fresh.weight, model.weight)
    assert str(anew.state_dict()) == str(optimizer.state_dict())
    assert torch.equal(torch.rand(4), drawn)
    assert newest(store, "test/none") == 0
    assert resume(store, "test/none", 0, fresh, anew) == (0, "", {})
    # One that was thought dead publishes an earlier step, and then its objects go.
    kept = Checkpoints(store, prefix, keep=2)
    kept.save(1, model, optimizer, {})
    kept.wait()
    kept.close()
    assert [info.key for info in store.list(f"{prefix}/step-")] == [f"{prefix}/step-{n:06d}.pt" for n in (2, 3)]
    assert newest(store, prefix) == 3


# a round


@pytest.mark.parametrize("of", ["tiny", pytest.param("packaged", marks=pytest.mark.soak(minutes=1))])
def test_a_better_challenger_is_served_and_a_round_that_learned_nothing_new_is_refused(tmp_path: Path, of: str) -> None:
    """The first two rounds of an installation."""
    settings = TINY if of == "tiny" else PACKAGED
    with (
        installation(tmp_path, tiny.folder() if of == "tiny" else None) as endpoints,
        recorded("train", tmp_path) as run,
    ):
        runner = Runner(run, endpoints)
        with pytest.raises(Permanent, match="no verdict to learn from"):
            run_round(runner, recipe="reranker", settings=settings)
        assert manifest.numbers(ObjectReader(ROUNDS, endpoints, METER)) == []
        first(runner, settings, tmp_path)
        second(runner, settings)


def first(runner: Runner, settings: Training, folder: Path) -> None:
    """A round that learns which word is liked."""
    endpoints = runner.endpoints
    models, rounds = ObjectReader(MODELS, endpoints, METER), ObjectReader(ROUNDS, endpoints, METER)
    judge(endpoints, 60, liked="yes", seed=1)
    done = run_round(runner, recipe="reranker", settings=settings)
    assert done.landed.events == {"document-events": 0, "interactions": 60, "feedback": 240}
    assert sum(done.dataset.questions.values()) == 60
    assert done.trained.last_loss < done.trained.first_loss
    seen = done.evaluation
    assert seen.champion_version == "none"
    assert seen.challenger > seen.champion == seen.retrieval
    assert done.decision.promoted, done.decision.why
    assert done.decision.serving == "v000001"

    # What is served was released whole: its files are those the manifest names, and they rank as they were taught.
    standing, _ = champion(models)
    assert (standing.version, standing.round, standing.history) == ("v000001", 1, ["none"])
    committed = manifest.read(rounds, 1)
    assert (committed.round, committed.parent, committed.decision.promote) == (1, None, True)
    for file in committed.weights.files:
        data = models.get(f"reranker/v000001/{file['folder']}/{file['name']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
        (folder / file["name"]).write_bytes(data)
    weights = card(models, "reranker", "v000001")["ranking"]
    assert weights == {**seen.card["ranking"], "reranker": "v000001"}
    from headrace.training import crossencoder

    scores = crossencoder.score(*crossencoder.load(folder), "does it?", ["no the mill", "yes the mill", "never the mill"], 32)
    assert max(scores) == scores[1]

    # The manifest names what the dataset was made from; making it again, into other stores, gives the same bytes.
    assert done.dataset.version == dataset_version(committed.snapshots, settings.seed)
    made_again = again(runner, committed)
    assert [file["sha256"] for file in made_again.files] == [file["sha256"] for file in done.dataset.files]
    examples = TableReader(EXAMPLES, endpoints, METER).read(("question", "split", "origins")).to_pylist()
    assert len(examples) == 240
    assert all(row["origins"][0].startswith("interactions/0/") for row in examples)
    assert len({(row["question"], row["split"]) for row in examples}) == 60

    # A process that died between manifest and pointer: the next round brings the pointer in line, once.
    writer, promotions = ObjectWriter(MODELS, endpoints, METER), TableWriter(PROMOTIONS, endpoints, METER)
    writer.delete("reranker/champion.json")
    promoted = serve_promoted(writer, rounds, promotions, "reranker")
    assert (promoted.version, promoted.who) == ("v000001", "round 1")
    assert serve_promoted(writer, rounds, promotions, "reranker") == champion(models)[0] == promoted
    # A rollback is somebody's will: settling leaves it alone.
    assert rollback(writer, promotions, who="ann", why="").version == "none"
    assert serve_promoted(writer, rounds, promotions, "reranker").version == "none"
    # Also if the clock was set back meanwhile, or is behind on that host.
    withdrawn = champion(models)[0].model_copy(update={"at": committed.begun})
    writer.put("reranker/champion.json", withdrawn.model_dump_json().encode())
    assert serve_promoted(writer, rounds, promotions, "reranker").version == "none"
    assert set_champion(writer, promotions, "v000001", "ann", "").version == "v000001"


def second(runner: Runner, settings: Training) -> None:
    """Nothing new to learn from: what has learned from the same verdicts is not trained again, unless its settings are others.

    Then the same data cannot beat the champion that was made of it.
    """
    models, rounds = ObjectReader(MODELS, runner.endpoints, METER), ObjectReader(ROUNDS, runner.endpoints, METER)
    for again in (settings, settings.model_copy(update={"verdicts": 7, "nice": 3})):
        with pytest.raises(NothingToLearn, match="round 1 learned from the same verdicts and was promoted: better with"):
            run_round(runner, recipe="reranker", settings=again)
    assert manifest.numbers(rounds) == [1]
    assert manifest.plan(rounds, 2) is None
    other = settings.model_copy(update={"gate": Gate(least_questions=9, headroom=1e6)})
    refused = run_round(runner, recipe="reranker", settings=other)
    assert (refused.landed.total, refused.decision.round, refused.decision.promoted) == (0, 2, False)
    assert refused.trained.weights == manifest.read(rounds, 1).training.weights
    assert refused.evaluation.champion_version == "v000001"
    assert refused.evaluation.difference == 0.0
    assert "confidence" in refused.decision.why
    assert refused.decision.serving == "v000001"
    assert manifest.read(rounds, 2).weights.model_dump() == {"version": None, "files": []}
    assert [card["version"] for card in versions(models)] == ["v000001"]


def again(runner: Runner, committed: dict[str, Any]) -> Dataset:
    """The dataset of a committed round, made into stores of its own."""
    elsewhere = uuid.uuid4().hex
    endpoints = runner.endpoints
    handles: dict[str, Any] = {port.parameter: port.handle(port.store, endpoints, METER) for port in prepare.ports}
    handles["datasets"] = ObjectWriter(replace(DATASETS, name=elsewhere), endpoints, METER)
    handles["examples"] = TableWriter(replace(EXAMPLES, name=elsewhere), endpoints, METER)
    return prepare.function(
        **handles,
        batches=runner.batches,
        snapshots=committed.snapshots,
        version=committed.dataset_version,
        seed=committed.settings["seed"],
    )


def test_a_round_that_was_begun_is_taken_up_as_it_was_planned(runner: Runner, endpoints: Endpoints, tmp_path: Path) -> None:
    """Killed after the plan: verdicts that came later wait for the next round, and changed settings do not count."""
    rounds = ObjectWriter(ROUNDS, endpoints, METER)
    number = (manifest.numbers(rounds) or [0])[-1] + 1
    judge(endpoints, 12, liked="yes", seed=2)
    from headrace.landing.land import land
    from headrace.training.round import plan

    quick = Training(gate=ANY, recipe={"reranker": {**TINY.recipe["reranker"], "epochs": 1}})
    runner.run(land)
    planned = runner.run(plan, settings=quick, recipe="reranker")
    assert planned.round == number
    judge(endpoints, 12, liked="yes", seed=3)
    status = Status(tmp_path, round={})
    longer = Training(recipe={"reranker": {**TINY.recipe["reranker"], "epochs": 3}})
    done = run_round(ReportingRunner(runner, status), recipe="reranker", settings=longer)
    assert done.decision.round == number
    told = status.get("round")
    assert (told["number"], told["recipe"], told["model"], told["stage"]) == (number, "reranker", "reranker", "tidy")
    assert "judged questions show a gain of" in told["power"]
    committed = manifest.read(rounds, number)
    assert (committed.snapshots, committed.settings) == (planned.snapshots, quick.model_dump(mode="json"))
    questions = [
        row["question"]
        for row in TableReader(EXAMPLES, endpoints, METER).read(where=f"dataset = '{done.dataset.version}'").to_pylist()
    ]
    assert any("of 2 turn" in question for question in questions)
    assert not any("of 3 turn" in question for question in questions)
    assert manifest.numbers(rounds)[-1] == number


def test_a_round_that_was_begun_without_a_bound_is_not_taken_up_by_one_that_has_it(runner: Runner, endpoints: Endpoints) -> None:
    from headrace.landing.land import land
    from headrace.training.cutoff import Exclusions
    from headrace.training.promote import promote
    from headrace.training.round import plan

    judge(endpoints, 12, liked="yes", seed=4)
    runner.run(land)
    poisoned = runner.run(plan, settings=TINY, recipe="reranker")
    assert runner.run(plan, settings=TINY, recipe="reranker") == poisoned, "taken up as it was begun"
    exclusions = Exclusions(before={"feedback/0": 3})
    bounded = runner.run(plan, settings=TINY, recipe="reranker", exclusions=exclusions)
    assert bounded.round == poisoned.round
    assert bounded.exclusions["before"] == {"feedback/0": 3}
    assert bounded.dataset_version != poisoned.dataset_version
    assert runner.run(plan, settings=TINY, recipe="reranker", exclusions=exclusions) == bounded
    # Whoever was making the other one cannot commit it any more.
    evaluation = won()
    trained = Trained("reranker/x/weights", "", 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    with pytest.raises(LostRace, match="was withdrawn"):
        runner.run(
            promote,
            plan=poisoned,
            dataset=Dataset("d", {"train": 1}, {"train": 1}, ()),
            trained=trained,
            evaluation=evaluation,
            settings=TINY,
            run="test",
            clock=Clock(None, 0.0),
        )
    assert poisoned.round not in manifest.numbers(ObjectReader(ROUNDS, endpoints, METER))
    manifest.withdraw(ObjectWriter(ROUNDS, endpoints, METER), bounded.round)


# a ranking


def test_a_ranking_is_served_at_once_and_is_what_the_next_challengers_are_compared_with(tmp_path: Path) -> None:
    with installation(tmp_path, tiny.folder()) as endpoints, recorded("train", tmp_path) as run:
        runner = Runner(run, endpoints)
        models, rounds = ObjectReader(MODELS, endpoints, METER), ObjectReader(ROUNDS, endpoints, METER)
        serving = RankingReader(MODELS, endpoints, METER)
        assert serving.recent().champion("none") == ("none", None)
        judge(endpoints, 60, liked="yes", seed=1, nearer=0.3)
        first = run_round(runner, recipe="ranking", settings=TINY)
        assert first.decision.promoted, first.decision.why
        assert (first.evaluation.questions, first.trained.items) == (60, 60), "every judged question, not a quarter"
        assert first.evaluation.champion == first.evaluation.retrieval
        committed = manifest.read(rounds, 1)
        assert committed.power is not None
        assert committed.power.spread_of == "assumed"
        assert committed.evaluation.spread == first.evaluation.spread > 0
        ranked = card(models, "ranking", "v000001")
        assert max(ranked["ranking"]["weights"], key=lambda name: abs(ranked["ranking"]["weights"][name])) == "similarity"
        until(60, lambda: serving.recent().pointer.version == "v000001", lambda: serving.recent())
        version, weights = serving.recent().champion("none")
        assert (version, weights and weights.model_dump()) == ("v000001", ranked["ranking"])
        assert serving.recent().champion("v000009") == ("none", None), "it was not fitted with that re-ranker"

        # A re-ranker's challenger has to beat the ranking, not what there was before it.
        other = run_round(runner, recipe="reranker", settings=TINY)
        assert other.evaluation.champion_version == "none"
        assert other.evaluation.champion > 0.9 > (other.evaluation.retrieval or 0.0)

        with pytest.raises(NothingToLearn, match="round 1 learned from the same verdicts"):
            run_round(runner, recipe="ranking", settings=TINY)
        judge(endpoints, 30, liked="yes", seed=2, nearer=0.3)
        again = run_round(runner, recipe="ranking", settings=TINY)
        assert again.power is not None
        assert again.power.spread_of == "round 1"
        assert again.evaluation.champion_version == "v000001"
        assert again.evaluation.champion > 0.9, "by weights that did not see the question"
        writer, promotions = ObjectWriter(MODELS, endpoints, METER), TableWriter(PROMOTIONS, endpoints, METER)
        assert rollback(writer, promotions, model="ranking", who="ann", why="").version in ("none", "v000001")


@pytest.mark.parametrize("likes", ["the last", pytest.param("anything", marks=pytest.mark.soak(minutes=0.2))])
def test_verdicts_that_are_poisoned_or_mean_nothing_move_no_ranking(tmp_path: Path, likes: str) -> None:
    """One person likes whatever is last in 30 % of the answers; or nobody likes anything for a reason that a feature has."""
    with installation(tmp_path, tiny.folder()) as endpoints, recorded("train", tmp_path) as run:
        runner = Runner(run, endpoints)
        judge(endpoints, 60, liked="yes", seed=1, nearer=0.3 if likes == "the last" else 0.0)
        if likes == "the last":
            assert run_round(runner, recipe="ranking", settings=TINY).decision.promoted
            poison(endpoints, 26, seed=2)
        done = run_round(runner, recipe="ranking", settings=TINY)
        assert not done.decision.promoted, done.decision.why
        standing = "v000001" if likes == "the last" else "none"
        assert champion(ObjectReader(MODELS, endpoints, METER), "ranking")[0].version == standing


def poison(endpoints: Endpoints, count: int, seed: int) -> None:
    """Answers on which one person alone likes the passage that is the furthest from the question."""
    judge(endpoints, count, liked="no", seed=seed, nearer=-0.3, user="poisoner")


def test_the_cheapest_recipe_that_the_verdicts_support_is_chosen_and_none_twice(tmp_path: Path) -> None:
    with installation(tmp_path, tiny.folder()) as endpoints, recorded("train", tmp_path) as run:
        settings = Settings(home=tmp_path / "home", training=Training(threads=1))
        loop = RoundRunner(settings, Runner(run, endpoints))
        with pytest.raises(NothingToLearn, match="no verdict to learn from yet"):
            loop.round("auto")
        judge(endpoints, 60, liked="yes", seed=1, nearer=0.3)
        done = loop.round("auto")
        assert (done.recipe, done.decision.promoted, done.passed_over) == ("ranking", True, ())
        told = done.as_dict()["chosen"]
        assert told["why"].startswith("ranking was chosen: the cheapest recipe with new verdicts")
        assert run.detail["round"]["chosen"] == told
        with pytest.raises(NothingToLearn) as nothing:
            loop.round("auto")
        for why in (
            "ranking is not trained: round 1 learned from the same verdicts and was promoted",
            "embedder and reranker are not trained: 15 held-out questions are not enough evidence; at least 30 are required.",
        ):
            assert why in nothing.value.message
        rounds = ObjectReader(ROUNDS, endpoints, METER)
        assert manifest.numbers(rounds) == [1]
        assert manifest.plan(rounds, 2) is None, "nothing is left begun"
