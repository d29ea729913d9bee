"""The tables that a dataset is made from, at the snapshots that the round's plan names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import TEXT, Store

_ANSWER_COLUMNS = (
    *("answer_id", "kind", "tenant", "user", "simulated", "question", "answer", "passages", "prompt_tokens"),
    *(
        "completion_tokens",
        "logprobs",
        "sampling",
        "generator_version",
        "model_version",
        "signals",
        "topic",
        "partition",
        "offset",
    ),
    "at",
)
_CHUNK_COLUMNS = ("chunk_id", "document_id", "text", "heading", "uri", "position", "topic", "partition", "offset")
_DOCUMENT_COLUMNS = ("document_id", "status", "topic", "partition", "offset")
_IN_ORDER = [("topic", "ascending"), ("partition", "ascending"), ("offset", "ascending")]
_ENDED = pa.array(["parsed", "deleted"], TEXT)  # these states decide whether a document exists; a failed version does not


class Rows(Protocol):
    """The part of `TableReader` that a dataset needs."""

    @property
    def store(self) -> Store: ...

    def scan(self, columns: tuple[str, ...], *, snapshot: int | None = None) -> Iterable[pa.RecordBatch]: ...


@dataclass(frozen=True)
class Source:
    """Tables at their snapshots. A table missing from `snapshots` is read at its newest; `None` means that it had no rows."""

    interactions: Rows
    feedback: Rows
    documents: Rows
    chunks: Rows
    snapshots: Mapping[str, int | None]

    def verdicts(self) -> pa.Table:
        """Every verdict, including repeated deliveries."""
        return self._read(self.feedback, ("*",))[0]

    def answers(self, wanted: pa.Array) -> tuple[pa.Table, int]:
        """The answers with these ids, including repeated deliveries, and the number of other rows.

        A follow-up question is replaced by its standalone form, `asked_as`.
        """
        table, others = self._read(self.interactions, (*_ANSWER_COLUMNS, "asked_as"), "answer_id", wanted)
        # The passages were found with the standalone form; the follow-up alone may be as short as "Why?".
        in_full = pc.coalesce(table["asked_as"], table["question"])
        return table.drop_columns("asked_as").set_column(table.schema.get_field_index("question"), "question", in_full), others

    def passages(self, wanted: pa.Array) -> pa.Table:
        """The chunks with these ids, each once, ordered by id; index generations share chunks."""
        table, _ = self._read(self.chunks, _CHUNK_COLUMNS, "chunk_id", wanted)
        table = table.sort_by([("chunk_id", "ascending"), *_IN_ORDER])
        firsts = (
            table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
            .group_by("chunk_id")
            .aggregate([("row", "min")])
        )
        return table.take(firsts["row_min"].sort())

    def deleted(self) -> pa.Table:
        """The documents whose newest event deleted them."""
        table, _ = self._read(self.documents, _DOCUMENT_COLUMNS, "status", _ENDED)
        rows = table.sort_by(_IN_ORDER).select(["document_id", "status"]).to_pylist()
        newest = {row["document_id"]: row["status"] for row in rows}
        gone = [document for document, status in newest.items() if status == "deleted"]
        return pa.table({"document_id": pa.array(gone, TEXT)})

    def _read(self, table: Rows, columns: tuple[str, ...], key: str = "", wanted: pa.Array | None = None) -> tuple[pa.Table, int]:
        """Rows whose `key` is wanted, and the number of the others, of which one batch is in memory at a time."""
        schema = table.store.columns if columns == ("*",) else pa.schema([table.store.columns.field(c) for c in columns])
        named = table.store.name in self.snapshots
        snapshot = self.snapshots.get(table.store.name)
        batches: list[pa.RecordBatch] = []
        others = 0
        for rows in table.scan(columns, snapshot=snapshot) if snapshot is not None or not named else ():
            if wanted is not None:
                matching = rows.filter(pc.is_in(rows.column(key), value_set=wanted))
                others += rows.num_rows - matching.num_rows
                rows = matching
            batches.append(rows)
        return pa.Table.from_batches(batches, schema), others
