"""OpenDocument to Markdown: texts, sheets and slides, which share one vocabulary (OASIS OpenDocument 1.3, part 3)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from lxml import etree

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line, plain
from headrace.documents.formats.table import Table

_SPACES = {
    name: f"{{urn:oasis:names:tc:opendocument:xmlns:{name}:1.0}}"
    for name in ("text", "table", "drawing", "office", "presentation", "manifest")
}
_TEXT, _TABLE, _DRAW = _SPACES["text"], _SPACES["table"], _SPACES["drawing"]
_HIDDEN = (_TEXT + "tracked-changes", _SPACES["office"] + "annotation", _TEXT + "sequence-decls", _SPACES["office"] + "forms")
_BLANKS = {_TEXT + "tab": "\t", _TEXT + "line-break": " ", _TEXT + "s": " "}
_REPEATED = 1_000  # columns that a cell is repeated to, at most; a sheet's last empty cell is repeated to its edge


def write_opendocument(file: DocumentFile, out: Output) -> None:
    """Write a text (ODT), the sheets of a workbook (ODS) or the slides of a presentation (ODP), each a part with its name."""
    with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
        if "META-INF/manifest.xml" in archive.namelist() and b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise ParseRefused("it is encrypted and needs a password")
        content = archive.read("content.xml")
    try:
        root = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise ParseRefused("it is nested too deeply" if "depth" in str(error) else "not a readable OpenDocument file") from None
    body = root.find(_SPACES["office"] + "body")
    for hidden in list(root.iter(*_HIDDEN)):
        hidden.clear(keep_tail=True)
    for kind in () if body is None else body:
        name = etree.QName(kind).localname
        if name == "spreadsheet":
            _sheets(kind, file, out)
        elif name == "presentation":
            _slides(kind, file, out)
        else:
            _blocks(kind, out, 0)


def _sheets(book: Any, file: DocumentFile, out: Output) -> None:
    sheets, most = book.findall(_TABLE + "table"), file.limits.document_sheets
    if len(sheets) > most:
        raise ParseRefused(f"it has {len(sheets):,} sheets, more than the limit of {most:,}")
    left = file.limits.document_rows
    for sheet in sheets:
        name = line(sheet.get(_TABLE + "name") or "")
        out.begin_part(f"sheet {name}")
        out.write(f"# {name}\n\n")
        left -= _table(sheet, out)
        if left < 0:
            raise ParseRefused(f"it has more than the limit of {file.limits.document_rows:,} rows")


def _slides(presentation: Any, file: DocumentFile, out: Output) -> None:
    slides, most = presentation.findall(_DRAW + "page"), file.limits.document_pages
    if len(slides) > most:
        raise ParseRefused(f"it has {len(slides):,} slides, more than the limit of {most:,}")
    for number, slide in enumerate(slides, 1):
        out.begin_part(f"slide {number}")
        titles = [frame for frame in slide.iter(_DRAW + "frame") if frame.get(_SPACES["presentation"] + "class") == "title"]
        for frame in titles[:1]:
            if title := line(" ".join(_said(paragraph) for paragraph in frame.iter(_TEXT + "p", _TEXT + "h"))):
                out.write(f"# {title}\n\n")
            frame.getparent().remove(frame)
        notes = slide.find(_SPACES["presentation"] + "notes")
        if notes is not None:
            slide.remove(notes)
        _blocks(slide, out, 0)
        if notes is not None and line("".join(_said(one) for one in notes.iter(_TEXT + "p"))):
            out.write("Notes:\n\n")
            _blocks(notes, out, 0)


def _blocks(parent: Any, out: Output, depth: int) -> None:
    """Write headings, paragraphs, lists and tables in their order, also those in sections and frames."""
    for element in parent:
        if element.tag == _TEXT + "h":
            if title := line(_said(element)):
                level = element.get(_TEXT + "outline-level") or "1"
                out.write(f"{'#' * min(6, max(1, int(level) if level.isdigit() else 1))} {title}\n\n")
        elif element.tag == _TEXT + "p":
            if text := line(_said(element)):
                out.write(f"{'  ' * (depth - 1)}- {text}\n" if depth else f"{plain(text)}\n\n")
            for box in element.iter(_DRAW + "text-box"):
                _blocks(box, out, depth)
        elif element.tag == _TABLE + "table":
            _table(element, out)
            out.write("\n")
        elif element.tag == _TEXT + "list":
            _blocks(element, out, depth + 1)
            out.write("" if depth else "\n")
        elif isinstance(element.tag, str):
            _blocks(element, out, depth)


def _table(table: Any, out: Output) -> int:
    """Write a table, a merged cell in each of its rows and columns; returns the number of rows."""
    written = Table(out)
    reaching: dict[int, tuple[int, str]] = {}  # column → rows left and the text of the cell that reaches down
    rows = 0
    for row in table.iter(_TABLE + "table-row"):
        if next(row.iterancestors(_TABLE + "table")) is not table:
            continue
        cells: list[str] = []
        for column, (cell, text) in enumerate(_cells(row)):
            if cell.tag == _TABLE + "covered-table-cell":
                left, above = reaching.get(column, (0, ""))
                cells.append(above if left else cells[-1] if cells else "")
                if left:
                    reaching[column] = (left - 1, above)
                continue
            cells.append(text)
            down, across = (_number(cell, f"number-{kind}-spanned") for kind in ("rows", "columns"))
            for covered in range(column, column + across):
                reaching[covered] = (down - 1, text)
        if any(cells):
            for _ in range(_number(row, "number-rows-repeated")):
                written.add(cells)
                rows += 1
    return rows


def _cells(row: Any) -> Iterator[tuple[Any, str]]:
    for cell in row:
        if cell.tag in (_TABLE + "table-cell", _TABLE + "covered-table-cell"):
            text = line(" ".join(_said(paragraph) for paragraph in cell.iter(_TEXT + "p", _TEXT + "h")))
            for _ in range(_number(cell, "number-columns-repeated")):
                yield cell, text


def _number(cell: Any, name: str) -> int:
    value = cell.get(_TABLE + name) or "1"
    return min(_REPEATED, max(1, int(value))) if value.isdigit() and len(value) < 9 else 1


def _said(element: Any) -> str:
    """The text of a paragraph, without that of text boxes anchored in it; notes are in parentheses."""
    out = [element.text or ""]
    for child in element:
        if child.tag in _BLANKS:
            count = child.get(_TEXT + "c") or "1"
            out.append(_BLANKS[child.tag] * min(_REPEATED, int(count) if count.isdigit() else 1))
        elif child.tag == _TEXT + "note":
            out.append(f" ({line(' '.join(_said(one) for one in child.iter(_TEXT + 'p')))})")
        elif child.tag == _TEXT + "ruby":
            readings = "".join(_said(one) for one in child.iter(_TEXT + "ruby-text"))
            out.append("".join(_said(one) for one in child.iter(_TEXT + "ruby-base")) + (f"({readings})" if readings else ""))
        elif isinstance(child.tag, str) and child.tag != _DRAW + "frame":
            out.append(_said(child))
        out.append(child.tail or "")
    return "".join(out)
