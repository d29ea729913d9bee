"""Bounds on what is under way at once: places for questions, shared fairly between tenants."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import Overloaded

_WAKE_S = 0.2


@dataclass(eq=False)
class Place:
    """One question's place."""

    tenant: str
    begun: bool = False


class Places:
    """`at_once` questions are worked on, `waiting` more wait.

    The tenant with the fewest questions worked on comes next; a tenant's own come in their order. Where all places are taken,
    a tenant that has none still gets one, so that nobody can be kept out by others.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once, self._most = at_once, at_once + waiting
        self._inside: list[Place] = []
        self._changed = threading.Condition()

    @property
    def counts(self) -> tuple[int, int]:
        """Questions worked on, questions waiting."""
        with self._changed:
            begun = sum(place.begun for place in self._inside)
            return begun, len(self._inside) - begun

    def enter(self, tenant: str = "", most: int | None = None) -> Place:
        """Take a place. Raises `Overloaded` where none is free, or the tenant has `most` already."""
        with self._changed:
            own = sum(place.tenant == tenant for place in self._inside)
            if most is not None and own >= most:
                raise Overloaded(
                    f"{own} questions of this tenant are under way, which is its limit.", hint="Try again in a moment."
                )
            if len(self._inside) >= self._most and (own or len(self._inside) >= 4 * self._most):
                raise Overloaded(
                    f"{len(self._inside)} questions are being answered or waiting, which is as many as this machine takes.",
                    hint="Try again in a moment.",
                )
            place = Place(tenant)
            self._inside.append(place)
            self._begin()
        return place

    def wait(self, place: Place, until: Callable[[], bool]) -> bool:
        """Wait for one's turn; false if `until` turned true first."""
        with self._changed:
            while not place.begun:
                if until():
                    return False
                self._changed.wait(_WAKE_S)
        return not until()

    def leave(self, place: Place) -> None:
        """Give the place back; once is enough."""
        with self._changed:
            if place in self._inside:
                self._inside.remove(place)
                self._begin()
                self._changed.notify_all()

    def _begin(self) -> None:
        begun = Counter(place.tenant for place in self._inside if place.begun)
        waiting = [place for place in self._inside if not place.begun]
        while waiting and begun.total() < self._at_once:
            place = min(waiting, key=lambda waits: begun[waits.tenant])  # of equals the first that came
            place.begun = True
            begun[place.tenant] += 1
            waiting.remove(place)
