"""So much in so many seconds, by tenant: a bucket that refills steadily."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headrace.errors import Overloaded

_KEPT = 10_000


class Rate:
    """A bucket per tenant that holds what may come in `seconds` and refills as steadily as it may come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # when, and how full then
        self._lock = threading.Lock()

    def wait_s(self, tenant: str, most: int, taken: int = 1) -> float:
        """Take so much; 0, or where there is not so much in the bucket the seconds until there is, and nothing is taken."""
        now = self._clock()
        with self._lock:
            since, level = self._buckets.get(tenant, (now, float(most)))
            level = min(float(most), level + (now - since) * most / self._seconds)
            if level < taken:
                return (taken - level) * self._seconds / most
            self._buckets[tenant] = (now, level - taken)
            if len(self._buckets) > _KEPT:  # what is full again need not be remembered
                self._buckets = {name: kept for name, kept in self._buckets.items() if now - kept[0] < self._seconds}
            return 0.0

    def take(self, tenant: str, per_minute: int) -> None:
        """Count a request. Raises `Overloaded`, which says when the next may come."""
        if wait_s := self.wait_s(tenant, per_minute):
            error = Overloaded(f"This tenant may send {per_minute} requests a minute.", hint="Send them more slowly.")
            error.retry_s = wait_s
            raise error
