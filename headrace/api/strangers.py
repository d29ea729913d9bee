"""Wrong keys: how many come from where, and when it is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.storage.metadata import AuditLine, By

PER_MINUTE = 20
_MINUTE_S = 60.0
_ADDRESSES = 1_000
_OTHERS = "other addresses"
ACTION = "key.refused"


@dataclass
class _Minute:
    """The wrong keys of an address in the minute since `begun`."""

    begun: float
    at: datetime
    tries: int = 0


class Strangers:
    """Counts wrong keys by address and minute; safe to share between threads, and bounded however many addresses there are.

    A right key is let in whatever came before it: behind a proxy, and on this machine, many share an address.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: dict[str, _Minute] = {}
        self._over: list[AuditLine] = []
        self._lock = threading.Lock()

    def wrong(self, address: str) -> float | None:
        """Count a wrong key; the seconds until the next may be tried, where there were too many."""
        now = self._clock()
        with self._lock:
            if address not in self._minutes and len(self._minutes) >= _ADDRESSES:
                address = _OTHERS
            minute = self._minutes.get(address)
            if minute is None or now - minute.begun >= _MINUTE_S:
                self._close(address)
                minute = self._minutes[address] = _Minute(now, datetime.now(UTC))
            minute.tries += 1
            return minute.begun + _MINUTE_S - now if minute.tries > PER_MINUTE else None

    def lines(self, *, all_of_them: bool = False) -> list[AuditLine]:
        """A line of the audit for each address and minute that is over (or not yet), each once."""
        now = self._clock()
        with self._lock:
            for address, minute in list(self._minutes.items()):
                if all_of_them or now - minute.begun >= _MINUTE_S:
                    self._close(address)
            lines, self._over = self._over, []
            return lines

    def _close(self, address: str) -> None:
        if (minute := self._minutes.pop(address, None)) is not None:
            tries = f"{minute.tries:,} {'try' if minute.tries == 1 else 'tries'} in a minute"
            self._over.append(AuditLine(By("", "", address), ACTION, tries, "invalid_api_key", minute.at))
