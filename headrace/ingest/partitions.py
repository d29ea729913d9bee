"""Who lands which partitions, where several landers follow the same head: they divide its partitions among them.

They meet in one object, replaced by compare-and-swap: each adds one to its own count every so often. Whoever's count stands
still is gone, judged by each reader's own clock, so that no two clocks have to agree. For a moment two landers may think that a
partition is theirs; the position in the table then refuses one of them, so that this is about not doing work twice and never
about landing twice.
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
    """One lander's part in a topic's partitions."""

    def __init__(self, leases: ObjectWriter, topic: str) -> None:
        self.name = secrets.token_hex(6)
        self._leases = leases
        self._key = f"{topic}.json"
        self._counts: dict[str, int] = {}
        self._changed: dict[str, float] = {}
        self._beaten = -BEAT_S

    def assigned(self, partitions: Iterable[int]) -> set[int]:
        """Those of the partitions that are this lander's, by what it knows now; asks the others when it is time to."""
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beat()
        alive = sorted(self._counts)
        place = alive.index(self.name)
        return set(sorted(partitions)[place :: len(alive)])

    def leave(self) -> None:
        """Tell the others at once, rather than by silence."""
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
