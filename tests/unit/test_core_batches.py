"""Batch work on threads: order kept, 1:N, bounded memory, errors passed on, workers built once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from headrace.core.launch import Threads


def batch(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": list(values)})


def numbers(batches: Iterator[pa.RecordBatch]) -> list[int]:
    return [n for b in batches for n in b.column("n").to_pylist()]


class Uneven:
    """Takes longer for even numbers, so that later batches are ready before earlier ones."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if rows.column("n")[0].as_py() % 2 == 0:
            time.sleep(0.01)
        return rows


def test_order_is_the_sources() -> None:
    assert numbers(Threads(3).map((batch(n) for n in range(20)), Uneven)) == list(range(20))


class Several:
    """Gives each batch out as many times as its number says, as a generator."""

    def __call__(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for _ in range(rows.column("n")[0].as_py()):
            yield rows


def test_a_batch_may_become_none_or_several() -> None:
    assert numbers(Threads().map([batch(n) for n in (2, 0, 1, 3)], Several)) == [2, 2, 1, 3, 3, 3]


def test_nothing_in_nothing_out() -> None:
    assert list(Threads().map([], Several)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_source_is_read_no_further_ahead_than_two_batches_a_worker(workers: int) -> None:
    pulled = 0

    def source() -> Iterator[pa.RecordBatch]:
        nonlocal pulled
        for n in range(60):
            pulled += 1
            yield batch(n)

    ahead = []
    for done, _ in enumerate(Threads(workers).map(source(), Uneven), 1):
        ahead.append(pulled - done)
    assert max(ahead) <= 2 * workers
    assert pulled == 60


class Built:
    """Notes who built it and who called it."""

    def __init__(self, built: list[int], called: list[int]) -> None:
        built.append(threading.get_ident())
        self._called = called

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        self._called.append(threading.get_ident())
        time.sleep(0.002)
        return rows


def test_the_work_is_built_once_per_worker() -> None:
    built: list[int] = []
    called: list[int] = []
    assert numbers(Threads(2).map((batch(n) for n in range(30)), Built, built, called)) == list(range(30))
    assert len(built) == len(set(built)) <= 2
    assert set(called) == set(built)
    assert len(called) == 30


class Fails:
    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if rows.column("n")[0].as_py() == 5:
            raise ValueError("the fifth")
        return rows


def test_an_error_of_the_work_ends_the_map_after_what_came_before_it() -> None:
    pulled = []

    def source() -> Iterator[pa.RecordBatch]:
        for n in range(1000):
            pulled.append(n)
            yield batch(n)

    got: list[int] = []
    results = Threads().map(source(), Fails)
    for _ in range(5):
        got += numbers(iter([next(results)]))
    with pytest.raises(ValueError, match="the fifth"):
        next(results)
    assert got == [0, 1, 2, 3, 4]
    assert len(pulled) < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


class Cannot:
    def __init__(self) -> None:
        raise RuntimeError("no weights")


def test_an_error_in_building_the_work_is_raised() -> None:
    with pytest.raises(RuntimeError, match="no weights"):
        list(Threads().map([batch(1)], Cannot))  # type: ignore[arg-type]


def test_an_error_of_the_source_is_raised_and_threads_end() -> None:
    def source() -> Iterator[pa.RecordBatch]:
        yield batch(1)
        raise OSError("source gone")

    with pytest.raises(OSError, match="source gone"):
        list(Threads().map(source(), Uneven))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    results = Threads().map((batch(n) for n in range(1000)), Uneven)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
