"""The chunks that wait to be embedded, kept from one pass to the next: a pass then reads what is new and not all that waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

_TOGETHER, _LEAST = 10_000, 100
"""Chunks that may wait, of all tenants together, and of each at least."""


@dataclass
class Intake:
    """What one pass took in: all up to these revisions of the tables of documents and chunks, and of what chunks still wait.

    `compared`: it was found by comparing all of the index with the tables.
    """

    documents: str | None
    chunks: str | None
    compared: bool
    waiting: set[str]


@dataclass
class Waiting:
    """The chunks to embed, the passes that took them in, and those of their documents of which an earlier version is indexed."""

    intakes: list[Intake] = field(default_factory=list)
    rows: pa.Table | None = None
    replacing: set[str] = field(default_factory=set)

    def versions(self) -> dict[str, str]:
        """document id → the version that waits."""
        columns = () if self.rows is None else (self.rows[name].to_pylist() for name in ("document_id", "version"))
        return dict(zip(*columns, strict=True))

    def forget(self, changed: Collection[str]) -> None:
        """Drop the chunks of documents that changed: what is missing of them is found anew."""
        if self.rows is not None:
            named = pc.is_in(self.rows["document_id"], pa.array(sorted(changed), pa.string()))
            self.rows = self.rows.filter(pc.invert(named))
        self.replacing.difference_update(changed)
        for intake in self.intakes:
            intake.waiting.difference_update(changed)

    def take_in(self, intake: Intake, rows: pa.Table, replacing: Collection[str]) -> pa.Table:
        """Add what a pass found; returns all chunks."""
        self.intakes.append(intake)
        self.rows = rows if self.rows is None else pa.concat_tables([self.rows, rows])
        self.replacing.update(replacing)
        return self.rows

    def leave(self, rows: pa.Table) -> Intake | None:
        """Note that these chunks are left. Returns the last intake of which, and of all before it, none is; they are removed."""
        names = set(rows["document_id"].to_pylist())
        self.rows, self.replacing = rows, self.replacing & names
        for intake in self.intakes:
            intake.waiting &= names
        done: list[Intake] = []
        while self.intakes and not self.intakes[0].waiting:
            done.append(self.intakes.pop(0))
        return replace(done[-1], compared=any(intake.compared for intake in done)) if done else None


class Embedding:
    """What waits for an index. A pass takes it and, unless it fails, puts back what it left.

    After a pass that failed, it is found in the tables again, as after a start.
    """

    def __init__(self) -> None:
        self._index, self._version, self._waiting = "", 0, Waiting()

    def full(self) -> frozenset[str]:
        """The tenants of whom so many chunks wait that no more are to be made before some of these are embedded."""
        rows = self._waiting.rows
        counts = Counter(rows["tenant"].to_pylist() if rows is not None else ())
        most = max(_LEAST, _TOGETHER // max(1, len(counts)))
        return frozenset(tenant for tenant, count in counts.items() if count > most)

    def take(self, index: str, version: int) -> Waiting:
        """What waits for an index, at this version of its table: where that is older than what a pass left, nothing is known."""
        known = self._index == index and self._version <= version
        taken = self._waiting if known else Waiting()
        self._index, self._version, self._waiting = "", 0, Waiting()
        return taken

    def keep(self, index: str, version: int, waiting: Waiting) -> None:
        """Keep what a pass left, which ended at this version of the index's table."""
        self._index, self._version, self._waiting = index, version, waiting
