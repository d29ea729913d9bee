"""Workloads: their declaration, the threads that drive them, and their results."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic

from headrace.catalog import Tier
from headrace.check.promise import Sandbox
from headrace.core.statistics import percentile

MIB = 1 << 20
_QUICK_S = 0.2  # with less time than this for a workload, everything in it is small


@dataclass(frozen=True)
class Effort:
    """What a workload may spend: seconds, and operations in flight. The first operations are made however long they take."""

    seconds: float
    concurrency: int

    @property
    def quick(self) -> bool:
        """Whether there is so little time that a workload should move little."""
        return self.seconds < _QUICK_S


@dataclass(frozen=True)
class Timed:
    """What a workload did: its shape in words, operations in flight, each one's duration, and bytes in `seconds` of wall time.

    `client_cores` is how many processor cores this process used meanwhile: near the machine's number, the client is the limit.
    """

    shape: str
    concurrency: int
    durations: Sequence[float]
    bytes: int
    seconds: float
    client_cores: float


@dataclass(frozen=True)
class WorkloadResult:
    """A workload's figures, or why there are none (`failed`).

    Rates are of all operations in flight together; latencies are of one operation. `requirement` is the id of the requirement
    that the figures are about (`requirements.py`); empty if none fits.
    """

    tier: Tier
    workload: str
    shape: str = ""
    concurrency: int = 0
    ops: int = 0
    bytes: int = 0
    seconds: float = 0.0
    ops_per_s: float = 0.0
    mib_per_s: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    client_cores: float = 0.0
    requirement: str = ""
    failed: str = ""

    @classmethod
    def of(cls, tier: Tier, workload: str, requirement: str, timed: Timed) -> WorkloadResult:
        """The figures of what was timed."""
        ops = len(timed.durations)
        p50, p95, p99 = (round(percentile(timed.durations, share) * 1e3, 3) for share in (0.50, 0.95, 0.99))
        return cls(
            tier,
            workload,
            shape=timed.shape,
            concurrency=timed.concurrency,
            ops=ops,
            bytes=timed.bytes,
            seconds=round(timed.seconds, 3),
            ops_per_s=round(ops / timed.seconds, 2),
            mib_per_s=round(timed.bytes / MIB / timed.seconds, 3),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            client_cores=round(timed.client_cores, 2),
            requirement=requirement,
        )

    @property
    def name(self) -> str:
        """Tier and workload: what results of two checks are compared by."""
        return f"{self.tier} {self.workload}"


@dataclass(frozen=True)
class Workload(Generic[Sandbox]):
    """One workload: its name, the requirement that its figures are about, and what drives it in a sandbox."""

    name: str
    requirement: str
    drive: Callable[[Sandbox, Effort], Timed]


def workload(name: str, *, requirement: str = "") -> Callable[[Callable[[Sandbox, Effort], Timed]], Workload[Sandbox]]:
    """Declare a function as a workload."""

    def declared(run: Callable[[Sandbox, Effort], Timed]) -> Workload[Sandbox]:
        return Workload(name, requirement, run)

    return declared


def drive(
    operation: Callable[[int], int],
    effort: Effort,
    shape: str,
    *,
    least: int | None = None,
    most: int = 1_000_000,
    before: Callable[[int], Any] = lambda number: None,
) -> Timed:
    """Call `operation` with 0, 1, 2 … from `effort.concurrency` threads until the time is up; it returns the bytes it moved.

    At least `least` calls (one for each thread) and at most `most`. `before` prepares a call and does not count in its duration,
    but in the wall time. The first error of a call ends the workload and is raised.
    """
    numbers, stop = itertools.count(), threading.Event()
    floor = effort.concurrency if least is None else least
    began, cpu = time.perf_counter(), time.process_time()
    end = began + effort.seconds

    def run() -> tuple[list[float], int]:
        durations, moved = [], 0
        while not stop.is_set():
            number = next(numbers)
            if number >= most or (number >= floor and time.perf_counter() >= end):
                break
            try:
                before(number)
                at = time.perf_counter()
                moved += operation(number)
            except BaseException:
                stop.set()
                raise
            durations.append(time.perf_counter() - at)
        return durations, moved

    with ThreadPoolExecutor(effort.concurrency) as threads:
        results = [each.result() for each in [threads.submit(run) for _ in range(effort.concurrency)]]
    took = max(time.perf_counter() - began, 1e-9)
    durations = [one for each, _ in results for one in each]
    return Timed(
        shape, effort.concurrency, durations, sum(moved for _, moved in results), took, (time.process_time() - cpu) / took
    )


def size_words(size: int) -> str:
    """A size in binary units: 4 KiB, 16 MiB."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size >> 10} KiB"
