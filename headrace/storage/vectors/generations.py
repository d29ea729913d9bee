"""Which generation of the index answers: one small object, moved by compare-and-swap.

A generation is an index made in one way (chunk size, embedder): rows of its own in the chunks table, and a vector table of its
own. The object names the one that is served, the one before it, which can be gone back to, and the one that is being built.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from headrace.catalog import Store
from headrace.errors import LostRace, NotFound, Transient
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter

_KEY = "chunks.json"
_RECENT_S = 1.0
_OLD_S = 30.0  # longer than the object store is asked for; an index that is no longer served stays for a minute
_TRIES = 20


@dataclass(frozen=True)
class IndexGeneration:
    """How one generation is made: word pieces of a chunk, the embedder's model name, numbers in an embedding."""

    number: int
    window: int
    embedder: str
    width: int


@dataclass(frozen=True)
class Indexes:
    """What stands. `newest` is the highest number given out; `touched` counts passes that ended while one was being built.

    `marked_for_deletion` are generations that nobody asks any more, with the time (seconds since 1970) from which that was so.
    """

    serving: IndexGeneration | None = None
    fallback: IndexGeneration | None = None
    building: IndexGeneration | None = None
    newest: int = 0
    touched: int = 0
    marked_for_deletion: tuple[tuple[int, float], ...] = ()

    def with_marked(self, generation: IndexGeneration | None) -> tuple[tuple[int, float], ...]:
        """`marked_for_deletion` with one more."""
        return self.marked_for_deletion if generation is None else (*self.marked_for_deletion, (generation.number, time.time()))


@dataclass
class _CachedState:
    """What stood when it was asked last, for every handle that counts elsewhere, and who is asking."""

    known: tuple[float, Indexes] | None = None
    asking: threading.Lock = field(default_factory=threading.Lock)


class IndexReader(ObjectReader):
    """Asks which generation answers."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._cached = _CachedState()

    def state(self) -> tuple[Indexes, str]:
        """What stands now, and the etag that `IndexWriter.move` takes; empty where nothing was indexed yet."""
        try:
            data, etag = self.get_with_etag(_KEY)
        except NotFound:
            return Indexes(), ""
        return _read(json.loads(data)), etag

    def recent(self) -> Indexes:
        """What stood within the last second: one thread asks anew, the others go on meanwhile with what is not old.

        Where it cannot be asked, what was known stands: an index in a local directory need not stop with the object store.
        """
        cached = self._cached
        known = cached.known
        age = math.inf if known is None else time.monotonic() - known[0]
        if known is not None and (age < _RECENT_S or not cached.asking.acquire(blocking=age > _OLD_S)):
            return known[1]
        if known is None:
            cached.asking.acquire()
        try:
            if cached.known is None or cached.known is known:
                try:
                    cached.known = time.monotonic(), self.state()[0]
                except Transient:
                    if known is None:
                        raise
                    cached.known = time.monotonic(), known[1]
            return cached.known[1]
        finally:
            cached.asking.release()


class IndexWriter(IndexReader, ObjectWriter):
    """Says which generation answers."""

    def move(self, then: Indexes, etag: str) -> None:
        """Put `then` in the place of what had `etag`. Raises `LostRace` if that is not what stands."""
        data = json.dumps(asdict(then), indent=1).encode()
        if etag:
            self.put_if_match(_KEY, data, etag)
        else:
            self.put_if_absent(_KEY, data)

    def change(self, step: Callable[[Indexes], Indexes]) -> Indexes:
        """Apply `step` to whatever stands, again while somebody else is quicker, and return what stands then."""
        for _ in range(_TRIES):
            indexes, etag = self.state()
            then = step(indexes)
            if then == indexes:
                return then
            try:
                self.move(then, etag)
            except LostRace:
                continue
            return then
        raise LostRace("Others change which index answers, again and again.", hint="Run the command again.")


def touched(indexes: Indexes) -> Indexes:
    """One more pass has ended: whoever is about to switch has to look again."""
    return replace(indexes, touched=indexes.touched + 1)


def _read(fields: dict[str, Any]) -> Indexes:
    named = {name: fields.get(name) for name in ("serving", "fallback", "building")}
    generations = {name: IndexGeneration(**fields_of) if fields_of else None for name, fields_of in named.items()}
    marked_for_deletion = tuple((int(number), float(since)) for number, since in fields.get("marked_for_deletion", ()))
    return Indexes(**generations, newest=fields["newest"], touched=fields["touched"], marked_for_deletion=marked_for_deletion)
