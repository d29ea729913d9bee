"""Local execution of batch work and training functions, and the protocols; `ray_runner` is the version for a cluster."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from headrace.core.peers import ALONE
from headrace.storage.meter import Meter

R = TypeVar("R")
Report = Callable[[int, int, float], None]


class Launch(Protocol):
    """Runs a training function, on so many workers at once."""

    workers: int

    def require(self) -> None:
        """Raise `BadSettings` where so many workers cannot train together here."""
        ...

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """Run `loop(*arguments, report, peers)` on every worker, and return what the first one returns.

        Handles among the arguments count in the caller's ledger, wherever it runs.
        """
        ...


class LocalLauncher:
    """Runs training functions in this process, which is their only worker."""

    workers = 1

    def require(self) -> None:
        """See `Launch.require`."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`."""
        return loop(*arguments, report, ALONE)


Work = Callable[[pa.RecordBatch], pa.RecordBatch | Iterable[pa.RecordBatch]]


class Batches(Protocol):
    """Runs batch work, on as many workers at once; `remote`, if they are other processes, perhaps on other machines."""

    workers: int
    remote: bool

    def map(self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any) -> Iterator[pa.RecordBatch]:
        """Apply `work(*args)`, built once per worker, to each batch. 1:N is allowed; results keep the source's order."""
        ...

    def metered(self, meter: Meter) -> Batches:
        """The same, which counts what it keeps on storage for itself, if anything, with this meter."""
        ...


class Threads:
    """Runs batch work on threads, with at most two batches per worker in memory."""

    remote = False

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers

    def map(self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. The first error of a worker ends the map and is raised."""
        mine = threading.local()

        def apply(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
            if not hasattr(mine, "work"):
                mine.work = work(*args)
            return listed(mine.work(batch))

        waiting: deque[Future[list[pa.RecordBatch]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        try:
            for batch in source:
                waiting.append(pool.submit(apply, batch))
                if len(waiting) >= 2 * self.workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def metered(self, meter: Meter) -> Threads:
        """See `Batches.metered`: everything is in memory."""
        return self


def listed(result: pa.RecordBatch | Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The result of work, one batch or several, as a list."""
    return [result] if isinstance(result, pa.RecordBatch) else list(result)
