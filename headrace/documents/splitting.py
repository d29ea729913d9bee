"""The document versions that wait to be split into chunks, the texts of the next of them, and what of them is split.

Any number may wait, with ten million characters each, so no more than some texts are in memory, and no more are read in a pass
than are split in it. They are split a slice at a time, so that a long one keeps nobody else's waiting.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from headrace.catalog import DOCUMENT_ROWS
from headrace.documents.queue import ProcessedOffsets, Queued, Turns, not_before
from headrace.documents.versions import ORIGIN, at_address, origin_of
from headrace.storage.tables.handles import TableReader, TableState, quoted

_TEXT_CHARS = 30_000_000  # of the texts in memory
_FEW = 5_000  # rows that are read with their texts
_FIRST, _MOST = 16, 1_000  # documents whose texts are read together
_TEXT = ("text", "parts")
_COLUMNS = ("document_id", "version", "tenant", "uri", "status", "media", "title", "readers", "text_at", *ORIGIN)

_SCHEMA = pa.schema([DOCUMENT_ROWS.columns.field(name) for name in _COLUMNS])

_Origin = tuple[Any, ...]


class UnsplitVersions:
    """The rows of the documents table at `state` that follow the events processed; `take` returns the text of one.

    `rows` has the next ones of each tenant in their order; with `every` it has all. `since` is the revision of the table up to
    which every row is processed.
    """

    def __init__(
        self, documents: TableReader, state: TableState, processed: ProcessedOffsets, since: str | None, *, every: bool
    ) -> None:
        self._documents, self._since = documents, since
        self._texts: dict[_Origin, dict[str, Any]] = {}
        self.characters = 0
        """Of the texts in memory."""
        self._together = _FIRST
        self.rest: frozenset[str] = frozenset()
        """The documents of the rows behind them."""
        self.next: list[dict[str, Any]] = []
        """The first of those in each partition: their origins."""
        rows = self._with_texts(state, processed, every=every)
        if rows is None:  # more than fits
            scanned = pa.Table.from_batches(self._scan(state, _COLUMNS, processed), _SCHEMA)
            queued = Queued(scanned, processed, every=every)
            rows, self.next = queued.first.to_pylist(), queued.next
            self.rest = frozenset(queued.rest["document_id"].to_pylist())
        self.rows = sorted(rows, key=origin_of)
        self._order: list[_Origin] = []
        self._wanted: set[_Origin] = set()
        self.keep(self.rows)

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget the texts of all other rows."""
        self._order = sorted({origin_of(row) for row in rows})
        self._wanted = set(self._order)
        self._texts = {name: text for name, text in self._texts.items() if name in self._wanted}
        self.characters = sum(len(text["text"]) for text in self._texts.values())

    def take(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`text` and `parts` of a row, once; none where it was removed meanwhile."""
        name = origin_of(row)
        if row["text_at"]:  # rare, since what was relabelled had been split before
            read = self._documents.read(_TEXT, f"{at_address(row['text_at'])} AND status = 'parsed'").to_pylist()
            return dict(read[0]) if read else {"text": "", "parts": None}
        if name not in self._texts:
            self._read_from(name)
        self._wanted.discard(name)
        text = self._texts.pop(name, {"text": "", "parts": None})
        self.characters -= len(text["text"])
        return text

    def _scan(self, state: TableState, columns: tuple[str, ...], processed: ProcessedOffsets) -> Iterable[pa.RecordBatch]:
        return state.scan(columns, not_before(processed.floors), since=self._since)

    def _with_texts(self, state: TableState, processed: ProcessedOffsets, *, every: bool) -> list[dict[str, Any]] | None:
        """All rows, their texts kept aside: one scan does where little waits. `None` once the texts are too many."""
        rows = []
        for batch in self._scan(state, (*_COLUMNS, *_TEXT), processed):
            for row in _new(batch, processed):
                text = {name: row.pop(name) for name in _TEXT}
                rows.append(row)
                if row["status"] == "parsed":
                    self._keep(origin_of(row), text)
            if self.characters > _TEXT_CHARS or (len(rows) > _FEW and not every):
                self._texts, self.characters = {}, 0
                return None
        return rows

    def _read_from(self, first: _Origin) -> None:
        """Read the text of a row, and those of the rows behind it that are wanted and fit."""
        start = bisect_left(self._order, first)
        span = {name for name in self._order[start : start + self._together] if name[:2] == first[:2] and name in self._wanted}
        last = max(span, default=first)
        topic, partition, offset = first
        where = (
            f"topic = {quoted(topic)} AND partition = {partition} AND offset >= {offset} AND offset <= {last[2]}"
            " AND status = 'parsed'"
        )
        read = 0
        # As the table is now, since `take` is called for long after the rows were read.
        for batch in self._documents.scan((*ORIGIN, *_TEXT), where, since=self._since):
            for row in batch.to_pylist():
                name = origin_of(row)
                read += len(row["text"])
                fits = self.characters + len(row["text"]) <= _TEXT_CHARS
                if name == first or (name in span and name not in self._texts and fits):
                    self._keep(name, {column: row[column] for column in _TEXT})
        # As many at a time as fit: each reading costs a request or two.
        self._together = max(1, self._together // 4) if read > _TEXT_CHARS // 2 else min(_MOST, self._together * 2)

    def _keep(self, name: _Origin, text: dict[str, Any]) -> None:
        self._texts[name] = text
        self.characters += len(text["text"])


def _new(batch: pa.RecordBatch, processed: ProcessedOffsets) -> list[dict[str, Any]]:
    new = [not processed.includes(row) for row in batch.select(("tenant", *ORIGIN)).to_pylist()]
    rows: list[dict[str, Any]] = batch.filter(pa.array(new, pa.bool_())).to_pylist()
    return rows


Key = tuple[str, str, int, int]
"""A document, its version, the generation of the index and its window."""
Rows = list[dict[str, Any]]
Steps = Iterator[dict[str, Any] | None]
"""The rows of a document, one after another; `None` where a step made none."""


class Splitting:
    """Whose turn it is, and the documents of which a part is split already. Kept from one pass to the next."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._begun: dict[Key, tuple[Steps, Rows]] = {}

    def go_on(self, key: Key, begin: Callable[[], Steps], seconds: float) -> Rows | None:
        """Split a document, or what is left of it, for about so many seconds; its rows once that is done, else `None`.

        Raises what splitting raises; the document then begins anew.
        """
        rows_left, rows = self._begun.pop(key) if key in self._begun else (begin(), [])
        until = time.monotonic() + seconds
        for row in rows_left:
            if row is not None:
                rows.append(row)
            if time.monotonic() > until:
                self._begun[key] = rows_left, rows
                return None
        return rows

    def begun(self, key: Key) -> bool:
        """Whether a part of a document is split."""
        return key in self._begun

    def keep(self, keys: Collection[Key]) -> None:
        """Drop what was begun of any other document: another version of it is there by now."""
        self._begun = {key: begun for key, begun in self._begun.items() if key in keys}
