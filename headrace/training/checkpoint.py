"""Checkpoints of a training: written in the background, durable before they are named the latest; only the newest are kept."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from headrace.catalog import CHECKPOINTS, ROUNDS
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.training import manifest
from headrace.training.manifest import Manifest
from headrace.training.scratch import scratch_folder

if TYPE_CHECKING:
    import torch


_LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one training, below `prefix` in the store.

        step-000020.pt   trained weights, optimizer, torch's RNG, and the position in the data: the step
        latest.json      the newest complete one; written only once that one is durable

    `save` copies the state and returns; a thread writes it. While it writes, the next checkpoint is skipped, so that training
    does not wait for storage. `stalled` is the seconds that training still waited, `writing` the seconds of the thread,
    `written` the number of checkpoints, `bytes` their size.
    """

    def __init__(self, store: ObjectWriter, prefix: str, keep: int) -> None:
        self._store = store
        self._prefix = prefix
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None
        self.latest = ""
        self.stalled = 0.0
        self.writing = 0.0
        self.written = 0
        self.bytes = 0

    def save(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, detail: dict[str, Any]) -> None:
        """Start writing the state after `step` steps, unless an earlier one is still being written.

        Raises the error of the previous write, if it failed.
        """
        if self._under_way is not None:
            if not self._under_way.done():
                return
            self._under_way.result()
        started = time.perf_counter()
        state = _state(step, model, optimizer, detail)
        self._under_way = self._pool.submit(self._write, step, state)
        self.stalled += time.perf_counter() - started

    def finish(self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, detail: dict[str, Any]) -> str:
        """Write the last state, wait until it is durable, and return its key."""
        try:
            self.wait()
            self._write(step, _state(step, model, optimizer, detail))
        finally:
            self.close()
        return self.latest

    def wait(self) -> None:
        """Wait until the checkpoint being written is durable."""
        if self._under_way is not None:
            self._under_way.result()

    def close(self) -> None:
        """End the thread after its current write."""
        self._pool.shutdown()

    def _write(self, step: int, state: dict[str, Any]) -> None:
        import torch

        started = time.perf_counter()
        key = _key(self._prefix, step)
        # Through a file, which is streamed: in memory there would be two or three copies.
        with scratch_folder() as folder:
            path = folder / "step.pt"
            with path.open("wb") as file:  # to a path, PyTorch does not say why it could not write
                torch.save(state, file)
            self.bytes += path.stat().st_size
            self._store.upload(key, path)
        self._store.put(f"{self._prefix}/{_LATEST}", json.dumps({"step": step, "key": key}).encode())
        self.latest = key
        steps = sorted(info.key for info in self._store.list(f"{self._prefix}/step-"))
        for old in steps[: -self._keep]:
            self._store.delete(old)
        self.writing += time.perf_counter() - started
        self.written += 1


def newest(store: ObjectReader, prefix: str) -> int:
    """The steps of the newest complete checkpoint; 0 if there is none.

    That is the one named the latest. Where a writer that was thought dead has named one that is removed by now, it is the newest
    that is there: each is published whole, by one upload.
    """
    try:
        latest = json.loads(store.get(f"{prefix}/{_LATEST}"))
    except NotFound:
        return 0
    there = sorted(info.key for info in store.list(f"{prefix}/step-"))
    if latest["key"] in there or not there:
        return int(latest["step"])
    return int(PurePosixPath(there[-1]).stem.removeprefix("step-"))


def resume(
    store: ObjectReader, prefix: str, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, str, dict[str, Any]]:
    """Load the checkpoint of so many steps: (steps taken, its key, its detail); (0, "", {}) for 0.

    Restores torch's RNG too, so that the next step is the one that would have followed. Raises `NotFound` if it is gone.
    """
    import torch

    if not step:
        return 0, "", {}
    key = _key(prefix, step)
    state = torch.load(io.BytesIO(store.get(key)), weights_only=True)
    model.load_state_dict(state["weights"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return int(state["step"]), key, state["detail"]


def _key(prefix: str, step: int) -> str:
    return f"{prefix}/step-{step:06d}.pt"


def _state(step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, detail: dict[str, Any]) -> dict[str, Any]:
    """A copy: training changes the tensors while this is written."""
    import torch

    # With duplicates: an output layer that shares the word embeddings has two names, and would count as a buffer under one.
    named = list(model.named_parameters(remove_duplicate=False))
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {
        "step": step,
        # Buffers are written too: they are small, and a step may change them.
        "weights": {name: value.detach().clone() for name, value in model.state_dict().items() if name not in frozen},
        "optimizer": _copied(optimizer.state_dict()),
        "rng": torch.get_rng_state(),
        "detail": _copied(detail),
    }


def _copied(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


_GRACE = timedelta(minutes=1)
_ROUNDS = 20


@stage("Removes checkpoints that no manifest names, once their round is over.")
def tidy(rounds: Annotated[ObjectReader, ROUNDS], checkpoints: Annotated[ObjectWriter, CHECKPOINTS]) -> int:
    """Remove them; returns their number.

    Of a training that a manifest names, the last checkpoint and the weights stay, and earlier steps are removed. Anything
    written around or after the time of the newest manifest stays too: it may belong to a round running in another process. What
    is older than the last rounds was looked at after each of these.
    """
    numbers = manifest.numbers(rounds)
    if not numbers or manifest.plan(rounds, numbers[-1] + 1) is not None:
        return 0
    newest = [manifest.read(rounds, number) for number in numbers[-_ROUNDS:]]
    until = datetime.fromisoformat(newest[-1].committed) - _GRACE
    since = datetime.fromisoformat(newest[0].committed) + _GRACE if len(numbers) > _ROUNDS else datetime.min.replace(tzinfo=UTC)
    unnamed = [info.key for info in checkpoints.list() if since < info.modified < until and not _named(info.key, newest)]
    if len(numbers) > _ROUNDS and unnamed:  # earlier rounds name it where the store was restored, which makes all of it new
        every = manifest.read_all(rounds).values()
        unnamed = [key for key in unnamed if not _named(key, every)]
    for key in unnamed:
        checkpoints.delete(key)
    return len(unnamed)


def _named(key: str, committed: Iterable[Manifest]) -> bool:
    """Whether one of these manifests names an object: the last checkpoint of its training, or another file of it."""
    if "/step-" in key:
        return any(key == found.training.checkpoint for found in committed)
    return any(key.startswith(f"{found.training.weights.rpartition('/')[0]}/") for found in committed)
