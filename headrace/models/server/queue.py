"""One thread per model, with a queue of requests; beyond a limit requests are rejected instead of waiting."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import PriorityQueue
from typing import Any, TypeVar

from headrace.errors import Overloaded, Unavailable

T = TypeVar("T")
_Work = tuple[int, int, "Future[Any]", Callable[[], Any]]
_URGENT, _USUAL, _BACKGROUND = range(3)


class ModelQueue:
    """Runs one piece of work at a time on its own thread, so that a model uses one team of processor threads.

    Urgent work runs before other work that waits, and background work after it. `slots` is the most requests under way or
    waiting.
    """

    def __init__(self, name: str, *, slots: int = 16) -> None:
        self.name = name
        self.stopping = False
        self._slots = slots
        self._inside = 0
        self._left = time.monotonic()
        self._order = itertools.count()
        self._waiting: PriorityQueue[_Work] = PriorityQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots during a request; called on the event loop only. Raises `Overloaded` if none is free."""
        if self._inside >= self._slots:
            raise Overloaded(f"The {self.name} has {self._inside} requests under way or waiting.", hint="Try again in a second.")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._left = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 during a request."""
        return 0.0 if self._inside else time.monotonic() - self._left

    def submit(self, work: Callable[[], T], *, urgent: bool = False, background: bool = False) -> Future[T]:
        """Queue work; cancelling its future drops work that has not begun."""
        future: Future[T] = Future()
        rank = _URGENT if urgent else _BACKGROUND if background else _USUAL
        self._waiting.put((rank, next(self._order), future, work))
        return future

    async def run(self, work: Callable[[], T], *, urgent: bool = False) -> T:
        """The result of `work`. Raises `Unavailable` if the queue is stopping."""
        return await asyncio.wrap_future(self.submit(work, urgent=urgent))

    def stop(self) -> None:
        """Start no more work. Takes no lock, so that a signal handler may call it."""
        self.stopping = True

    def _work(self) -> None:
        while True:
            _, _, future, work = self._waiting.get()
            if not future.set_running_or_notify_cancel():
                continue
            if self.stopping:
                future.set_exception(Unavailable("The model server is stopping.", hint="Start it and ask again."))
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del future, work
