"""Oversized cells, stored in pieces beside the table.

A cell above the limit is null in its row; its value is stored in pieces, and a hidden column maps columns to the ids of their
pieces, as JSON. Any type works, since a piece is a part of the cell's Arrow stream.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

WIDE = "headrace_wide"
"""The hidden column."""
LIMIT = 120_000
"""Largest cell, in bytes, that stays in its row. VAST DB's limit is 126 KB."""
PIECES = pa.schema([pa.field("cell", pa.string()), pa.field("part", pa.int32()), pa.field("bytes", pa.binary())])


def cut(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows with their hidden column, and the pieces of oversized cells."""
    named: list[dict[str, str]] = [{} for _ in range(rows.num_rows)]
    pieces: list[dict[str, object]] = []
    for index, name in enumerate(rows.column_names):
        column = rows.column(index).combine_chunks()
        wide = _wide(column)
        for row in wide:
            cell = uuid.uuid4().hex
            named[row][name] = cell
            stream = _stream(column.slice(row, 1))
            parts = range(0, len(stream), LIMIT)
            pieces += [{"cell": cell, "part": part, "bytes": stream[start : start + LIMIT]} for part, start in enumerate(parts)]
        if wide:
            row_numbers = pa.array([None if name in cells else row for row, cells in enumerate(named)], pa.int64())
            rows = rows.set_column(index, rows.field(index).with_nullable(True), column.take(row_numbers))
    hidden = pa.array([json.dumps(cells) if cells else None for cells in named], pa.string())
    return rows.append_column(pa.field(WIDE, pa.string()), hidden), pa.Table.from_pylist(pieces, PIECES)


def mend(batch: pa.RecordBatch, pieces: Callable[[list[str]], pa.Table]) -> pa.RecordBatch:
    """The batch without its hidden column, with oversized cells restored from `pieces`, which is called with their ids."""
    hidden = batch.column(batch.schema.get_field_index(WIDE)).to_pylist()
    batch = batch.drop_columns([WIDE])
    cells: dict[str, dict[int, str]] = {}
    for row, text in enumerate(hidden):
        for name, cell in (json.loads(text) if text else {}).items():
            if name in batch.schema.names:
                cells.setdefault(name, {})[row] = cell
    if not cells:
        return batch
    whole = _join(pieces([cell for rows in cells.values() for cell in rows.values()]))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, rows in cells.items():
        columns[name] = _put(columns[name], {row: whole[cell] for row, cell in rows.items()})
    return pa.RecordBatch.from_arrays([columns[name] for name in batch.schema.names], schema=batch.schema)


def _wide(column: pa.Array) -> list[int]:
    """The rows of the cells above the limit."""
    if column.nbytes <= LIMIT:
        return []
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        indices: list[int] = pc.indices_nonzero(pc.fill_null(pc.greater(pc.binary_length(column), LIMIT), False)).to_pylist()
        return indices
    if not pa.types.is_nested(column.type):
        return []
    return [row for row in range(len(column)) if column.slice(row, 1).nbytes > LIMIT]


def _stream(cell: pa.Array) -> bytes:
    batch = pa.RecordBatch.from_arrays([cell], names=["cell"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _join(pieces: pa.Table) -> dict[str, pa.Array]:
    parts: dict[str, dict[int, bytes]] = {}
    for piece in pieces.to_pylist():
        parts.setdefault(piece["cell"], {})[piece["part"]] = piece["bytes"]
    whole = {}
    for cell, parts_of_cell in parts.items():
        with pa.ipc.open_stream(b"".join(parts_of_cell[part] for part in sorted(parts_of_cell))) as reader:
            whole[cell] = reader.read_next_batch().column(0)
    return whole


def _put(column: pa.Array, cells: Mapping[int, pa.Array]) -> pa.Array:
    """The column, of any type, with some cells replaced."""
    at = {row: len(column) + index for index, row in enumerate(cells)}
    both = pa.concat_arrays([column, *(cell.cast(column.type) for cell in cells.values())])
    return both.take(pa.array([at.get(row, row) for row in range(len(column))], pa.int64()))
