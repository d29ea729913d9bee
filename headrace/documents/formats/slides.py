"""PPTX to Markdown, slide by slide."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from lxml import etree
from pptx.package import Package

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line, plain
from headrace.documents.formats.table import Table

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_EQUATION = "{http://schemas.microsoft.com/office/drawing/2010/main}m"
_RELATED = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_POINT = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}pt"
_DATA = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}dm"
_DIAGRAM = "/diagramData"


def write_slides(file: DocumentFile, out: Output) -> None:
    """Write a presentation: each slide's title as a heading, its text, tables, charts and notes; macros are ignored."""
    most = file.limits.document_pages
    slides = Package.open(io.BytesIO(file.data)).presentation_part.presentation.slides
    if len(slides) > most:
        raise ParseRefused(f"it has {len(slides):,} slides, more than the limit of {most:,}")
    for number, slide in enumerate(_each(slides), 1):
        out.begin_part(f"slide {number}")
        try:
            _slide(slide, out)
        except (ParseRefused, MemoryError, RecursionError):
            raise
        except Exception as error:  # a broken slide may raise anything
            raise ParseRefused(f"slide {number} cannot be read ({type(error).__name__})") from None


def _each(slides: Any) -> Iterator[Any]:
    number = 0
    read = iter(slides)
    while True:
        number += 1
        try:
            slide = next(read)
        except StopIteration:
            return
        except KeyError:
            raise ParseRefused(f"slide {number} is missing from the file") from None
        yield slide


def _slide(slide: Any, out: Output) -> None:
    tree = slide.shapes._spTree
    for alternative in list(tree.iter(_MC + "AlternateContent")):
        _choose(alternative)
    for equation in list(tree.iter(_EQUATION)):
        _write_out(equation)
    title = slide.shapes.title
    diagrams = {relation.rId: relation for relation in slide.part.rels.values() if relation.reltype.endswith(_DIAGRAM)}
    if title is not None and (text := line(title.text_frame.text)):
        out.write(f"# {text}\n\n")
    waiting = sorted(slide.shapes, key=_position, reverse=True)
    while waiting:
        shape = waiting.pop()
        if title is not None and shape._element is title._element:
            continue
        if hasattr(shape, "shapes"):
            waiting += sorted(shape.shapes, key=_position, reverse=True)
        elif getattr(shape, "has_table", False):
            _table(shape.table, out)
        elif getattr(shape, "has_chart", False):
            _chart(shape.chart, out)
        elif shape.has_text_frame:
            _text(shape.text_frame, out)
        else:
            for named in shape._element.iter(_RELATED):
                if (relation := diagrams.pop(named.get(_DATA), None)) is not None:
                    _diagram(relation, out)
    for relation in diagrams.values():  # drawn in a way that is not known here
        _diagram(relation, out)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None and notes.text.strip():
        out.write("Notes:\n\n")
        _text(notes, out)


def _choose(alternative: Any) -> None:
    """Put in the place of alternatives the first choice, or the fallback if only that has text."""
    kept, fallback = alternative.find(_MC + "Choice"), alternative.find(_MC + "Fallback")
    if kept is None or (fallback is not None and _has_text(fallback) and not _has_text(kept)):
        kept = fallback
    for child in () if kept is None else kept:
        alternative.addprevious(child)
    alternative.getparent().remove(alternative)


def _has_text(element: Any) -> bool:
    return any(text.text for text in element.iter(_A + "t", _M + "t"))


def _write_out(equation: Any) -> None:
    """Put the characters of an equation in its place, as a run of text."""
    run = equation.makeelement(_A + "r")
    text = equation.makeelement(_A + "t")
    text.text = "".join(part.text or "" for part in equation.iter(_M + "t"))
    run.append(text)
    equation.getparent().replace(equation, run)


def _diagram(relation: Any, out: Output) -> None:
    """Write the text of SmartArt, one line for each of its points."""
    if relation.is_external:
        return
    model = etree.fromstring(relation.target_part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
    wrote = False
    for point in model.iter(_POINT):
        if text := line(" ".join(part.text or "" for part in point.iter(_A + "t"))):
            out.write(f"- {text}\n")
            wrote = True
    if wrote:
        out.write("\n")


def _table(source: Any, out: Output) -> None:
    """Write a table; a merged cell is repeated in each of its rows and columns."""
    table = Table(out)
    above: list[str] = []
    for row in source.rows:
        cells: list[str] = []
        for column, cell in enumerate(row.cells):
            if cell._tc.hMerge and cells:
                cells.append(cells[-1])
            elif cell._tc.vMerge and column < len(above):
                cells.append(above[column])
            else:
                cells.append(cell.text)
        table.add(cells)
        above = cells
    out.write("\n")


def _position(shape: Any) -> tuple[int, int]:
    return (shape.top or 0, shape.left or 0)


def _text(frame: Any, out: Output) -> None:
    wrote = False
    for paragraph in frame.paragraphs:
        if text := line(paragraph.text):
            out.write(f"{'  ' * (paragraph.level - 1)}- {text}\n" if paragraph.level else f"{plain(text)}\n")
            wrote = True
    if wrote:
        out.write("\n")


def _chart(chart: Any, out: Output) -> None:
    try:
        if chart.has_title and chart.chart_title.has_text_frame:
            out.write(f"Chart: {line(chart.chart_title.text_frame.text)}\n\n")
        categories = [str(category.label) for category in chart.plots[0].categories]
        series = [(str(one.name), list(one.values)) for one in chart.series]
    except (ValueError, IndexError, KeyError, AttributeError, NotImplementedError):
        return  # a kind of chart whose data is not in the slide
    table = Table(out)
    table.add(["Category", *(name for name, _ in series)])
    for index, category in enumerate(categories):
        table.add([category, *(_number(values[index]) if index < len(values) else "" for _, values in series)])
    out.write("\n")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:g}"
