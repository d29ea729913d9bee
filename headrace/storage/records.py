"""Encoding and decoding of the JSON records in topics, to and from Arrow rows."""

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
from headrace.storage.filters import ATTRIBUTE, RESERVED

# Range of Python's datetime, and so of pyiceberg, in microseconds since 1970.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_TENANT = "^[a-z0-9][a-z0-9-]{0,62}$"
_RESERVED = f"^(?:{'|'.join(RESERVED)})="
_SHA256 = "^[0-9a-f]{64}$"
_NAMED = ("event_id", "uri", "answer_id", "verdict_id")
NAME_BYTES = 4096
"""The longest name in an event: the system's limit for a path."""
_KINDS: Mapping[str, tuple[str, ...]] = {
    DOCUMENT_EVENTS.name: ("put", "delete", "refuse"),
    INTERACTIONS.name: ("answer", "search"),
}


def broken(store: Store, rows: pa.RecordBatch) -> dict[int, str]:
    """The rows of a topic's events that break a constraint, by index, with the reason."""
    reasons: dict[int, str] = {}
    for reason, wrong in _checks(store, rows):
        for index in pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist():
            reasons.setdefault(index, reason)
    return reasons


def _checks(store: Store, rows: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """Each constraint: the reason, and for each row whether it is broken."""
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
        yield f"'kind' is not one of {', '.join(kinds)}", pc.invert(pc.is_in(columns["kind"], pa.array(kinds)))
    if "sha256" in columns:
        put, deleted = pc.equal(columns["kind"], "put"), pc.equal(columns["kind"], "delete")
        filled = pc.not_equal(columns["sha256"], "")
        names_one = pc.or_(put, pc.and_(deleted, filled))  # a deletion may name the only version that it is for
        hexadecimal = pc.match_substring_regex(columns["sha256"], _SHA256)
        yield "'sha256' is not 64 hexadecimal digits", pc.and_(names_one, pc.invert(hexadecimal))
        yield "'sha256' is given but nothing was put", pc.and_(filled, pc.invert(pc.or_(put, deleted)))
    if "bytes" in columns:
        yield "'bytes' is negative", pc.less(columns["bytes"], 0)
    if "readers" in columns:
        names = pc.utf8_trim_whitespace(columns["readers"].flatten())
        nameless = pc.fill_null(pc.equal(pc.binary_length(names), 0), True)
        parents = pc.list_parent_indices(columns["readers"]).filter(nameless)
        yield "'readers' has an empty name", _rows_at(parents, len(columns["readers"]))
    if "attributes" in columns:
        given = columns["attributes"].flatten()
        shaped = pc.and_(pc.match_substring_regex(given, ATTRIBUTE), pc.invert(pc.match_substring_regex(given, _RESERVED)))
        wrong = pc.fill_null(pc.invert(shaped), True)
        parents = pc.list_parent_indices(columns["attributes"]).filter(wrong)
        yield "'attributes' has one that is not key=value", _rows_at(parents, len(columns["attributes"]))


def _not_finite(column: pa.Array) -> pa.Array:
    """Indices of rows with a number that is not finite, at any depth."""
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
    """Decoded records: `rows` in the store's schema plus `extra`.

    `kept[i]` is the index of the value behind row `i`; `bad` maps the index of an unreadable value to the reason.
    """

    rows: pa.RecordBatch
    kept: Sequence[int]
    bad: Mapping[int, str]


def encode(store: Store, row: Mapping[str, Any]) -> bytes:
    """One record as UTF-8 JSON, with times in ISO 8601. Raises `KeyError` for keys that the store's schema lacks."""
    names = set(store.columns.names)
    if unknown := set(row) - names:
        raise KeyError(f"{store} has no {sorted(unknown)}")
    return json.dumps(row, default=_iso, ensure_ascii=False, separators=(",", ":")).encode()


def decode(store: Store, values: Sequence[bytes | None]) -> Decoded:
    """Decode records to rows of the store's schema; unreadable ones and those that break a constraint are set aside.

    Keys that the schema does not know, also inside nested objects, are kept as JSON in the column `extra`: the producer may be
    newer than this code.
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
        pass  # some value has the wrong type: check rows one by one to find it
    fitting: list[dict[str, Any]] = []
    indices: list[int] = []
    for index, row in zip(rows_kept, good, strict=True):
        try:
            pa.array([row], pa.struct(list(schema)))
        except _WRONG_TYPE as error:
            bad[index] = f"a value of the wrong type: {error}"
        else:
            fitting.append(row)
            indices.append(index)
    return Decoded(batch(schema, fitting), indices, dict(sorted(bad.items())))


def decoded_schema(store: Store) -> pa.Schema:
    """The schema of the rows that `decode` returns for a topic."""
    return store.columns.append(EXTRA)


def batch(schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows as one record batch of `schema`."""
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


_WRONG_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError)
# Longer than any record: Arrow rejects a record that spans more than two blocks.
_BLOCK_BYTES = 16 << 20
_FIRST: Callable[[Any], Any] = itemgetter(0)
_BRACE = ord("{")


def _all_at_once(store: Store, values: Sequence[bytes | None]) -> list[pa.Array] | None:
    """The columns of records that all match the schema exactly, parsed in one go; `None` if any does not.

    About twenty times as fast as one by one. It may return `None` needlessly, but must never read a record differently.
    """
    if not values or None in values:
        return None
    joined = b"\n".join(values)  # type: ignore[arg-type]
    # One object per line and one line per record, or rows could not be matched to records.
    if not all(values) or joined.count(b"\n") != len(values) - 1 or set(map(_FIRST, values)) != {_BRACE}:
        return None
    times = [field.name for field in store.columns if pa.types.is_timestamp(field.type)]
    # Read times as text first: Arrow's JSON reader assumes UTC for a time without a zone.
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
            column.validate(full=True)  # e.g. that text is UTF-8
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
        parsed = json.loads(value, parse_constant=str)  # NaN and Infinity are not JSON; as text they fail the type check
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRecord(f"expected a JSON object, not {type(parsed).__name__}")
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
        _beyond(field.type, raw, field.name, parsed)
    if parsed:
        try:
            row[EXTRA.name] = json.dumps(parsed, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            raise BadRecord("a number in it is not finite") from None
    return row


def _is(kind: pa.DataType, value: object) -> bool:
    """Whether a JSON value matches an Arrow type exactly: Arrow would read a text as a list of letters, and 1.5 as 1."""
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


def _beyond(kind: pa.DataType, value: Any, path: str, into: dict[str, Any]) -> None:
    """Put what nested objects hold beyond their schema into `into`, by its path, like `passages[0].page`."""
    if value is None:
        return
    if pa.types.is_list(kind):
        for index, one in enumerate(value):
            _beyond(kind.value_type, one, f"{path}[{index}]", into)
    elif pa.types.is_struct(kind):
        for name, one in value.items():
            place = kind.get_field_index(name)
            if place < 0:
                into[f"{path}.{name}"] = one
            else:
                _beyond(kind.field(place).type, one, f"{path}.{name}", into)


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
