"""Reading ahead: what an iterator does next runs in a thread of its own, while what it gave before is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Iterates over `items` in a thread, at most `lead` of them ahead, the one in use included. Use it as a context manager.

    Order, end and errors are those of `items`. When the context ends, the thread has ended, so nothing is read after it.
    """

    def __init__(self, items: Iterator[T], lead: int) -> None:
        self._items = items
        self._free = threading.Semaphore(lead)
        self._found: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()
        self._left = False
        self._thread = threading.Thread(target=self._work, name="read ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._free.release()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            found = self._found.get()
            if isinstance(found, StopIteration):
                return
            if isinstance(found, BaseException):
                raise found
            yield found[0]
            self._free.release()

    def _work(self) -> None:
        try:
            while True:
                self._free.acquire()
                if self._left:
                    return
                self._found.put((next(self._items),))
        except BaseException as error:  # the end among them
            self._found.put(error)
