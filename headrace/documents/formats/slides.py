"""PPTX to Markdown, slide by slide."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from pptx.package import Package

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, line, plain
from headrace.documents.formats.table import Table


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
    title = slide.shapes.title
    if title is not None and (text := line(title.text_frame.text)):
        out.write(f"# {text}\n\n")
    waiting = sorted(slide.shapes, key=_position, reverse=True)
    while waiting:
        shape = waiting.pop()
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if hasattr(shape, "shapes"):
            waiting += sorted(shape.shapes, key=_position, reverse=True)
        elif getattr(shape, "has_table", False):
            table = Table(out)
            for row in shape.table.rows:
                table.add(cell.text for cell in row.cells)
            out.write("\n")
        elif getattr(shape, "has_chart", False):
            _chart(shape.chart, out)
        elif shape.has_text_frame:
            _text(shape.text_frame, out)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None and notes.text.strip():
        out.write("Notes:\n\n")
        _text(notes, out)


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
