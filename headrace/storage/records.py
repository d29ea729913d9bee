"""The JSON records that topics carry, and their way into Arrow rows and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from headrace.catalog import DOCUMENT_EVENTS, EXTRA, INTERACTIONS, Store
from headrace.errors import BadRecord

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
    reasons: dict[int, str] = {}
    for reason, wrong in _checks(store, rows):
        for index in pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist():
            reasons.setdefault(index, reason)
    return reasons


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


@dataclass(frozen=True)
class Decoded:
    """What became of some values: `rows` in the store's schema plus `extra`, the place each came from, and the bad ones.

    `kept[i]` is the index of the value that row `i` was; `bad` maps the index of a value that cannot be read to the reason.
    """

    rows: pa.RecordBatch
    kept: Sequence[int]
    bad: Mapping[int, str]


def encode(store: Store, row: Mapping[str, Any]) -> bytes:
    """One record as UTF-8 JSON; times in ISO 8601. Keys that the store's schema lacks are a mistake and raise `KeyError`."""
    names = set(store.columns.names)
    if unknown := set(row) - names:
        raise KeyError(f"{store} has no {sorted(unknown)}")
    return json.dumps(row, default=_iso, ensure_ascii=False, separators=(",", ":")).encode()


def decode(store: Store, values: Sequence[bytes | None]) -> Decoded:
    """Records as rows of the store's schema; those that cannot be read, or break a constraint, do not hold up the others.

    Keys that the schema does not know are kept as JSON in the column `extra`: a producer may be newer than this reader.
    """
    read = _read(store, values)
    wrong = broken(store, read.rows)
    if not wrong:
        return read
    right = [index for index in range(read.rows.num_rows) if index not in wrong]
    bad = {**read.bad, **{read.kept[index]: reason for index, reason in wrong.items()}}
    rows_kept = [read.kept[index] for index in right]
    return Decoded(read.rows.take(pa.array(right, pa.int64())), rows_kept, dict(sorted(bad.items())))


def _read(store: Store, values: Sequence[bytes | None]) -> Decoded:
    schema = decoded_schema(store)
    rows = _all_at_once(store, values)
    if rows is not None:
        return Decoded(
            pa.RecordBatch.from_arrays([*rows, pa.nulls(len(values), EXTRA.type)], schema=schema), range(len(values)), {}
        )
    good: list[dict[str, Any]] = []
    rows_kept: list[int] = []
    bad: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            good.append(_row(store, value))
            rows_kept.append(index)
        except BadRecord as error:
            bad[index] = error.message
    try:
        return Decoded(batch(schema, good), rows_kept, bad)
    except _WRONG_TYPE:
        pass  # somewhere in it is a value of the wrong type: only one by one can tell which
    fitting: list[dict[str, Any]] = []
    places: list[int] = []
    for index, row in zip(rows_kept, good, strict=True):
        try:
            pa.array([row], pa.struct(list(schema)))
        except _WRONG_TYPE as error:
            bad[index] = f"a value of the wrong type: {error}"
        else:
            fitting.append(row)
            places.append(index)
    return Decoded(batch(schema, fitting), places, dict(sorted(bad.items())))


def decoded_schema(store: Store) -> pa.Schema:
    """The schema of what `decode` makes of a topic's records."""
    return store.columns.append(EXTRA)


def batch(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows as one record batch of `schema`."""
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


_WRONG_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError)
# Longer than any record may be, since a record that crosses a block's border twice is refused.
_BLOCK_BYTES = 16 << 20
_FIRST: Callable[[Any], Any] = itemgetter(0)
_BRACE = ord("{")


def _all_at_once(store: Store, values: Sequence[bytes | None]) -> list[pa.Array] | None:
    """The columns of records that are all just as the schema says, parsed in one go; `None` where any is not.

    About twenty times as fast as one by one. It may only say `None` too often, never read a record otherwise.
    """
    if not values or None in values:
        return None
    joined = b"\n".join(values)  # type: ignore[arg-type]
    # An object per line and a line per record, or rows could not be told to be one record each.
    if not all(values) or joined.count(b"\n") != len(values) - 1 or set(map(_FIRST, values)) != {_BRACE}:
        return None
    times = [field.name for field in store.columns if pa.types.is_timestamp(field.type)]
    # Times are read as text first: Arrow's JSON reader takes one without a zone for UTC.
    schema = pa.schema([pa.field(f.name, pa.string() if f.name in times else f.type) for f in store.columns])
    try:
        table = pj.read_json(
            pa.BufferReader(joined),
            read_options=pj.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        ).select(schema.names)
        if table.num_rows != len(values):
            return None
        columns = [_whole(table[field.name].cast(field.type)) for field in store.columns]
    except (pa.ArrowException, KeyError):
        return None
    try:
        for column in columns:
            column.validate(full=True)  # that text is UTF-8, for one
    except pa.ArrowInvalid:
        return None
    if any(column.null_count for column, field in zip(columns, store.columns, strict=True) if not field.nullable):
        return None
    return columns


def _whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _row(store: Store, value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise BadRecord("the record has no value")
    try:
        parsed = json.loads(value, parse_constant=str)  # NaN and Infinity are no JSON: as text they are no numbers either
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRecord(f"a JSON object is wanted, not {type(parsed).__name__}")
    row: dict[str, Any] = {}
    for field in store.columns:
        raw = parsed.pop(field.name, None)
        if raw is None and not field.nullable:
            raise BadRecord(f"{field.name!r} is missing")
        if pa.types.is_timestamp(field.type) and raw is not None:
            raw = _time(field.name, raw)
        elif not _is(field.type, raw):
            raise BadRecord(f"{field.name!r} is a value of the wrong type: {_short(raw)}")
        row[field.name] = raw
    if parsed:
        try:
            row[EXTRA.name] = json.dumps(parsed, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            raise BadRecord("a number in it is not finite") from None
    return row


def _is(kind: pa.DataType, value: object) -> bool:
    """Whether a JSON value is of an Arrow type as it is: Arrow would take a text for a list of letters, and 1.5 for 1."""
    if value is None:
        return True
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_is(kind.value_type, one) for one in value)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(_is(field.type, value.get(field.name)) for field in kind)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_integer(kind):
        return isinstance(value, int) and not isinstance(value, bool)
    if pa.types.is_floating(kind):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot go into a record")


def _time(name: str, value: object) -> datetime:
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        raise BadRecord(f"{name!r} is not an ISO 8601 time") from None
    if parsed.tzinfo is None:
        raise BadRecord(f"{name!r} has no time zone")
    try:
        return parsed.astimezone(UTC)
    except OverflowError:
        raise BadRecord(f"{name!r} is outside the years 1 to 9999 in UTC") from None
