"""JSON that is a table: an array of objects, or an object on each line, whose values are no tables themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.table import Table

SUFFIXES = (".json", ".jsonl", ".ndjson")
_MOST_BYTES = 20_000_000  # as objects in memory they take ten times as much
_COLUMNS = 100
_DEPTH = 3  # of objects in objects, whose names are joined by dots


def are_records(data: bytes, limits: ParseLimits) -> bool:
    """Whether a JSON file is a table."""
    return _records(data, limits) is not None


def write_records(file: DocumentFile, out: Output) -> None:
    """Write the records as one table, whose header has the name of each value, in the order in which they first come."""
    records = _records(file.data, file.limits) or []
    names = list(dict.fromkeys(name for record in records for name in record))
    table = Table(out)
    table.add(names)
    for record in records:
        table.add(record.get(name, "") for name in names)


def _records(data: bytes, limits: ParseLimits) -> list[dict[str, str]] | None:
    """Name → text of each record; `None` where the JSON is something else, or too large for a table."""
    if len(data) > _MOST_BYTES:
        return None
    names: set[str] = set()
    records: list[dict[str, str]] = []
    try:
        for one in _objects(decoded(data).lstrip("\ufeff")):
            if not isinstance(one, dict):
                return None
            records.append(dict(_flat(one)))
            names.update(records[-1])
            if len(names) > _COLUMNS or len(records) > limits.document_rows:
                return None
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested deeper than a table
        return None
    return records if names else None


def _objects(text: str) -> Iterator[Any]:
    if text.lstrip().startswith("["):
        yield from json.loads(text)
        return
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1:  # one object is no table
        yield from map(json.loads, lines)


def _flat(record: Mapping[str, Any], above: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, dict):
            if depth == _DEPTH:
                raise ValueError("nested deeper than a table")
            yield from _flat(value, f"{above}{name}.", depth + 1)
        elif isinstance(value, list):
            yield f"{above}{name}", ", ".join(map(_text, value))
        else:
            yield f"{above}{name}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError("a table within a table")
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
