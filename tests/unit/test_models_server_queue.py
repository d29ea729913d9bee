"""The queue in front of a model: its bound, its order, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from headrace.errors import Overloaded, Unavailable
from headrace.models.server.queue import ModelQueue


@pytest.fixture
def queue() -> ModelQueue:
    return ModelQueue("generator", slots=2)


@pytest.fixture
def held(queue: ModelQueue) -> Iterator[threading.Event]:
    """Keeps the queue busy until it is set, at the latest when the test ends."""
    begun, over = threading.Event(), threading.Event()
    queue.submit(lambda: (begun.set(), over.wait(20)))
    assert begun.wait(20)
    yield over
    over.set()


def test_as_many_requests_come_in_as_there_are_places_and_one_more_is_sent_away(queue: ModelQueue) -> None:
    with queue.slot():
        with queue.slot():
            with pytest.raises(Overloaded, match="The generator has 2 requests under way or waiting"), queue.slot():
                pass
            assert queue.idle_s == 0.0
        with queue.slot():
            pass
        with pytest.raises(ValueError, match="by design"), queue.slot():
            raise ValueError("by design")
        with queue.slot():
            pass  # what failed gave its place back


def test_urgent_work_goes_before_what_waits_and_each_in_its_order(queue: ModelQueue, held: threading.Event) -> None:
    done: list[str] = []
    words = [("a", False), ("b", True), ("c", False), ("d", True)]
    futures = [queue.submit(lambda word=word: done.append(word), urgent=urgent) for word, urgent in words]  # type: ignore[misc]
    held.set()
    for future in futures:
        future.result(20)
    assert done == ["b", "d", "a", "c"]


def test_what_was_given_up_before_it_began_is_not_done(queue: ModelQueue, held: threading.Event) -> None:
    done: list[str] = []
    dropped, kept = queue.submit(lambda: done.append("dropped")), queue.submit(lambda: done.append("kept"))
    assert dropped.cancel()
    held.set()
    kept.result(20)
    assert done == ["kept"]


def test_work_that_fails_ends_nothing_else(queue: ModelQueue) -> None:
    def fail() -> None:
        raise ValueError("by design")

    with pytest.raises(ValueError, match="by design"):
        asyncio.run(queue.run(fail))
    assert asyncio.run(queue.run(lambda: 7)) == 7


def test_once_it_is_stopping_nothing_more_begins(queue: ModelQueue, held: threading.Event) -> None:
    waiting = queue.submit(lambda: 7)
    queue.stop()
    held.set()
    with pytest.raises(Unavailable, match="is stopping"):
        waiting.result(20)
