"""Rows to Markdown tables, and CSV to rows."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line
from headrace.documents.formats.encoding import decoded

_DELIMITERS = ",;\t|"
_NAMED = re.compile(r"sep=(.)\r?\n", re.I)  # Excel's line in front of the header
_DECIMAL = re.compile(r"(?<=\d),(?=\d)")
_LOOKED_AT = 20  # lines, enough to detect the delimiter of a CSV file


class Table:
    """Writes a Markdown table, whose first row is the header."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._rows = 0

    def add(self, row: Iterable[str]) -> None:
        """Add a row. Short rows stay short, so that one wide row does not widen a million others."""
        cells = [line(cell).replace("|", "\\|") for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            return
        self._out.write(f"| {' | '.join(cells)} |\n")
        if self._rows == 0:
            self._out.write("|" + "---|" * len(cells) + "\n")
        self._rows += 1


def write_csv(file: DocumentFile, out: Output) -> None:
    """Write a CSV file, divided by commas, semicolons, tabs, bars or what it names, as one table."""
    table = Table(out)
    most_rows = file.limits.document_rows
    rows = 0
    for row in _read(decoded(file.data)):
        if any(cell.strip() for cell in row):
            rows += 1
            if rows > most_rows:
                raise ParseRefused(f"it has more than the limit of {most_rows:,} rows")
            table.add(row)


def _read(text: str) -> Iterator[Sequence[str]]:
    """The rows. A quotation mark that nothing closes is a mark like any other, and ends with its line."""
    csv.field_size_limit(1 << 30)  # the limit of characters applies instead
    text = text.lstrip("\ufeff").replace("\x00", "")
    named = _NAMED.match(text)
    text = text[named.end() :] if named else text
    lines = text.splitlines(keepends=True)
    dialect: dict[str, Any] = {"delimiter": named[1] if named else _delimiter(lines)}
    if '\\"' in text and '""' not in text:
        dialect |= {"escapechar": "\\", "doublequote": False}
    start = 0
    while start < len(lines):
        reader = csv.reader(itertools.islice(lines, start, None), strict=True, **dialect)
        read = 0
        try:
            for row in reader:
                read = reader.line_num
                yield row
            return
        except csv.Error as error:
            start += read
            if "unexpected end" in str(error) or reader.line_num - read > 1:
                dialect["quoting"] = csv.QUOTE_NONE
            yield from csv.reader(lines[start : start + 1], **dialect)
            dialect.pop("quoting", None)
            start += 1


def _delimiter(lines: Sequence[str]) -> str:
    """The character that divides most of the first lines into the same number of fields."""
    sample = [line for line in lines[:_LOOKED_AT] if line.strip()]

    def fit(mark: str) -> tuple[int, bool, int]:
        counts = [len(row) - 1 for row in csv.reader(sample, delimiter=mark)]
        usual = max(set(counts), key=counts.count, default=0)
        # A comma between digits is a decimal comma, if something else divides as well.
        decimal = mark == "," and all(_DECIMAL.sub("", line).count(",") == 0 for line in sample)
        return (counts.count(usual) if usual > 0 else 0, not decimal, usual)

    best = max(_DELIMITERS, key=fit)
    return best if fit(best)[0] else ","
