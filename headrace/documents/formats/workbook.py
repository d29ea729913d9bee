"""XLSX to Markdown tables, sheet by sheet: what the sheet shows, with the values last calculated."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from itertools import repeat
from typing import Any

from openpyxl import load_workbook
from openpyxl.utils.cell import range_boundaries

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line, plain
from headrace.documents.formats.number_format import general, shown_number, shown_text, shown_time
from headrace.documents.formats.table import Table

_EXCEL_ROWS = 1_048_576  # the last row of a sheet; a file that names a later one is broken
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]{0,200}?\bref=\"([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})\"")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>]")
_MERGES = 20_000  # of a sheet that are repeated
_WIDE = 100  # columns to which a merged cell widens a row
_READ = 1 << 20

Merge = tuple[int, int, int, int]  # left, top, right and bottom, from 1


def write_workbook(file: DocumentFile, out: Output) -> None:
    """Write a workbook, row by row so that a large sheet takes little memory; no formula is calculated."""
    limits = file.limits
    book = _open(file.data, data_only=True)
    formulas: Any = None
    sheets = [sheet for sheet in book.worksheets if hasattr(sheet, "iter_rows")]
    if len(sheets) > limits.document_sheets:
        raise ParseRefused(f"it has {len(sheets):,} sheets, more than the limit of {limits.document_sheets:,}")
    rows = 0
    with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
        for sheet in sheets:
            name = line(str(sheet.title))
            out.begin_part(f"sheet {name}")
            try:
                merges, calculated = _outline(archive, sheet)
                uncalculated = None
                if calculated:
                    formulas = formulas or _open(file.data, data_only=False)
                    uncalculated = formulas[sheet.title]
                rows = _sheet(sheet, uncalculated, merges, out, rows, limits.document_rows)
            except (ParseRefused, MemoryError, RecursionError):
                raise
            except Exception as error:  # a broken sheet may raise anything
                raise ParseRefused(f"sheet {name} cannot be read ({type(error).__name__})") from None


def _open(data: bytes, *, data_only: bool) -> Any:
    return load_workbook(io.BytesIO(data), read_only=True, data_only=data_only, keep_links=False)


def _outline(archive: zipfile.ZipFile, sheet: Any) -> tuple[list[Merge], bool]:
    """The merged cells of a sheet in the order of their rows, and whether it has formulas."""
    merges: list[Merge] = []
    formula = False
    tail = b""
    with archive.open(sheet._worksheet_path.removeprefix("/")) as part:
        while read := part.read(_READ):
            text = tail + read
            formula = formula or bool(_FORMULA.search(text))
            end = 0
            for match in _MERGED.finditer(text):
                end = match.end()
                if len(merges) < _MERGES:
                    merges.append(range_boundaries(match[1].decode()))
            tail = text[max(end, len(text) - 300) :]
    return sorted(merges, key=lambda merge: merge[1]), formula


def _sheet(sheet: Any, formulas: Any, merges: list[Merge], out: Output, rows: int, most: int) -> int:
    """Write a sheet after so many `rows` of others; returns the number of rows by now.

    A sheet may hold several tables with blank rows between them, and lines of text above them. A block that begins with a
    number continues the table before it.
    """
    name = line(str(sheet.title))
    table: Table | None = None
    parted = titled = False
    reaching = _Reaching(merges)
    for number, (row, written) in enumerate(
        zip(_rows(sheet), repeat(()) if formulas is None else _rows(formulas), strict=False), 1
    ):
        if number > _EXCEL_ROWS:
            raise ParseRefused(f"sheet {name} has more rows than a sheet can have")
        cells = [_text(cell) for cell in row]
        for index, cell in enumerate(written[: len(cells)]):
            if not cells[index] and isinstance(cell.value, str) and cell.value.startswith("="):
                cells[index] = line(cell.value)  # no program has calculated it
        filled = sum(bool(cell) for cell in cells)
        reaching.repeat(number, cells)
        if not filled:
            parted = True
            continue
        rows += 1
        if rows > most:
            raise ParseRefused(f"it has more than the limit of {most:,} rows")
        if not titled:
            out.write(f"# {name}\n\n")
            titled = True
        if parted and table is not None and not _is_data(row):
            out.write("\n")
            table = None
        parted = False
        if table is None and filled == 1 and not _is_data(row):
            out.write(plain(next(filter(None, cells))) + "\n\n")
            continue
        if table is None:
            table = Table(out)
        table.add(cells)
    return rows


def _rows(sheet: Any) -> Iterator[Sequence[Any]]:
    sheet.reset_dimensions()  # those in the file are often wrong, and an attack can make them expensive
    rows: Iterator[Sequence[Any]] = sheet.iter_rows()
    return rows


class _Reaching:
    """Repeats merged cells: downwards in every row that has a cell of its own, to the right in a row of several cells."""

    def __init__(self, merges: list[Merge]) -> None:
        self._waiting = merges[::-1]
        self._open: list[tuple[Merge, str]] = []

    def repeat(self, number: int, cells: list[str]) -> None:
        """Fill in the cells of a row that merged ones cover."""
        filled = sum(map(bool, cells))
        for (left, _, right, _), text in self._open:
            if filled:
                self._fill(cells, left, right, text)
        while self._waiting and self._waiting[-1][1] <= number:
            merge = self._waiting.pop()
            left, _, right, bottom = merge
            if left <= len(cells) and (text := cells[left - 1]) and bottom >= number:
                if filled > 1:
                    self._fill(cells, left, right, text)
                self._open.append((merge, text))
        self._open = [(merge, text) for merge, text in self._open if merge[3] > number]

    @staticmethod
    def _fill(cells: list[str], left: int, right: int, text: str) -> None:
        cells += [""] * (min(right, left + _WIDE) - len(cells))
        for index in range(left - 1, min(right, len(cells))):
            cells[index] = cells[index] or text


def _is_data(row: Sequence[Any]) -> bool:
    return any(cell.value is not None and not isinstance(cell.value, str) for cell in row)


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    code = cell.number_format or "General"
    if isinstance(value, int | float):
        return line(general(value) if code == "General" else shown_number(value, code))
    if isinstance(value, date | time | timedelta):
        return line(shown_time(value, code))
    return line(shown_text(str(value), code) if "@" in code and len(code) > 1 else str(value))
