"""A value that is read from storage at most about once a second, shared by handles with different meters and by threads."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace.errors import Transient

_RECENT_S = 1.0
_OLD_S = 30.0  # longer than the object store's timeout

T = TypeVar("T")


class Recent(Generic[T]):
    """The value as last read, and the lock for reading it: one thread refreshes it while the others use the cached one."""

    def __init__(self, *, again_s: float = 0.0) -> None:
        """`again_s`: seconds before a value that could not be read is read again, beside the one for which any value holds."""
        self._again_s = again_s
        self._known: tuple[float, T] | None = None
        self._asking = threading.Lock()

    def value(self, read: Callable[[T | None], T]) -> T:
        """The value, at most about a second old; `read` gets the former one, `None` for the first time.

        If it cannot be read, the cached value stays valid. Raises what `read` raises while there is none.
        """
        known = self._known
        age = math.inf if known is None else time.monotonic() - known[0]
        if known is not None and (age < _RECENT_S or not self._asking.acquire(blocking=age > _OLD_S)):
            return known[1]
        if known is None:
            self._asking.acquire()
        try:
            if self._known is None or self._known is known:
                former = None if known is None else known[1]
                wait_s = 0.0
                try:
                    value = read(former)
                except Transient:
                    if former is None:
                        raise
                    value, wait_s = former, self._again_s
                self._known = time.monotonic() + wait_s, value
            return self._known[1]
        finally:
            self._asking.release()
