"""The document versions that wait to be split into chunks, and the texts of the next of them.

Any number may wait, with ten million characters each, so no more than some texts are in memory, and no more are read in a pass
than are split in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from headrace.documents.processed import ProcessedOffsets, not_before
from headrace.documents.versions import ORIGIN, origin_of
from headrace.storage.tables.handles import TableReader, TableState, quoted

_TEXT_CHARS = 30_000_000  # of the texts in memory
_FIRST, _MOST = 16, 1_000  # documents whose texts are read together
_TEXT = ("text", "parts")
_COLUMNS = ("document_id", "version", "tenant", "uri", "status", "media", "title", "readers", *ORIGIN)

_Origin = tuple[Any, ...]


class UnsplitVersions:
    """Rows of the documents table at `state` that follow the events processed, in their order; `take` returns the text of one.

    `since` is the revision of the table up to which every row is processed.
    """

    def __init__(self, documents: TableReader, state: TableState, processed: ProcessedOffsets, since: str | None) -> None:
        self._documents, self._since = documents, since
        self._texts: dict[_Origin, dict[str, Any]] = {}
        self.characters = 0
        """Of the texts in memory."""
        self._together = _FIRST
        rows = self._with_texts(state, processed)
        if rows is None:  # more than fits
            rows = [row for batch in self._scan(state, _COLUMNS, processed) for row in _new(batch, processed)]
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
        if name not in self._texts:
            self._read_from(name)
        self._wanted.discard(name)
        text = self._texts.pop(name, {"text": "", "parts": None})
        self.characters -= len(text["text"])
        return text

    def _scan(self, state: TableState, columns: tuple[str, ...], processed: ProcessedOffsets) -> Iterable[pa.RecordBatch]:
        return state.scan(columns, not_before(processed.floors), since=self._since)

    def _with_texts(self, state: TableState, processed: ProcessedOffsets) -> list[dict[str, Any]] | None:
        """All rows, their texts kept aside: one scan does where little waits. `None` once the texts are too many."""
        rows = []
        for batch in self._scan(state, (*_COLUMNS, *_TEXT), processed):
            for row in _new(batch, processed):
                text = {name: row.pop(name) for name in _TEXT}
                rows.append(row)
                if row["status"] == "parsed":
                    self._keep(origin_of(row), text)
            if self.characters > _TEXT_CHARS:
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
