"""Training on several workers: the weights of one worker, and what a killed, slow or failing worker does to the others."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forks import ForkedProcess

from headrace.catalog import CHECKPOINTS, DATASETS, EXAMPLES, MODELS
from headrace.core.peers import PeerLost, join, meet, meeting_place
from headrace.errors import StorageFull
from headrace.platform import open_platform
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training import recipes
from headrace.training.checkpoint import newest
from headrace.training.recipe import GradientRecipe, GradientSettings, Policy
from headrace.training.trainer import Job, Trained, train

HERE = "127.0.0.1"
METER = Meter(Ledger(), "test")
LINE = f"{__name__}:Line"
STEPS = 12
SETTINGS: dict[str, Any] = {
    "start": "packaged",
    "epochs": 4,
    "batch": 5,
    "most_steps": STEPS,
    "learning_rate": 0.05,
    "warmup": 0.1,
    "clip": 1.0,
    "max_tokens": 16,
    "checkpoint_steps": 2,
}
"""Eleven items in steps of five, five and one: the last of an epoch leaves workers without an item."""


class Line(GradientRecipe):
    """A line through points, as small as a recipe can be; one of its weights has no part in the loss."""

    name = "line"
    model = "line"
    about = "Fits a line."
    learns_from = "point"
    settings_type = GradientSettings

    def settings(self, values: Mapping[str, object]) -> GradientSettings:
        return GradientSettings(**values)  # type: ignore[arg-type]

    def fresh(self, parent: Path | None, settings: Any, seed: int) -> Policy:
        import torch

        torch.manual_seed(seed)
        model = torch.nn.ModuleDict({"line": torch.nn.Linear(3, 1), "unused": torch.nn.Linear(2, 2)})
        return Policy(model, None)

    def items(self, rows: Sequence[Mapping[str, Any]], settings: Any) -> list[tuple[list[float], float]]:
        points = [float(row["example_id"]) / 10 for row in rows]
        return [([x, x * x, 1 - x], 2 * x - 0.5) for x in points]

    def loss(self, policy: Policy, items: Sequence[Any], settings: Any, step_seed: int) -> tuple[Any, dict[str, float]]:
        import torch

        said = policy.model["line"](torch.tensor([x for x, _ in items]))[:, 0]  # type: ignore[index]
        return (said - torch.tensor([y for _, y in items])).square().mean(), {"items": float(len(items))}

    def save(self, policy: Policy, folder: Path) -> None:
        import torch

        values = torch.cat([value.reshape(-1) for value in policy.model.state_dict().values()])
        (folder / "line").write_text(" ".join(f"{value:.9f}" for value in values.tolist()))


def worker(
    link: Connection, endpoints: Endpoints, job: Job, rank: int, size: int, port: int, wait_s: float, dies_at: int, fails: bool
) -> None:
    """One of `size` workers; worker 0 says the port at which the others find it. It stops itself once so many steps are taken."""
    recipes._CLASSES["line"] = LINE
    store = meeting_place(HERE, wait_s) if rank == 0 else join(HERE, port, wait_s)
    if rank == 0:
        link.send(store.port)
    peers = meet(store, rank, size, address=HERE, wait_s=wait_s, threads=1)
    checkpoints = ObjectWriter(CHECKPOINTS, endpoints, METER)

    def report(step: int, of: int, loss: float) -> None:
        if step == dies_at:
            if rank == 0:  # so that a checkpoint is durable, and the next one perhaps half written
                while not newest(checkpoints, job.prefix):
                    time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)

    if fails:

        def full(key: str, path: Path) -> None:
            raise StorageFull(f"There is no space for {key}.")

        checkpoints.upload = full  # type: ignore[method-assign, assignment]
    try:
        done: Any = train(job, *readers(endpoints), checkpoints, report, peers)
    except (PeerLost, StorageFull) as error:
        done = error
    finally:
        peers.close()
    link.send(done)


def readers(endpoints: Endpoints) -> tuple[ObjectReader, ObjectReader]:
    return ObjectReader(DATASETS, endpoints, METER), ObjectReader(MODELS, endpoints, METER)


def together(
    endpoints: Endpoints, job: Job, size: int, *, victim: int = -1, dies_at: int = -1, fails: bool = False, wait_s: float = 60.0
) -> list[Any]:
    """What each worker ended with; `None` for the one that was killed."""
    first = ForkedProcess(worker, endpoints, job, 0, size, 0, wait_s, dies_at if victim == 0 else -1, fails)
    children = [first]
    try:
        while not first.said:
            assert not first.ended, first.said
            time.sleep(0.02)
        (port,) = first.said
        for rank in range(1, size):
            at = dies_at if rank == victim else -1
            children.append(ForkedProcess(worker, endpoints, job, rank, size, port, wait_s, at, False))
        found: list[Any] = []
        for rank, child in enumerate(children):
            if rank == victim:
                child.killed(240)
                found.append(None)
            else:
                found.append(child.result(240))
        return found
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        patch.setitem(recipes._CLASSES, "line", LINE)
        with open_platform(Settings(home=folder / "home"), parts=frozenset({"objects"})) as endpoints:
            yield endpoints


@pytest.fixture(scope="module")
def files(endpoints: Endpoints) -> tuple[dict[str, Any], ...]:
    every = {field.name: None if field.nullable else "" for field in EXAMPLES.columns}
    rows = [
        {
            **every,
            "retrieval_score": 0.0,
            "retrieval_rank": 0,
            "origins": [],
            "label": 0.0,
            "split": "train",
            "example_id": f"{n}",
        }
        for n in range(11)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=EXAMPLES.columns), buffer)
    ObjectWriter(DATASETS, endpoints, METER).put("line/train.parquet", buffer.getvalue())
    return ({"key": "line/train.parquet", "split": "train"},)


def job(files: tuple[dict[str, Any], ...], name: str) -> Job:
    return Job("line", SETTINGS, files, f"line/{name}", threads=1)


def learned(endpoints: Endpoints, job: Job) -> list[float]:
    return [float(word) for word in ObjectReader(CHECKPOINTS, endpoints, METER).get(f"{job.prefix}/weights/line").split()]


@pytest.fixture(scope="module")
def pair(endpoints: Endpoints, files: tuple[dict[str, Any], ...]) -> list[Any]:
    """What two workers end with that nobody disturbs."""
    return together(endpoints, job(files, "2"), 2)


@pytest.fixture(scope="module")
def whole(endpoints: Endpoints, files: tuple[dict[str, Any], ...], pair: list[Any]) -> str:
    """The digest of their weights."""
    return digest(endpoints, job(files, "2"))


def digest(endpoints: Endpoints, job: Job) -> str:
    return hashlib.sha256(ObjectReader(CHECKPOINTS, endpoints, METER).get(f"{job.prefix}/weights/line")).hexdigest()


def require_as_alone(endpoints: Endpoints, files: tuple[dict[str, Any], ...], ends: list[Any]) -> None:
    """Check that workers learned what one learns, and that the first one wrote it."""
    alone = train(job(files, "alone"), *readers(endpoints), ObjectWriter(CHECKPOINTS, endpoints, METER), lambda *step: None)
    first, *others = ends
    assert isinstance(first, Trained), first
    assert (first.workers, first.steps, first.taken) == (len(ends), STEPS, STEPS)
    assert all(isinstance(other, Trained) and not other.checkpoints for other in others), others
    assert learned(endpoints, job(files, f"{len(ends)}")) == pytest.approx(learned(endpoints, job(files, "alone")), abs=1e-6)
    assert first.last_loss == pytest.approx(alone.last_loss, abs=1e-4)


def test_two_workers_learn_what_one_learns(endpoints: Endpoints, files: tuple[dict[str, Any], ...], pair: list[Any]) -> None:
    require_as_alone(endpoints, files, pair)


@pytest.mark.soak(minutes=0.2)
def test_three_workers_learn_what_one_learns(endpoints: Endpoints, files: tuple[dict[str, Any], ...]) -> None:
    require_as_alone(endpoints, files, together(endpoints, job(files, "3"), 3))


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.soak(minutes=0.2)), 1])
def test_a_killed_worker_strands_nobody_and_all_go_on_to_the_same_weights(
    endpoints: Endpoints, files: tuple[dict[str, Any], ...], whole: str, victim: int
) -> None:
    mine = job(files, f"killed-{victim}")
    ends = together(endpoints, mine, 2, victim=victim, dies_at=7)
    assert isinstance(ends[1 - victim], PeerLost)
    store = ObjectReader(CHECKPOINTS, endpoints, METER)
    reached = newest(store, mine.prefix)
    assert reached in range(0 if victim else 2, 8, 2)
    assert not list(store.list(f"{mine.prefix}/weights"))
    first, _ = together(endpoints, mine, 2)
    assert (first.steps, first.taken) == (STEPS, STEPS - reached)
    assert digest(endpoints, mine) == whole


@pytest.mark.soak(minutes=0.2)
def test_a_checkpoint_that_cannot_be_written_ends_all_and_leaves_none(
    endpoints: Endpoints, files: tuple[dict[str, Any], ...], whole: str
) -> None:
    mine = job(files, "full")
    first, second = together(endpoints, mine, 2, fails=True)
    assert isinstance(first, StorageFull)
    assert isinstance(second, PeerLost)
    assert not list(ObjectReader(CHECKPOINTS, endpoints, METER).list(f"{mine.prefix}/"))
    together(endpoints, mine, 2)
    assert digest(endpoints, mine) == whole
