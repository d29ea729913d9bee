"""PDF to Markdown, page by page: headings by the size of their letters, tables by their ruled lines.

PDFium, Chrome's engine, reads the pages, many times as fast as a reader in Python; pdfplumber's geometry finds tables.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from ctypes import byref, c_float
from itertools import pairwise
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from pdfplumber.table import Table as Grid
from pdfplumber.table import cells_to_tables, edges_to_intersections, intersections_to_cells, merge_edges

from headrace.documents.formats.columns import Box, TextLine, in_reading_order
from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, clean, plain
from headrace.documents.formats.form import FieldValue, filled_in, with_values
from headrace.documents.formats.ocr import OcrPage, is_installed, read_page
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
_APART = 1.0  # of two pieces of a row, in heights of a line
_NAMED = 12  # runs of pages in a note
_STAMP = 60  # letters and digits, at most, that a program prints on a scanned page
_COVERED = 0.5  # of a page, by its pictures, if it is a scanned one


def write_pdf(file: DocumentFile, out: Output) -> None:
    """Write a PDF's text layer, and the text of scanned pages where OCR is installed."""
    limits = file.limits
    try:
        document = pdfium.PdfDocument(file.data)
        document.init_forms()
    except pdfium.PdfiumError as error:
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            raise ParseRefused("it is encrypted and needs a password") from None
        raise ParseRefused("not a readable PDF file") from None
    count = len(document)
    if count > limits.document_pages:
        raise ParseRefused(f"it has {count:,} pages, more than the limit of {limits.document_pages:,}")
    pages: list[list[TextLine]] = []
    characters = 0
    pictured: list[int] = []  # pages whose text is in a picture
    scanned: dict[int, OcrPage] = {}  # those of them that were read
    reads = limits.ocr_pages if is_installed() else 0
    until = math.inf
    for number in range(count):
        try:
            page = document[number]
            lines = list(_lines(page, document.formenv))
            if _is_pictured(page, lines):
                if reads and time.monotonic() < until:
                    reads -= 1
                    until = min(until, time.monotonic() + limits.ocr_seconds)
                    out.working()
                    read = _read(page)
                    if read is not None and read.letters > sum(len(line.text) for line in lines):
                        scanned[number + 1], lines = read, read.lines
                if number + 1 not in scanned:
                    pictured.append(number + 1)
            page.close()
        except pdfium.PdfiumError:
            raise ParseRefused(f"page {number + 1} cannot be read") from None
        characters += sum(len(line.text) for line in lines)
        if characters > limits.document_characters:
            raise ParseRefused(f"its text is longer than the limit of {limits.document_characters:,} characters")
        pages.append(lines)
    levels = _levels([line for number, page in enumerate(pages, 1) if number not in scanned for line in page])
    for number, lines in enumerate(pages, 1):
        out.begin_part(f"page {number}")
        _write(lines, {} if number in scanned else levels, out)
    only_pictured = all(number in pictured for number, lines in enumerate(pages, 1) if lines)
    if not characters or (only_pictured and not any(c.isalpha() for lines in pages for line in lines for c in line.text)):
        raise ParseRefused("it has no text (scanned images?)")
    if scanned:
        letters = sum(page.letters for page in scanned.values())
        out.ocr_confidence = sum(page.letters * page.confidence for page in scanned.values()) / letters
        least = min(scanned, key=lambda number: scanned[number].confidence)
        least_sure = f", {scanned[least].confidence:.0%} on page {least}" if len(scanned) > 1 else ""
        sure = f"{out.ocr_confidence:.0%}{least_sure}"
        out.remark = f"{_numbered(list(scanned), 'was', 'were')} read by OCR (confidence {sure})"
    if pictured:
        out.note(f"{_numbered(pictured)} no text (scanned images?)")


def _read(page: Any) -> OcrPage | None:
    """What OCR reads on a page; `None` where it fails, which is no fault of the other pages."""
    try:
        return read_page(page)
    except (MemoryError, pdfium.PdfiumError):
        raise
    except Exception:  # of libraries that raise anything for a picture they cannot deal with
        return None


def _numbered(pages: Sequence[int], one: str = "has", many: str = "have") -> str:
    """Pages with their verb: "page 3 has", "pages 2–5 and 7 have", the first ones if they are many."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and runs[-1][1] == page - 1:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    named = [f"{first}" if first == last else f"{first}–{last}" for first, last in runs]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"{sum(last - first + 1 for first, last in runs[_NAMED:])} more"]
    listed = f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
    return f"pages {listed} {many}" if len(pages) > 1 else f"page {listed} {one}"


def _is_pictured(page: Any, lines: Sequence[TextLine]) -> bool:
    """Whether a page shows something but has no text, or no more than is stamped on the pictures that cover it."""
    letters = sum(c.isalnum() for line in lines for c in line.text)
    if letters > _STAMP:
        return False
    if not letters:
        return next(page.get_objects(max_depth=2), None) is not None
    covered = 0.0
    for picture in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        left, bottom, right, top = picture.get_bounds()
        covered += max(0.0, right - left) * max(0.0, top - bottom)
    width, height = page.get_size()
    return bool(covered >= _COVERED * width * height)


def _lines(page: Any, form: Any) -> Iterator[TextLine]:
    """The lines of a page in the order of the file, each ruled table where its first line is, with what is filled in."""
    text = page.get_textpage()
    values = filled_in(page, form)
    lines = list(in_reading_order(list(_text_lines(text))))
    tables = list(_tables(page, text, values)) if lines else []
    boxes = [box for box, _ in tables]
    lines = with_values(lines, [value for value in values if not any(_is_inside(value.box, box) for box in boxes)])
    taken: set[int] = set()
    for line in lines:
        inside = next((i for i, box in enumerate(boxes) if _is_inside(line.box, box)), None)
        if inside is None:
            yield line
        elif inside not in taken:
            taken.add(inside)
            box, rows = tables[inside]
            yield TextLine("\n".join("".join(row) for row in rows), 0.0, box, rows)
    text.close()


def _is_inside(box: Box, outer: Box) -> bool:
    """Whether the middle of a box is in another one."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def _text_lines(text: Any) -> Iterator[list[TextLine]]:
    """The pieces of each row that PDFium finds; a row is cut where its letters stand far apart."""
    row: list[TextLine] = []
    codes: list[int] = []
    places: list[int] = []
    gap = False
    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text, index)
        if code in (10, 13):
            if codes:
                yield [*row, _line(text, codes, places)]
            row, codes, places, gap = [], [], [], False
            continue
        if gap and places and code > 32:
            before, after = _letter(text, places[-1]), _letter(text, index)
            if after[0] - before[2] > _APART * (before[3] - before[1]) > 0:
                row.append(_line(text, codes, places))
                codes, places = [], []
        gap = code == 32 and raw.FPDFText_IsGenerated(text, index) == 1
        codes.append(code)
        if code > 32:
            places.append(index)
    if codes:
        yield [*row, _line(text, codes, places)]


def _line(text: Any, codes: Sequence[int], places: Sequence[int]) -> TextLine:
    decoded = "".join(map(chr, codes)).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    boxes = [_letter(text, places[at]) for at in sorted({0, len(places) // 2, len(places) - 1})] if places else []
    if not boxes:
        return TextLine(decoded.strip(), 0.0, (0.0, 0.0, 0.0, 0.0))
    height = statistics.median(box[3] - box[1] for box in boxes)
    return TextLine(
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


def _levels(lines: Sequence[TextLine]) -> dict[float, int]:
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


def _write(lines: Sequence[TextLine], levels: dict[float, int], out: Output) -> None:
    written = _HYPHEN.sub("", "\n".join(_markdown(lines, levels)))
    out.write(_BLANKS.sub("\n\n", clean(written)) + "\n")


def _markdown(lines: Sequence[TextLine], levels: dict[float, int]) -> Iterator[str]:
    before: TextLine | None = None
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


def _tables(page: Any, text: Any, values: Sequence[FieldValue]) -> Iterator[tuple[Box, list[list[str]]]]:
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
        rows = [["" if cell is None else _cell_text(text, cell, values) for cell in row.cells] for row in grid.rows]
        filled = [row for row in rows if any(row)]
        full = sum(bool(cell) for row in filled for cell in row)
        if len(filled) < 2 or len(filled[0]) < 2 or full < 0.4 * sum(map(len, filled)):
            continue
        if max(len(cell) for row in filled for cell in row) <= _CELL_CHARS:
            left, top, right, bottom = grid.bbox
            yield (left, top, right, bottom), filled


def _cell_text(text: Any, cell: Box, values: Sequence[FieldValue]) -> str:
    left, top, right, bottom = cell
    printed = _HYPHEN.sub("", text.get_text_bounded(left, -bottom, right, -top).replace("\r\n", "\n"))
    inside = [value for value in values if _is_inside(value.box, cell)]
    marks, filled = [one.text for one in inside if one.mark], [one.text for one in inside if not one.mark]
    return " ".join(" ".join((*marks, printed, *filled)).split())


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
