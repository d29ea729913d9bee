"""The training loop function under Ray Train. Import it through `ray_cluster.cluster` only: that sets Ray's environment first."""

from __future__ import annotations

import gc
import os
import secrets
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

import ray
import ray.exceptions

from headrace.core.launch import Report
from headrace.errors import Unavailable
from headrace.storage.objects import ObjectReader

R = TypeVar("R")
_Step = tuple[int, int, float]
_Exports = list[list[dict[str, Any]]]

_RESTARTS = 2
_LOOK_S = 0.25


class RayTrain:
    """One Ray Train worker on CPUs, as many as this machine would use; a worker that dies is started again, twice.

    The loop function resumes from its own latest checkpoint then: Ray's checkpoints are not used, and its storage path is a
    temporary directory. What a worker that died had moved since its last report is not in the ledger.
    """

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`; `report` gets the latest step about four times a second.

        Raises what the loop function raises, and `Unavailable` where its worker died once too often.
        """
        # Imported here: it imports torch, and batch work needs none.
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.backend import Backend
        from ray.train.torch import TorchConfig, TorchTrainer

        class Alone(TorchConfig):  # type: ignore[misc]
            """One worker needs no process group, and torch's would listen on every address of the machine."""

            @property
            def backend_cls(self) -> type[Backend]:
                return Backend  # type: ignore[no-any-return]

        # Actors of batch work that ended hang in cycles of references until they are collected, and hold CPUs meanwhile, for
        # which the worker would wait for ever.
        gc.collect()
        ledgers = list({id(a.meter.ledger): a.meter.ledger for a in arguments if isinstance(a, ObjectReader)}.values())
        # Pickled together, so that each ledger is the one its handles count into over there too.
        handed = [ray.put((loop, arguments, ledgers))]
        post = ray.remote(num_cpus=0)(_Post).remote()
        with tempfile.TemporaryDirectory(prefix="hr-train-") as folder:
            trainer = TorchTrainer(
                lambda: _attempt(handed, post),
                torch_config=Alone(),
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": _cpus()}),
                run_config=RunConfig(name="train", storage_path=folder, failure_config=FailureConfig(max_failures=_RESTARTS)),
            )
            try:
                value, error = _watched(trainer.fit, post, report).return_value
            except TrainingFailedError as failed:
                reason = next(iter(str(failed).strip().splitlines()[1:]), "no reason given").rstrip(".")
                raise Unavailable(
                    f"The training worker died {_RESTARTS + 1} times: {reason}.",
                    hint="Run the command again: it goes on from the latest checkpoint.",
                ) from failed
            finally:
                with suppress(ray.exceptions.RayError):
                    for exports in ray.get(post.exports.remote()):
                        for ledger, entries in zip(ledgers, exports, strict=True):
                            ledger.fold(entries)
        if error is not None:
            raise error
        result: R = value
        return result


class _Post:
    """Where the worker leaves its latest step and what its ledgers hold, for the driver to fetch."""

    def __init__(self) -> None:
        self._step: _Step | None = None
        self._exports: dict[str, _Exports] = {}

    def leave(self, attempt: str, step: _Step | None, exports: _Exports) -> None:
        """Keep the latest of each attempt: one that was killed has moved bytes too."""
        self._step = step or self._step
        self._exports[attempt] = exports

    def step(self) -> _Step | None:
        """The latest step."""
        return self._step

    def exports(self) -> list[_Exports]:
        """What each attempt moved."""
        return list(self._exports.values())


def _attempt(handed: list[Any], post: Any) -> tuple[Any, Exception | None]:
    """Run the loop function in a Ray Train worker; what it raises is returned, since only a dead worker is to be restarted."""
    loop, arguments, ledgers = ray.get(handed[0])
    name = secrets.token_hex(4)

    def leave(step: _Step | None) -> Any:
        exports = [ledger.export() for ledger in ledgers]
        return post.leave.remote(name, step, exports)

    try:
        return loop(*arguments, lambda done, of, loss: leave((done, of, loss))), None
    except Exception as error:
        error.add_note(traceback.format_exc())
        return None, error
    finally:
        ray.get(leave(None))


def _watched(fit: Callable[[], Any], post: Any, report: Report) -> Any:
    """Run `fit` on a thread, since on the main one Ray Train takes over Ctrl-C for good, and report steps meanwhile."""
    fitted: Future[Any] = Future()

    def run() -> None:
        try:
            fitted.set_result(fit())
        except BaseException as error:
            fitted.set_exception(error)

    threading.Thread(target=run, name="train", daemon=True).start()
    seen: _Step | None = None
    while True:
        ended = bool(wait([fitted], _LOOK_S).done)
        step = ray.get(post.step.remote())
        if step is not None and step != seen:
            report(*step)
            seen = step
        if ended:
            return fitted.result()


def _cpus() -> int:
    """CPUs to ask for: Ray sets torch's threads to them, and as many threads as here give the very sums they give here."""
    largest = max((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, int(largest)))
