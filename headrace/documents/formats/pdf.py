"""PDF to Markdown, page by page: headings by the size of their letters, tables by their ruled lines.

PDFium, Chrome's engine, reads the pages, many times as fast as a reader in Python; pdfplumber's geometry finds tables.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from ctypes import byref, c_float
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from pdfplumber.table import Table as Grid
from pdfplumber.table import cells_to_tables, edges_to_intersections, intersections_to_cells, merge_edges

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, clean, plain
from headrace.documents.formats.table import Table

_HYPHEN = re.compile("[\x02\ufffe]\n?")  # PDFium's mark for a hyphen that only breaks a word at the end of a line
_BLANKS = re.compile("\n{3,}")
_LARGER = 1.15  # a heading's letters are that many times the size of running text
_HEADING_CHARS = 200
_HEADING_SHARE = 0.3  # of a document's text at most; if more of it is large, none of that is a heading
_LEVELS = 4
_GAP = 0.7  # between paragraphs, in heights of a line
_SEGMENTS = 20_000  # drawn on a page; more make a drawing, not a table
_EDGES = 600  # the time to find tables grows with their square
_CELLS = 3_000
_THIN = 3.0  # points; a thinner box is a line
_CELL_CHARS = 2_000

Box = tuple[float, float, float, float]


@dataclass
class _Line:
    """A line of text; `size` is the height of its letters and `box` (left, top, right, bottom) in points, downwards."""

    text: str
    size: float
    box: Box
    rows: list[list[str]] = field(default_factory=list)


def write_pdf(file: DocumentFile, out: Output) -> None:
    """Write a PDF's text layer; scanned pages have none."""
    limits = file.limits
    try:
        document = pdfium.PdfDocument(file.data)
    except pdfium.PdfiumError as error:
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            raise ParseRefused("it is encrypted and needs a password") from None
        raise ParseRefused("not a readable PDF file") from None
    count = len(document)
    if count > limits.document_pages:
        raise ParseRefused(f"it has {count:,} pages, more than the limit of {limits.document_pages:,}")
    pages: list[list[_Line]] = []
    characters = 0
    for number in range(count):
        try:
            page = document[number]
            lines = list(_lines(page))
            page.close()
        except pdfium.PdfiumError:
            raise ParseRefused(f"page {number + 1} cannot be read") from None
        characters += sum(len(line.text) for line in lines)
        if characters > limits.document_characters:
            raise ParseRefused(f"its text is longer than the limit of {limits.document_characters:,} characters")
        pages.append(lines)
    levels = _levels([line for page in pages for line in page])
    for number, lines in enumerate(pages, 1):
        out.begin_part(f"page {number}")
        _write(lines, levels, out)
    if not characters:
        raise ParseRefused("it has no text (scanned images?)")


def _lines(page: Any) -> Iterator[_Line]:
    """The lines of a page in the order of the file, each ruled table where its first line is."""
    text = page.get_textpage()
    lines = list(_text_lines(text))
    tables = list(_tables(page, text)) if lines else []
    taken: set[int] = set()
    for line in lines:
        x, y = (line.box[0] + line.box[2]) / 2, (line.box[1] + line.box[3]) / 2
        inside = next((i for i, (box, _) in enumerate(tables) if box[0] <= x <= box[2] and box[1] <= y <= box[3]), None)
        if inside is None:
            yield line
        elif inside not in taken:
            taken.add(inside)
            box, rows = tables[inside]
            yield _Line("\n".join("".join(row) for row in rows), 0.0, box, rows)
    text.close()


def _text_lines(text: Any) -> Iterator[_Line]:
    codes: list[int] = []
    places: list[int] = []
    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text, index)
        if code in (10, 13):
            if codes:
                yield _line(text, codes, places)
            codes, places = [], []
        else:
            codes.append(code)
            if code > 32:
                places.append(index)
    if codes:
        yield _line(text, codes, places)


def _line(text: Any, codes: Sequence[int], places: Sequence[int]) -> _Line:
    decoded = "".join(map(chr, codes)).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    boxes = [_letter(text, places[at]) for at in sorted({0, len(places) // 2, len(places) - 1})] if places else []
    if not boxes:
        return _Line(decoded.strip(), 0.0, (0.0, 0.0, 0.0, 0.0))
    height = statistics.median(box[3] - box[1] for box in boxes)
    return _Line(
        decoded.strip(),
        round(height * 2) / 2,
        (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)),
    )


def _letter(text: Any, index: int) -> Box:
    box = raw.FS_RECTF()
    if not raw.FPDFText_GetLooseCharBox(text, index, byref(box)):
        return (0.0, 0.0, 0.0, 0.0)
    return _down(box.left, box.bottom, box.right, box.top)


def _down(left: float, bottom: float, right: float, top: float) -> Box:
    """PDF's upward coordinates as downward ones: (left, top, right, bottom)."""
    return (left, -top, right, -bottom)


def _levels(lines: Sequence[_Line]) -> dict[float, int]:
    """Letter size → heading level. The most common size is running text; larger sizes are headings."""
    shares: Counter[float] = Counter()
    for line in lines:
        shares[line.size] += len(line.text)
    shares.pop(0.0, None)
    if not shares:
        return {}
    usual = shares.most_common(1)[0][0]
    larger = sorted((size for size in shares if size >= usual * _LARGER), reverse=True)
    if sum(shares[size] for size in larger) > _HEADING_SHARE * shares.total():
        return {}
    return {size: min(level, _LEVELS) for level, size in enumerate(larger, 1)}


def _write(lines: Sequence[_Line], levels: dict[float, int], out: Output) -> None:
    written = _HYPHEN.sub("", "\n".join(_markdown(lines, levels)))
    out.write(_BLANKS.sub("\n\n", clean(written)) + "\n")


def _markdown(lines: Sequence[_Line], levels: dict[float, int]) -> Iterator[str]:
    before: _Line | None = None
    title: list[str] = []
    level = 0

    def heading() -> Iterator[str]:
        if title:
            yield from ("", f"{'#' * level} {' '.join(title)}", "")
            title.clear()

    for line in lines:
        here = levels.get(line.size, 0) if len(line.text) <= _HEADING_CHARS and any(c.isalpha() for c in line.text) else 0
        if title and (here != level or len(" ".join(title)) > _HEADING_CHARS):
            yield from heading()
        if here:
            level = here
            title.append(line.text)
        elif line.rows:
            cells = Output(1 << 30)
            table = Table(cells)
            for row in line.rows:
                table.add(row)
            yield from ("", *(text for text, _ in cells.parts()), "")
        else:
            if before is not None and line.box[1] - before.box[3] > _GAP * line.size > 0:
                yield ""
            yield plain(line.text)
        before = line
    yield from heading()


def _tables(page: Any, text: Any) -> Iterator[tuple[Box, list[list[str]]]]:
    """(box, rows) of each table whose cells are ruled on the page."""
    edges = list(_edges(page))
    if not 4 <= len(edges) <= _SEGMENTS:
        return
    merged = merge_edges(edges, 3, 3, 3, 3)
    if len(merged) > _EDGES:
        return
    cells = intersections_to_cells(edges_to_intersections(merged, 3, 3))
    if len(cells) > _CELLS:
        return
    for table in cells_to_tables(cells):
        grid = Grid(page, table)
        rows = [["" if cell is None else _cell_text(text, cell) for cell in row.cells] for row in grid.rows]
        filled = [row for row in rows if any(row)]
        full = sum(bool(cell) for row in filled for cell in row)
        if len(filled) < 2 or len(filled[0]) < 2 or full < 0.4 * sum(map(len, filled)):
            continue
        if max(len(cell) for row in filled for cell in row) <= _CELL_CHARS:
            left, top, right, bottom = grid.bbox
            yield (left, top, right, bottom), filled


def _cell_text(text: Any, cell: Box) -> str:
    left, top, right, bottom = cell
    return " ".join(_HYPHEN.sub("", text.get_text_bounded(left, -bottom, right, -top).replace("\r\n", "\n")).split())


def _edges(page: Any) -> Iterator[dict[str, Any]]:
    """The horizontal and vertical lines of a page, and the edges of its filled boxes."""
    drawn = 0
    for shape in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH], max_depth=1):
        count = raw.FPDFPath_CountSegments(shape)
        drawn += max(0, count)
        if drawn > _SEGMENTS:
            return
        for points in _paths(shape, count):
            left, right = min(x for x, _ in points), max(x for x, _ in points)
            top, bottom = min(y for _, y in points), max(y for _, y in points)
            if right - left < _THIN or bottom - top < _THIN:
                yield from _edge(left, top, right, bottom)
            else:
                for (x0, y0), (x1, y1) in pairwise(points):
                    if abs(x1 - x0) < 1 or abs(y1 - y0) < 1:
                        yield from _edge(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def _edge(left: float, top: float, right: float, bottom: float) -> Iterator[dict[str, Any]]:
    if max(right - left, bottom - top) < _THIN or not all(map(math.isfinite, (left, top, right, bottom))):
        return
    if right - left >= bottom - top:
        middle = (top + bottom) / 2
        yield {"x0": left, "x1": right, "top": middle, "bottom": middle, "width": right - left, "height": 0.0, "orientation": "h"}
    else:
        middle = (left + right) / 2
        yield {"x0": middle, "x1": middle, "top": top, "bottom": bottom, "width": 0.0, "height": bottom - top, "orientation": "v"}


def _paths(shape: Any, count: int) -> Iterator[list[tuple[float, float]]]:
    """The corners of each piece of a drawn path, in downward coordinates; a closed piece ends where it began."""
    place = shape.get_matrix()
    points: list[tuple[float, float]] = []
    x, y = c_float(), c_float()
    for index in range(count):
        segment = raw.FPDFPath_GetPathSegment(shape, index)
        raw.FPDFPathSegment_GetPoint(segment, byref(x), byref(y))
        across, up = place.on_point(x.value, y.value)
        if raw.FPDFPathSegment_GetType(segment) == raw.FPDF_SEGMENT_MOVETO:
            if len(points) > 1:
                yield points
            points = []
        points.append((across, -up))
        if raw.FPDFPathSegment_GetClose(segment) and len(points) > 1:
            points.append(points[0])
    if len(points) > 1:
        yield points
