"""Batch work and training on Ray. Import it only through `ray_cluster.cluster`, which sets Ray's environment variables."""

from __future__ import annotations

import gc
import logging
import os
import re
import secrets
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from headrace.core.launch import Report, Work, listed
from headrace.errors import HeadraceError, Unavailable
from headrace.storage.objects import ObjectReader

# Errors arrive as exceptions; Ray Data would also print them, and every finished dataset.
logging.getLogger("ray.data").setLevel(logging.CRITICAL)

_GROUP_BATCHES = 256
_GROUP_BYTES = 64 << 20
_ACTOR_CPUS = 0.5
_SPILLED = re.compile(r"'obj_store_mem_spilled': (\d+)")


class RayBatches:
    """Runs batch work on Ray actors. The source is read in groups of at most 256 batches or 64 MiB, one in memory at a time.

    Work is built once per actor and group. Rows and schema are as with `Threads`; Ray may merge adjacent results into one batch
    and drops batches without rows. `spilled_bytes` of the results were spilled by Ray's object store, as Ray Data says.
    """

    def __init__(self) -> None:
        self.spilled_bytes = 0

    def usage(self) -> dict[str, Any]:
        """What the cluster has, and what was spilled: nodes, cpus, object_store_bytes, spilled_bytes."""
        resources = ray.cluster_resources()
        return {
            "nodes": sum(1 for node in ray.nodes() if node["Alive"]),
            "cpus": resources.get("CPU", 0.0),
            "object_store_bytes": int(resources.get("object_store_memory", 0)),
            "spilled_bytes": self.spilled_bytes,
        }

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. The first of Headrace's own errors ends the map and is raised unwrapped."""
        built = None
        for group in _groups(source):
            # By reference, since Ray records constructor arguments, and an endpoint contains a key.
            built = built or ray.put((work, args))
            try:
                results = _mapped(group, built, min(workers, len(group)))
                for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield from (rows for rows in table.combine_chunks().to_batches() if rows.num_rows)
                self.spilled_bytes += sum(map(int, _SPILLED.findall(results.stats())))
            except Exception as error:
                if (ours := _ours(error)) is not None:
                    raise ours from None
                raise


class _Actor:
    """One worker: the work class, built once."""

    def __init__(self, built: list[Any]) -> None:
        work, args = ray.get(built[0])
        self._work: Work = work(*args)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for rows in table.combine_chunks().to_batches():
            for result in listed(self._work(rows)):
                yield pa.Table.from_batches([result])


def _groups(source: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for rows in source:
        if rows.num_rows:
            group.append(rows)
            size += rows.nbytes
        if len(group) >= _GROUP_BATCHES or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _mapped(group: list[pa.RecordBatch], built: Any, workers: int) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.verbose_stats_logs = True  # what was spilled is only there
    # If actors hold every CPU of a cluster, Ray Data's own tasks wait for ever.
    cpus = min(_ACTOR_CPUS, ray.cluster_resources().get("CPU", 1.0) / (2 * workers))
    return ray.data.from_arrow([pa.Table.from_batches([rows]) for rows in group]).map_batches(
        _Actor,
        fn_constructor_args=([built],),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=round(cpus, 4),
    )


def _ours(error: BaseException | None) -> HeadraceError | None:
    """The Headrace error wrapped by Ray's, if any. Ray's own copy has a traceback as its message."""
    while error is not None:
        if isinstance(error, ray.exceptions.RayTaskError):
            error = error.cause
        elif isinstance(error, HeadraceError):
            return error
        else:
            error = error.__cause__ or error.__context__
    return None


R = TypeVar("R")
_Step = tuple[int, int, float]
_Exports = list[list[dict[str, Any]]]

_RESTARTS = 2
_LOOK_S = 0.25


class RayTrain:
    """Runs training on one Ray Train worker, with as many CPUs as this machine would use; restarts a dead worker twice.

    The training function then resumes from its own latest checkpoint: Ray's checkpoints are not used, and its storage path is a
    temporary directory. Bytes that a dead worker moved after its last report are not in the ledger.
    """

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`; `report` gets the latest step about four times a second.

        Raises the function's own errors, and `Unavailable` if its worker died too often.
        """
        # Imported here because it imports torch, which batch work does not need.
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.backend import Backend
        from ray.train.torch import TorchConfig, TorchTrainer

        class Alone(TorchConfig):  # type: ignore[misc]
            """No process group: one worker needs none, and torch's would listen on all addresses of the machine."""

            @property
            def backend_cls(self) -> type[Backend]:
                return Backend  # type: ignore[no-any-return]

        # Ended actors of batch work are in reference cycles and hold CPUs until they are collected; the worker would wait for
        # those for ever.
        gc.collect()
        ledgers = list({id(a.meter.ledger): a.meter.ledger for a in arguments if isinstance(a, ObjectReader)}.values())
        # Pickled together, so that handles and ledgers still refer to each other in the worker.
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
                    hint="Run the command again: it continues from the latest checkpoint.",
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
    """An actor that holds the worker's latest step and ledgers for the driver."""

    def __init__(self) -> None:
        self._step: _Step | None = None
        self._exports: dict[str, _Exports] = {}

    def leave(self, attempt: str, step: _Step | None, exports: _Exports) -> None:
        """Store the latest state of each attempt, since a killed one has moved bytes too."""
        self._step = step or self._step
        self._exports[attempt] = exports

    def step(self) -> _Step | None:
        """The latest step."""
        return self._step

    def exports(self) -> list[_Exports]:
        """The ledgers of each attempt."""
        return list(self._exports.values())


def _attempt(handed: list[Any], post: Any) -> tuple[Any, Exception | None]:
    """Run the training function in a worker. Its errors are returned, because only a dead worker is to be restarted."""
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
    """Run `fit` on a thread and report steps. On the main thread, Ray Train would take over Ctrl-C for good."""
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
    """CPUs to request. Ray sets torch's threads to them, and the same number of threads as locally gives identical sums."""
    largest = max((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, int(largest)))
