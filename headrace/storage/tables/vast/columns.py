"""Column types in VAST DB, predicate push-down, and splitting of rows into requests."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headrace.storage.tables.predicate import Term

_REQUEST = 4 << 20
"""Arrow bytes per request; above its own limit of 5 MiB the SDK sends column by column."""


def stored(field: pa.Field) -> pa.Field:
    """A column as stored in VAST DB: nullable, and times as naive UTC, which every release accepts."""
    return pa.field(field.name, stored_type(field.type))


def stored_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp(kind.unit)
    if pa.types.is_struct(kind):
        return pa.struct([stored(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(pa.field("item", stored_type(kind.value_type)))
    return kind


def same(stored: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types are equal, apart from the name of a list's element."""
    return bool(stored_type(stored) == stored_type(wanted))


def askable(term: Term, *, stored: pa.Schema, wide: bool) -> bool:
    """Whether VAST DB evaluates a term correctly; an oversized cell is a null to it."""
    if term.column not in stored.names:
        return False
    kind = stored.field(term.column).type
    texts = pa.types.is_string(kind) or pa.types.is_binary(kind)
    if wide and texts and term.comparison not in ("==", "in"):
        return False
    if term.comparison == "starts with" and not pa.types.is_string(kind):
        return False
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind)
    return (texts or plain) and not any(value != value for value in term.values)


def sdk_condition(table: Any, term: Term) -> Any:
    """A term as a condition of the SDK."""
    column = table[term.column]
    values = [naive(value) if isinstance(value, datetime) else value for value in term.values]
    if term.comparison == "in":
        return column.isin(values)
    if term.comparison == "is null":
        return column.isnull()
    if term.comparison == "not null":
        return ~column.isnull()
    if term.comparison == "starts with":
        return column.startswith(values[0])
    compare = {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    return compare[term.comparison](column, values[0])


def filtered(batch: pa.RecordBatch, condition: Any, columns: pa.Schema, read: tuple[str, ...]) -> pa.RecordBatch:
    """The rows that meet a condition on the catalog's types; columns that the table does not have yet are null."""
    table = pa.Table.from_batches([batch])
    for name in read:
        field = columns.field(name).with_nullable(True)
        index = table.schema.get_field_index(name)
        if index < 0:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        else:
            table = table.set_column(index, field, table.column(index).cast(field.type))
    batches = table.filter(condition).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def naive(time: datetime) -> datetime:
    """A time as naive UTC, as stored in VAST DB."""
    return time.astimezone(UTC).replace(tzinfo=None)


def requests_of(data: pa.Table | pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split rows into batches that each fit into a request."""
    for batch in [data] if isinstance(data, pa.RecordBatch) else data.combine_chunks().to_batches():
        yield from _halved(batch)


def _halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows <= 1 or pa.ipc.get_record_batch_size(batch) <= _REQUEST:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half))
    yield from _halved(batch.slice(half))
