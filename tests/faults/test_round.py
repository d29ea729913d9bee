"""A round that is killed: behind every stage, and inside the training of every recipe. Nothing is learned twice or left out."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import tiny
from forks import ForkedProcess
from judged import judge
from training_rows import GENERATORS, SMALL, answers, passages, rows_as_files

from headrace.catalog import CHECKPOINTS, DATASETS, EXAMPLES, MODELS, ROUNDS
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.models.tokens import INSTEAD
from headrace.platform import open_platform
from headrace.settings import Gate, Settings, Training
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.tables.handles import TableReader
from headrace.training import manifest
from headrace.training.checkpoint import Checkpoints
from headrace.training.promotions import champion
from headrace.training.recipe import GradientRecipe
from headrace.training.recipes import RECIPES
from headrace.training.round import TRAINING, run_round
from headrace.training.trainer import Job, Trained, train

# sentence-transformers is loaded here: files that say so share a process under xdist, for its import takes seconds.
METER = Meter(Ledger(), "test")
QUICK = Training(
    threads=1,
    gate=Gate(least_questions=8, headroom=1e6),
    recipe={
        "reranker": {"epochs": 2, "batch": 4, "max_tokens": 32, "learning_rate": 2e-3, "checkpoint_steps": 2, "most_steps": 8}
    },
)
WITHIN = "training"
"""The moment between two steps of `finetune`, once a checkpoint is durable."""
STAGES = [stage.name for stage in TRAINING.stages]
TRAINED = STAGES.index("finetune")


def killed_rounds(link: Connection, folder: Path, endpoints: Endpoints, models: str, recipe: str, moments: list[str]) -> None:
    """Rounds in processes of their own, each killed (-9) at another moment. What takes seconds to import is imported once."""
    os.environ[INSTEAD] = models
    for name in ("headrace.training.crossencoder", "transformers.models.bert.modeling_bert"):
        import_module(name)
    for moment in moments:
        if (child := os.fork()) == 0:
            die_at(moment)
            run_round(Runner(Run("train", folder), endpoints), recipe=recipe, settings=QUICK)
            os._exit(0)
        link.send((moment, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def die_at(moment: str) -> None:
    """Have this process killed as soon as a stage has returned, or inside the training."""
    run, save = Runner.run, Checkpoints.save

    def running(self: Runner, stage: Any, **inputs: Any) -> Any:
        value = run(self, stage, **inputs)
        if stage.name == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    def saving(self: Checkpoints, step: int, *given: Any) -> None:
        save(self, step, *given)
        if moment == WITHIN and step > 2:
            self.wait()
            os.kill(os.getpid(), signal.SIGKILL)

    Runner.run, Checkpoints.save = running, saving  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with installation(tmp_path_factory.mktemp("round")) as endpoints:
        yield endpoints


@contextmanager
def installation(folder: Path) -> Iterator[Endpoints]:
    """An object store and a head of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setenv(INSTEAD, str(tiny.folder()))
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects", "head"})) as endpoints:
            yield endpoints


def weights(endpoints: Endpoints, folder: str) -> dict[str, str]:
    store = ObjectReader(CHECKPOINTS, endpoints, METER)
    return {info.key.rpartition("/")[2]: hashlib.sha256(store.get(info.key)).hexdigest() for info in store.list(f"{folder}/")}


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([WITHIN, "finetune", STAGES[-1]], id="training", marks=pytest.mark.soak(minutes=0.5)),
        pytest.param([*STAGES[:TRAINED], WITHIN, *STAGES[TRAINED:]], id="every", marks=pytest.mark.soak),
    ],
)
def test_a_round_killed_inside_its_training_and_behind_its_stages_is_one_round(tmp_path: Path, moments: list[str]) -> None:
    with installation(tmp_path) as endpoints:
        killed_inside_its_training(endpoints, tmp_path, moments)


def killed_inside_its_training(endpoints: Endpoints, tmp_path: Path, moments: list[str]) -> None:
    judge(endpoints, 40, liked="yes", seed=1)
    children = ForkedProcess(killed_rounds, tmp_path, endpoints, str(tiny.folder()), "reranker", moments)
    assert children.wait() == 0, children.said
    assert children.said == [(moment, -signal.SIGKILL) for moment in moments]
    rounds = ObjectReader(ROUNDS, endpoints, METER)
    assert manifest.numbers(rounds) == [1], "the last was killed once it was committed, and the others took up the same round"
    made = manifest.read(rounds, 1)
    examples = TableReader(EXAMPLES, endpoints, METER).read(("dataset", "example_id")).to_pylist()
    assert len({row["example_id"] for row in examples}) == len(examples) == 160
    assert {row["dataset"] for row in examples} == {made.dataset.version}
    # Training goes on beside the writer until the kill, by a step or several.
    assert made.training.steps == 8
    assert made.training.taken in (2, 4, 6), "training went on from its checkpoint"
    # The very weights that come of the same job when nobody kills it.
    job = Job("reranker", made.recipe_settings, tuple(made.dataset.files), "straight", threads=QUICK.threads)
    assert weights(endpoints, learn(endpoints, job).weights) == weights(endpoints, made.training.weights)
    assert ObjectReader(CHECKPOINTS, endpoints, METER).info(made.training.checkpoint) is not None
    # What comes next is the next round.
    judge(endpoints, 8, liked="yes", seed=2)
    assert run_round(Runner(Run("train", tmp_path), endpoints), settings=QUICK).decision.round == 2


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([STAGES[0], STAGES[TRAINED - 1], STAGES[-1]], id="some", marks=pytest.mark.soak(minutes=0.4)),
        pytest.param(STAGES, id="every", marks=pytest.mark.soak(minutes=0.5)),
    ],
)
def test_a_round_of_the_ranking_killed_behind_its_stages_is_one_round(tmp_path: Path, moments: list[str]) -> None:
    with installation(tmp_path) as endpoints:
        rounds, models = ObjectReader(ROUNDS, endpoints, METER), ObjectReader(MODELS, endpoints, METER)
        judge(endpoints, 40, liked="yes", seed=3, nearer=0.3)
        children = ForkedProcess(killed_rounds, tmp_path, endpoints, str(tiny.folder()), "ranking", moments)
        assert children.wait() == 0, children.said
        assert children.said == [(moment, -signal.SIGKILL) for moment in moments]
        assert manifest.numbers(rounds) == [1]
        made = manifest.read(rounds, 1)
        assert made.decision.promote, made.decision.why
        assert made.power is not None
        assert made.training.checkpoint == ""
        assert champion(models, "ranking")[0].version == made.weights.version
        job = Job("ranking", made.recipe_settings, tuple(made.dataset.files), "straight", threads=QUICK.threads)
        assert weights(endpoints, learn(endpoints, job).weights) == weights(endpoints, made.training.weights) != {}


def learn(endpoints: Endpoints, job: Job, report: Any = lambda step, of, loss: None) -> Trained:
    stores = ObjectReader(DATASETS, endpoints, METER), ObjectReader(MODELS, endpoints, METER)
    return train(job, *stores, ObjectWriter(CHECKPOINTS, endpoints, METER), report)


class Killed(Exception):
    """The process is gone: what it had in memory counts for nothing."""


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if isinstance(recipe, GradientRecipe)])
def test_a_training_that_was_cut_ends_with_the_weights_of_one_that_was_not(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name in GENERATORS:
        folder = tmp_path / "model"
        tiny.random_llama(folder)
        monkeypatch.setattr(RECIPES[name], "base", folder)
    files = rows_as_files(endpoints, answers(8) if name in GENERATORS else passages(8), f"{name}/train.parquet")
    whole, cut = (Job(name, SMALL, files, f"{name}/{which}") for which in ("whole", "cut"))
    seen: dict[str, list[tuple[int, float]]] = {"whole": [], "cut": []}
    straight = learn(endpoints, whole, lambda step, of, loss: seen["whole"].append((step, loss)))
    kept: list[Checkpoints] = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, *given: (kept.append(self), save(self, *given), self.wait())[1])
    for until in (2, 4):

        def kill(step: int, of: int, loss: float, until: int = until) -> None:
            if step > until:
                raise Killed
            seen["cut"].append((step, loss))

        with pytest.raises(Killed):
            learn(endpoints, cut, kill)
    done = learn(endpoints, cut, lambda step, of, loss: seen["cut"].append((step, loss)))
    assert straight.steps == done.steps == 6
    assert seen["cut"] == seen["whole"], "every step once, on the same items"
    assert weights(endpoints, done.weights) == weights(endpoints, straight.weights) != {}
    assert done.figures == straight.figures
