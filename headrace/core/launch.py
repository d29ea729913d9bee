"""Where batch work and a training loop function run: here; `ray_runner` is the same on a cluster."""

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
    """How a loop function is run."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """Run `loop(*arguments, report)`. Handles among the arguments count into the caller's ledger, wherever it runs."""
        ...


class LocalLauncher:
    """In this process."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`."""
        return loop(*arguments, report)


Work = Callable[[pa.RecordBatch], pa.RecordBatch | Iterable[pa.RecordBatch]]


class Batches(Protocol):
    """How batch work is run."""

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """Apply `work(*args)`, built once per worker, to each batch; 1:N allowed; results in the order of the source."""
        ...


class Threads:
    """Batch work on threads of this process: at most two batches per worker are in memory."""

    def map(
        self, source: Iterable[pa.RecordBatch], work: Callable[..., Work], *args: Any, workers: int = 2
    ) -> Iterator[pa.RecordBatch]:
        """See `Batches.map`. The first error of a worker ends the map and is raised here."""
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
    """What a piece of work returned, as a list: it may return one batch or several."""
    return [result] if isinstance(result, pa.RecordBatch) else list(result)
