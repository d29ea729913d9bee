"""Rows to Markdown tables, and CSV to rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line
from headrace.documents.formats.plain_text import decoded

_DELIMITERS = ",;\t|"
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
    """Write a CSV file, separated by commas, semicolons, tabs or bars, as one table."""
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
    csv.field_size_limit(1 << 30)  # the limit of characters applies instead
    text = text.lstrip("\ufeff").replace("\x00", "")
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    except csv.Error as error:
        raise ParseRefused(f"not a readable CSV file ({error})") from None


def _delimiter(text: str) -> str:
    """The character that divides most of the first lines into the same number of fields."""
    lines = [line for line in text[:100_000].splitlines()[:_LOOKED_AT] if line.strip()]

    def fit(mark: str) -> tuple[int, int]:
        counts = [line.count(mark) for line in lines]
        usual = max(set(counts), key=counts.count, default=0)
        return (counts.count(usual) if usual else 0, usual)

    best = max(_DELIMITERS, key=fit)
    return best if fit(best)[0] else ","
