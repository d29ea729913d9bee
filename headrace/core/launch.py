"""Local execution of batch work and training functions, and the protocols; `ray_runner` is the version for a cluster."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import pyarrow as pa

R = TypeVar("R")
Report = Callable[[int, int, float], None]


class Launch(Protocol):
    """Runs a training function."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """Run `loop(*arguments, report)`. Handles among the arguments count in the caller's ledger, wherever it runs."""
        ...


class LocalLauncher:
    """Runs training functions in this process."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`."""
        return loop(*arguments, report)


Work = Callable[[pa.RecordBatch], pa.RecordBatch | Iterable[pa.RecordBatch]]


class Batches(Protocol):
    """Runs batch work."""

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """Apply `work(*args)`, built once per worker, to each batch. 1:N is allowed; results keep the source's order."""
        ...


class Threads:
    """Runs batch work on threads, with at most two batches per worker in memory."""

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. The first error of a worker ends the map and is raised."""
        mine = threading.local()

        def apply(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
            if not hasattr(mine, "work"):
                mine.work = work(*args)
            return listed(mine.work(batch))

        waiting: deque[Future[list[pa.RecordBatch]]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        try:
            for batch in source:
                waiting.append(pool.submit(apply, batch))
                if len(waiting) >= 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def listed(result: pa.RecordBatch | Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The result of work, one batch or several, as a list."""
    return [result] if isinstance(result, pa.RecordBatch) else list(result)
