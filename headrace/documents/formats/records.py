"""JSON that is tables: an array of objects, an object on each line, or one object with such arrays.

A table within a record is the text of one cell: "date: 2026-03-02, result: passed; date: 2026-06-01".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, line
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.table import Table

SUFFIXES = (".json", ".jsonl", ".ndjson")
_MOST_BYTES = 20_000_000  # as objects in memory they take ten times as much
_COLUMNS = 100
_DEPTH = 3  # of objects in objects, whose names are joined by dots


def are_records(data: bytes, limits: ParseLimits) -> bool:
    """Whether a JSON file is a table, or several."""
    return _tables(data, limits) is not None


def write_records(file: DocumentFile, out: Output) -> None:
    """Write each table, whose header has the name of each value, in the order in which they first come."""
    for name, records in (_tables(file.data, file.limits) or {}).items():
        if name:
            out.write(f"\n## {line(name)}\n\n")
        names = list(dict.fromkeys(name for record in records for name in record))
        table = Table(out)
        table.add(names)
        for record in records:
            table.add(record.get(name, "") for name in names)


def _tables(data: bytes, limits: ParseLimits) -> dict[str, list[dict[str, str]]] | None:
    """The records of each table, name → text of each: "" is the name of the first.

    `None` where the JSON is something else, or too large for a table.
    """
    if len(data) > _MOST_BYTES:
        return None
    tables: dict[str, list[dict[str, str]]] = {}
    rows = 0
    try:
        for table, one in _objects(decoded(data).lstrip("\ufeff")):
            if not isinstance(one, dict):
                return None
            records = tables.setdefault(table, [])
            records.append(dict(islice(_flat(one), _COLUMNS + 1)))
            rows += 1
            if rows > limits.document_rows:
                return None
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested deeper than a table
        return None
    widths = [len({name for record in records for name in record}) for records in tables.values()]
    return tables if widths and min(widths) > 0 and max(widths) <= _COLUMNS else None


def _objects(text: str) -> Iterator[tuple[str, Any]]:
    """Each record with the name of its table."""
    if text.lstrip().startswith("["):
        yield from (("", one) for one in json.loads(text))
        return
    lines = [one for one in text.split("\n") if one.strip()]
    try:
        whole = json.loads(text)
    except ValueError:
        if len(lines) > 1:
            yield from (("", json.loads(one)) for one in lines)
        return
    tables = {name: value for name, value in whole.items() if _is_table(value)} if isinstance(whole, dict) else {}
    if not tables:  # one object is no table
        return
    if rest := {name: value for name, value in whole.items() if name not in tables}:
        yield "", rest
    for name, records in tables.items():
        yield from ((name or " ", one) for one in records)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and one for one in value)


def _flat(record: Mapping[str, Any], above: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, dict):
            if depth == _DEPTH:
                raise ValueError("nested deeper than a table")
            yield from _flat(value, f"{above}{name}.", depth + 1)
        elif isinstance(value, list):
            yield f"{above}{name}", _listed(value, depth)
        else:
            yield f"{above}{name}", _text(value)


def _listed(values: Sequence[Any], depth: int) -> str:
    """The text of a list, of whose objects each value is behind its name."""
    if depth == _DEPTH or not _is_table(values):
        return ", ".join(map(_text, values))
    return "; ".join(", ".join(f"{name}: {text}" for name, text in _flat(one, "", depth + 1) if text) for one in values)


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError("a table within a table")
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
