"""The JSON records that topics carry, and their way into Arrow rows and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from headrace.catalog import Store
from headrace.errors import BadRecord


def encode(store: Store, row: Mapping[str, Any]) -> bytes:
    """One record as UTF-8 JSON; times in ISO 8601. Keys that the store's schema lacks are a mistake and raise `KeyError`."""
    names = set(store.columns.names)
    if unknown := set(row) - names:
        raise KeyError(f"{store} has no {sorted(unknown)}")
    return json.dumps(row, default=_iso, ensure_ascii=False, separators=(",", ":")).encode()


def decode(store: Store, value: bytes | None) -> dict[str, Any]:
    """One record as a row of the store's schema. Raises `BadRecord` saying what is wrong with it.

    Keys that the schema does not know are left out, so that a producer may be newer than this reader.
    """
    if value is None:
        raise BadRecord("the record has no value")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRecord(f"a JSON object is wanted, not {type(parsed).__name__}")
    row: dict[str, Any] = {}
    for field in store.columns:
        found = parsed.get(field.name)
        if found is None and not field.nullable:
            raise BadRecord(f"{field.name!r} is missing")
        if pa.types.is_timestamp(field.type) and found is not None:
            found = _time(field.name, found)
        row[field.name] = found
    try:
        pa.array([row], pa.struct(list(store.columns)))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
        raise BadRecord(f"a value of the wrong type: {error}") from None
    return row


def batch(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows as one record batch of `schema`."""
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


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
    return parsed
