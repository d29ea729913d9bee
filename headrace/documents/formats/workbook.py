"""XLSX to Markdown tables, sheet by sheet, with the values last calculated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

from openpyxl import load_workbook

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line, plain
from headrace.documents.formats.table import Table

_EXCEL_ROWS = 1_048_576  # the last row of a sheet; a file that names a later one is broken


def write_workbook(file: DocumentFile, out: Output) -> None:
    """Write a workbook, row by row so that a large sheet takes little memory; no formula is calculated."""
    limits = file.limits
    book = load_workbook(io.BytesIO(file.data), read_only=True, data_only=True, keep_links=False)
    sheets = [sheet for sheet in book.worksheets if hasattr(sheet, "iter_rows")]
    if len(sheets) > limits.document_sheets:
        raise ParseRefused(f"it has {len(sheets):,} sheets, more than the limit of {limits.document_sheets:,}")
    rows = 0
    for sheet in sheets:
        name = line(str(sheet.title))
        out.begin_part(f"sheet {name}")
        try:
            rows = _sheet(sheet, out, rows, limits.document_rows)
        except (ParseRefused, MemoryError, RecursionError):
            raise
        except Exception as error:  # a broken sheet may raise anything
            raise ParseRefused(f"sheet {name} cannot be read ({type(error).__name__})") from None


def _sheet(sheet: Any, out: Output, rows: int, most: int) -> int:
    """Write a sheet after so many `rows` of others; returns the number of rows by now.

    A sheet may hold several tables with blank rows between them, and lines of text above them. A block that begins with a
    number continues the table before it.
    """
    sheet.reset_dimensions()  # those in the file are often wrong, and an attack can make them expensive
    name = line(str(sheet.title))
    table: Table | None = None
    parted = titled = False
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        if number > _EXCEL_ROWS:
            raise ParseRefused(f"sheet {name} has more rows than a sheet can have")
        cells = [_text(value) for value in row]
        filled = sum(bool(cell) for cell in cells)
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
            out.write(plain("".join(cells)) + "\n\n")
            continue
        if table is None:
            table = Table(out)
        table.add(cells)
    return rows


def _is_data(row: Sequence[Any]) -> bool:
    return any(value is not None and not isinstance(value, str) for value in row)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    if isinstance(value, date):
        return value.isoformat()
    return line(str(value))
