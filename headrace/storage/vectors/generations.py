"""State of the index generations: one small object, changed by compare-and-swap.

A generation is an index built with one chunk size and embedder: its own rows in the chunks table and its own vector table. The
object names the served generation, the previous one (for rollback), and the one being built.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from headrace.catalog import Store
from headrace.errors import LostRace, NotFound
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.recent import Recent

_KEY = "chunks.json"
_TRIES = 20


@dataclass(frozen=True)
class IndexGeneration:
    """One generation: word pieces per chunk, the embedder's model name, dimensions of an embedding."""

    number: int
    window: int
    embedder: str
    width: int


@dataclass(frozen=True)
class Indexes:
    """State of the generations. `newest`: last number issued; `touched`: indexing passes completed during the build.

    `marked_for_deletion`: generations no longer in use, with the time (seconds since 1970) of marking.
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


class IndexReader(ObjectReader):
    """Reads the state of the generations."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._recent = Recent[Indexes]()

    def state(self) -> tuple[Indexes, str]:
        """The current state, and its etag for `IndexWriter.move`; empty if nothing was indexed yet."""
        try:
            data, etag = self.get_with_etag(_KEY)
        except NotFound:
            return Indexes(), ""
        return _read(json.loads(data)), etag

    def recent(self) -> Indexes:
        """The state, at most about a second old: one thread refreshes it while the others use the cached one.

        If it cannot be read, the cached state stays valid: an index in a local directory does not need the object store.
        """
        return self._recent.value(lambda _: self.state()[0])


class IndexWriter(IndexReader, ObjectWriter):
    """Changes the state of the generations."""

    def move(self, then: Indexes, etag: str) -> None:
        """Replace the state that had `etag` by `then`. Raises `LostRace` if it has changed."""
        data = json.dumps(asdict(then), indent=1).encode()
        if etag:
            self.put_if_match(_KEY, data, etag)
        else:
            self.put_if_absent(_KEY, data)

    def change(self, step: Callable[[Indexes], Indexes]) -> Indexes:
        """Apply `step` to the current state, with retries on conflicts, and return the new state."""
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
        raise LostRace("Other processes keep changing which index is served.", hint="Run the command again.")


def touched(indexes: Indexes) -> Indexes:
    """Count a completed pass: a builder that is about to switch then has to catch up."""
    return replace(indexes, touched=indexes.touched + 1)


def _read(fields: dict[str, Any]) -> Indexes:
    named = {name: fields.get(name) for name in ("serving", "fallback", "building")}
    generations = {name: IndexGeneration(**fields_of) if fields_of else None for name, fields_of in named.items()}
    marked_for_deletion = tuple((int(number), float(since)) for number, since in fields.get("marked_for_deletion", ()))
    return Indexes(**generations, newest=fields["newest"], touched=fields["touched"], marked_for_deletion=marked_for_deletion)
