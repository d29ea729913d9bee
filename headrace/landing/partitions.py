"""Partition assignment: landers that follow the same head divide its partitions among them.

They share one object, replaced by compare-and-swap, in which each increments its own heartbeat count. A lander whose count has
not changed for `GONE_S` seconds, by the observer's own clock, is considered gone, so clocks need not agree. For a moment two
landers may claim the same partition; the position in the table then makes one of the commits fail. The assignment avoids
duplicate work; it is not what prevents duplicate rows.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable

from headrace.errors import LostRace, NotFound
from headrace.storage.objects import ObjectWriter

BEAT_S = 2.0
GONE_S = 7.0


class PartitionAssignment:
    """One lander's share of a topic's partitions."""

    def __init__(self, leases: ObjectWriter, topic: str) -> None:
        self.name = secrets.token_hex(6)
        self._leases = leases
        self._key = f"{topic}.json"
        self._counts: dict[str, int] = {}
        self._changed: dict[str, float] = {}
        self._beaten = -BEAT_S

    def assigned(self, partitions: Iterable[int]) -> set[int]:
        """The partitions assigned to this lander; sends a heartbeat when one is due."""
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beat()
        alive = sorted(self._counts)
        rank = alive.index(self.name)
        return set(sorted(partitions)[rank :: len(alive)])

    def leave(self) -> None:
        """Leave at once, so that the others need not wait for the timeout."""
        self._exchange(leaving=True)

    def _beat(self) -> None:
        self._exchange()
        self._beaten = time.monotonic()

    def _exchange(self, *, leaving: bool = False) -> None:
        while True:
            try:
                data, etag = self._leases.get_with_etag(self._key)
                counts: dict[str, int] = json.loads(data)
            except NotFound:
                counts, etag = {}, ""
            now = time.monotonic()
            for name, count in counts.items():
                if self._counts.get(name) != count:
                    self._changed[name] = now
            counts = {name: count for name, count in counts.items() if now - self._changed[name] < GONE_S}
            counts[self.name] = counts.get(self.name, 0) + 1
            if leaving:
                del counts[self.name]
            new = json.dumps(counts, sort_keys=True).encode()
            try:
                if etag:
                    self._leases.put_if_match(self._key, new, etag)
                else:
                    self._leases.put_if_absent(self._key, new)
            except LostRace:
                continue
            self._counts = counts
            self._changed[self.name] = now
            return
