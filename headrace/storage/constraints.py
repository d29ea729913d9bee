"""What the values of an event must be beyond their type, so that everything behind landing can work with them.

Events come from other programs. One that breaks a constraint is a dead letter with the reason: were it landed, it would stop the
stage that meets it, for all tenants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENTS, INTERACTIONS, Store

# Microseconds since 1970 of the first and the last moment that Python's datetime, and so pyiceberg, can hold.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_TENANT = "^[a-z0-9][a-z0-9-]{0,62}$"
_SHA256 = "^[0-9a-f]{64}$"
_NONE = pa.array([], pa.uint64())
_NAMED = ("event_id", "uri", "answer_id", "verdict_id")
NAME_BYTES = 4096
"""The longest name that an event may have: what the system allows a path."""
_KINDS: Mapping[str, tuple[str, ...]] = {
    DOCUMENT_EVENTS.name: ("put", "delete", "refuse"),
    INTERACTIONS.name: ("answer", "search"),
}


def broken(store: Store, rows: pa.RecordBatch) -> dict[int, str]:
    """Row → what is wrong with it, for those rows of a topic's events that break a constraint."""
    found: dict[int, str] = {}
    for reason, wrong in _checks(store, rows):
        for index in pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist():
            found.setdefault(index, reason)
    return found


def _checks(store: Store, rows: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """Each constraint as a reason and, per row, whether it is broken."""
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    for name, column in columns.items():
        if pa.types.is_timestamp(column.type):
            micros = column.cast(pa.timestamp("us", tz="UTC")).view(pa.int64())
            yield (
                f"{name!r} is outside the years 1 to 9999 in UTC",
                pc.or_(pc.less(micros, _FIRST_US), pc.greater(micros, _LAST_US)),
            )
        elif len(rows_of := _not_finite(column)):
            yield f"{name!r} holds a number that is not finite", _rows_at(rows_of, len(column))
    if "tenant" in columns:
        yield "'tenant' is not a tenant's name", pc.invert(pc.match_substring_regex(columns["tenant"], _TENANT))
    for name in _NAMED:
        if name in columns:
            length = pc.binary_length(columns[name])
            unfit = pc.or_(pc.equal(length, 0), pc.greater(length, NAME_BYTES))
            yield f"{name!r} is empty or longer than {NAME_BYTES:,} bytes", unfit
            yield f"{name!r} holds a NUL character", pc.match_substring(columns[name], "\0")
    if kinds := _KINDS.get(store.name):
        yield f"'kind' is none of {', '.join(kinds)}", pc.invert(pc.is_in(columns["kind"], pa.array(kinds)))
    if "sha256" in columns:
        put = pc.equal(columns["kind"], "put")
        hexadecimal = pc.match_substring_regex(columns["sha256"], _SHA256)
        yield "'sha256' is not 64 hexadecimal digits", pc.and_(put, pc.invert(hexadecimal))
        yield "'sha256' is given where nothing was put", pc.and_(pc.invert(put), pc.not_equal(columns["sha256"], ""))
    if "bytes" in columns:
        yield "'bytes' is negative", pc.less(columns["bytes"], 0)
    if "readers" in columns:
        names = pc.utf8_trim_whitespace(columns["readers"].flatten())
        nameless = pc.fill_null(pc.equal(pc.binary_length(names), 0), True)
        parents = pc.list_parent_indices(columns["readers"]).filter(nameless)
        yield "'readers' names somebody without a name", _rows_at(parents, len(columns["readers"]))


def _not_finite(column: pa.Array) -> pa.Array:
    """Indices of the rows that hold a number that is not finite, however deep."""
    if pa.types.is_floating(column.type):
        return pc.indices_nonzero(pc.fill_null(pc.invert(pc.is_finite(column)), False))
    if pa.types.is_list(column.type):
        return pc.list_parent_indices(column).take(_not_finite(column.flatten()))
    if pa.types.is_struct(column.type):
        return pa.concat_arrays(
            [pa.array([], pa.uint64()), *(_not_finite(field).cast(pa.uint64()) for field in column.flatten())]
        )
    return pa.array([], pa.uint64())


def _rows_at(indices: pa.Array, rows: int) -> pa.Array:
    return pc.is_in(pa.array(range(rows), pa.int64()), indices.cast(pa.int64()))
