"""Limits on requests: slots for questions, shared fairly between tenants; rates; wrong keys by address."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.errors import Overloaded
from headrace.storage.metadata import AuditLine, By

_WAKE_S = 0.2
_KEPT_S = 6.0
"""Seconds for which a rejected question is remembered: longer than its `Retry-After`."""
_KEPT = 100
"""Rejected questions of a tenant that are remembered."""


@dataclass(eq=False)
class Ticket:
    """The slot of one question."""

    tenant: str
    begun: bool = False


@dataclass
class _Rejected:
    """A rejected question: until when it is remembered, and whether it has come back since."""

    until: float
    returned: bool = False


class AdmissionQueue:
    """Slots for questions: `at_once` are answered, `waiting` more wait.

    The tenant with the fewest questions under way is next; each tenant's questions keep their order. If all slots are taken, a
    tenant without one still gets one, so that tenants cannot lock each other out.

    A rejected question that is retried is recognised by its text. If it is rejected again, the tenant's next free slot is
    reserved for it, first come, first served: clients that were just answered would otherwise always be faster.
    """

    def __init__(self, at_once: int, waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once, self._most = at_once, at_once + waiting
        self._clock = clock
        self._inside: list[Ticket] = []
        self._rejected: dict[tuple[str, int], _Rejected] = {}  # by tenant and hash, oldest first
        self._changed = threading.Condition()

    @property
    def counts(self) -> tuple[int, int]:
        """How many questions are worked on, and how many wait."""
        with self._changed:
            begun = sum(ticket.begun for ticket in self._inside)
            return begun, len(self._inside) - begun

    def enter(self, tenant: str = "", most: int | None = None, question: str = "") -> Ticket:
        """Take a slot. Raises `Overloaded` if none is free, or the tenant already has `most`."""
        with self._changed:
            name = (tenant, hash(question))
            own = sum(ticket.tenant == tenant for ticket in self._inside)
            before = self._before(name)
            if most is not None and own + before >= most:
                self._reject(name)
                raise Overloaded(
                    f"This tenant has {most} questions under way or next in line, which is its limit.",
                    hint="Try again in a moment.",
                )
            if len(self._inside) + before >= self._most and (own or len(self._inside) >= 4 * self._most):
                self._reject(name)
                raise Overloaded(
                    f"{self._most} questions are being answered or waiting, which is the limit of this machine.",
                    hint="Try again in a moment.",
                )
            self._rejected.pop(name, None)
            ticket = Ticket(tenant)
            self._inside.append(ticket)
            self._begin()
        return ticket

    def wait(self, ticket: Ticket, until: Callable[[], bool]) -> bool:
        """Wait for a ticket's turn; false if `until` returned true first."""
        with self._changed:
            while not ticket.begun:
                if until():
                    return False
                self._changed.wait(_WAKE_S)
        return not until()

    def give_way(self, ticket: Ticket) -> None:
        """Let the questions of tenants with fewer under way go first; `wait` for the ticket's next turn."""
        with self._changed:
            if ticket in self._inside:
                ticket.begun = False
                self._inside.remove(ticket)
                self._inside.append(ticket)
                self._begin()
                self._changed.notify_all()

    def leave(self, ticket: Ticket) -> None:
        """Free a slot; repeating it has no effect."""
        with self._changed:
            if ticket in self._inside:
                self._inside.remove(ticket)
                self._begin()
                self._changed.notify_all()

    def _before(self, name: tuple[str, int]) -> int:
        """The number of slots reserved for questions of the tenant that come before this one."""
        now = self._clock()
        self._rejected = {other: rejected for other, rejected in self._rejected.items() if rejected.until > now}
        own = [(other, rejected.returned) for other, rejected in self._rejected.items() if other[0] == name[0]]
        return sum(returned for _, returned in itertools.takewhile(lambda one: one[0] != name, own))

    def _reject(self, name: tuple[str, int]) -> None:
        until = self._clock() + _KEPT_S
        if name in self._rejected:
            self._rejected[name] = _Rejected(until, returned=True)  # keeps its position in the order
        elif sum(other[0] == name[0] for other in self._rejected) < _KEPT:
            self._rejected[name] = _Rejected(until)

    def _begin(self) -> None:
        begun = Counter(ticket.tenant for ticket in self._inside if ticket.begun)
        waiting = [ticket for ticket in self._inside if not ticket.begun]
        while waiting and begun.total() < self._at_once:
            ticket = min(waiting, key=lambda waits: begun[waits.tenant])  # of equals, the first
            ticket.begun = True
            begun[ticket.tenant] += 1
            waiting.remove(ticket)


_MOST_BUCKETS = 10_000


class Rate:
    """A bucket per tenant that holds what is allowed in `seconds`, and refills steadily."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # when, and how full then
        self._lock = threading.Lock()

    def wait_s(self, tenant: str, most: int, taken: int = 1) -> float:
        """Take so much from the bucket and return 0; or take nothing and return the seconds until there is enough."""
        now = self._clock()
        with self._lock:
            since, level = self._buckets.get(tenant, (now, float(most)))
            level = min(float(most), level + (now - since) * most / self._seconds)
            if level < taken:
                return (taken - level) * self._seconds / most
            self._buckets[tenant] = (now, level - taken)
            if len(self._buckets) > _MOST_BUCKETS:  # full buckets need not be remembered
                self._buckets = {name: bucket for name, bucket in self._buckets.items() if now - bucket[0] < self._seconds}
            return 0.0

    def take(self, tenant: str, per_minute: int, requests: int = 1) -> None:
        """Count a request, as several if it is large. Raises `Overloaded` with the seconds until the next one is allowed."""
        if wait_s := self.wait_s(tenant, per_minute, min(requests, per_minute)):
            error = Overloaded(f"This tenant may send {per_minute} requests a minute.", hint="Send them more slowly.")
            error.retry_s = wait_s
            raise error


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
    """Counts wrong keys by address and minute; safe to share between threads, and bounded for any number of addresses.

    A right key is admitted whatever came before it: behind a proxy, and on this machine, many clients share an address.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: dict[str, _Minute] = {}
        self._over: list[AuditLine] = []
        self._lock = threading.Lock()

    def wrong(self, address: str) -> float | None:
        """Count a wrong key; returns the seconds until the next try if there were too many, else `None`."""
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
        """One line of the audit for each address and minute that is over, or with `all_of_them` for all; each once."""
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
