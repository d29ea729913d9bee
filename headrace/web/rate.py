"""Requests a minute, by tenant: a bucket that refills steadily."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headrace.errors import Overloaded

_KEPT = 10_000


class Rate:
    """A bucket per tenant that holds a minute's requests and refills as steadily as they may come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # when, and how full then
        self._lock = threading.Lock()

    def take(self, tenant: str, per_minute: int) -> None:
        """Count a request. Raises `Overloaded`, which says when the next may come."""
        now = self._clock()
        with self._lock:
            since, level = self._buckets.get(tenant, (now, float(per_minute)))
            level = min(float(per_minute), level + (now - since) * per_minute / 60)
            if level < 1:
                error = Overloaded(f"This tenant may send {per_minute} requests a minute.", hint="Send them more slowly.")
                error.retry_s = (1 - level) * 60 / per_minute
                raise error
            self._buckets[tenant] = (now, level - 1)
            if len(self._buckets) > _KEPT:  # what is full again need not be remembered
                self._buckets = {name: kept for name, kept in self._buckets.items() if now - kept[0] < 60}
