"""A scene as a slide: native, editable shapes of 13.33 × 7.5 inches, with alternative text and in reading order.

Text uses Calibri, which every office program has or replaces with a font of the same widths; it is as narrow as the font that the
layout measures with.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.dml import MSO_LINE_DASH_STYLE
from pptx.enum.shapes import MSO_CONNECTOR_TYPE, MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, MSO_AUTO_SIZE, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Emu, Pt

from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Box, Group, Label, Line, Rect, Scene, xml_text

WIDTH, HEIGHT = 960.0, 540.0  # points
FONT = "Calibri"
_EMU = 12_700  # in a point
_TITLE = 255  # characters of a document's title
_ALIGN = {"start": PP_ALIGN.LEFT, "middle": PP_ALIGN.CENTER, "end": PP_ALIGN.RIGHT}


def pptx(scene: Scene) -> bytes:
    """A presentation of one slide with the scene, made smaller if it is larger than a slide."""
    deck = Presentation()
    deck.slide_width, deck.slide_height = Emu(round(WIDTH * _EMU)), Emu(round(HEIGHT * _EMU))
    add_slide(deck, scene)
    deck.core_properties.title = xml_text(scene.title)[:_TITLE]
    file = io.BytesIO()
    deck.save(file)
    return file.getvalue()


def add_slide(deck: Any, scene: Scene) -> Any:
    """Add the scene to a presentation as a slide; its description and notes become the speaker's."""
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    ground = slide.background.fill
    ground.solid()
    ground.fore_color.rgb = rgb(scene.palette.card)
    draw_on(slide, scene)
    slide.notes_slide.notes_text_frame.text = xml_text("\n".join((scene.title, scene.description, *scene.notes)))
    return slide


def draw_on(slide: Any, scene: Scene) -> None:
    """Draw the scene's groups on a slide, in their order."""
    draw = _Slide(slide, min(WIDTH / scene.width, HEIGHT / scene.height))
    for group in scene.groups:
        draw.group(group)


class _Slide:
    def __init__(self, slide: Any, zoom: float) -> None:
        self._shapes = slide.shapes
        self._zoom = zoom

    def group(self, group: Group) -> None:
        """Draw a group. Text that lies in one of its rectangles becomes that shape's own."""
        items = list(group.items)
        described = False
        while items:
            item = items.pop(0)
            if isinstance(item, Rect):
                own = [other for other in items if isinstance(other, Label) and other.bounds == item.box and _alone(other, item)]
                items = [other for other in items if other not in own]
                shape = self._rect(item, own)
            elif isinstance(item, Line):
                shape = self._line(item)
            else:
                shape = self._text(item)
            describe(shape, group.kind, "" if described else group.alt)
            described = True

    def _rect(self, item: Rect, labels: Sequence[Label]) -> Any:
        box = item.box
        kind = MSO_SHAPE.ROUNDED_RECTANGLE if item.radius else MSO_SHAPE.RECTANGLE
        shape = self._shapes.add_shape(kind, *self._box(box))
        if item.radius:
            shape.adjustments[0] = min(0.5, item.radius / min(box.width, box.height))
        plain(shape)
        if item.fill:
            shape.fill.solid()
            shape.fill.fore_color.rgb = rgb(item.fill)
        else:
            shape.fill.background()
        if item.stroke:
            self._stroke(shape.line, item.stroke, item.stroke_width, item.dash)
        else:
            shape.line.fill.background()
        self._write(shape.text_frame, labels, MSO_ANCHOR.MIDDLE)
        return shape

    def _line(self, item: Line) -> Any:
        ends = (self._emu(value) for value in (item.x1, item.y1, item.x2, item.y2))
        shape = self._shapes.add_connector(MSO_CONNECTOR_TYPE.STRAIGHT, *ends)
        plain(shape)
        self._stroke(shape.line, item.colour, item.width, item.dash)
        if item.head:
            _arrow(shape.line._get_or_add_ln(), item)
        return shape

    def _text(self, item: Label) -> Any:
        # Wider than its letters, so that another font does not wrap it: to the edge of its bounds.
        box, bounds = item.box, item.bounds
        left, right = min(box.x, bounds.x), max(box.right, bounds.right)
        if item.anchor == "start":
            left = box.x
        elif item.anchor == "middle":
            half = min(item.x - left, right - item.x)
            left, right = item.x - half, item.x + half
        top = item.y - item.size * 0.95
        shape = self._shapes.add_textbox(*self._box(Box(left, top, right - left, item.size * 1.25)))
        self._write(shape.text_frame, [item], MSO_ANCHOR.TOP)
        return shape

    def _write(self, frame: Any, labels: Sequence[Label], anchor: Any) -> None:
        frame.word_wrap = False
        frame.auto_size = MSO_AUTO_SIZE.NONE
        frame.vertical_anchor = anchor
        frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = 0
        for number, label in enumerate(labels):
            paragraph = frame.paragraphs[0] if not number else frame.add_paragraph()
            paragraph.alignment = _ALIGN[label.anchor]
            paragraph.line_spacing = 0.92
            run = paragraph.add_run()
            run.text = xml_text(label.text)
            run.font.name = FONT
            run.font.size = Pt(round(label.size * self._zoom, 1))
            run.font.bold = label.weight != theme.REGULAR
            run.font.color.rgb = rgb(label.colour)

    def _stroke(self, line: Any, colour: str, width: float, dash: tuple[float, ...]) -> None:
        line.color.rgb = rgb(colour)
        line.width = Emu(self._emu(width))
        if dash:
            line.dash_style = MSO_LINE_DASH_STYLE.DASH if dash[0] > 3 else MSO_LINE_DASH_STYLE.ROUND_DOT

    def _box(self, box: Box) -> Iterable[Emu]:
        return [Emu(self._emu(value)) for value in (box.x, box.y, box.width, box.height)]

    def _emu(self, value: float) -> int:
        return round(value * self._zoom * _EMU)


def _alone(label: Label, rect: Rect) -> bool:
    return abs(label.x - (rect.box.x + rect.box.width / 2)) < 0.5


def _arrow(line: Any, item: Line) -> None:
    """Add the arrowhead, in the nearest of PowerPoint's sizes: two, three or five times the line's width."""
    half, length = item.head or (0.0, 0.0)

    def size(wanted: float) -> str:
        return min((("sm", 2), ("med", 3), ("lg", 5)), key=lambda pair: abs(pair[1] - wanted / max(item.width, 2)))[0]

    tail = line.makeelement(qn("a:tailEnd"), {"type": "triangle", "w": size(2 * half), "len": size(length)})
    line.append(tail)


def plain(shape: Any) -> None:
    """Remove the theme's style, which brings a shadow and colours of its own."""
    style = shape._element.find(qn("p:style"))
    if style is not None:
        shape._element.remove(style)


def describe(shape: Any, name: str, alt: str) -> None:
    """Name a shape, with its number after the name, and give it alternative text unless that is empty."""
    properties = shape._element.xpath(".//p:cNvPr")[0]
    properties.set("name", f"{name} {properties.get('id')}")
    if alt:
        properties.set("descr", xml_text(alt))


def rgb(colour: str) -> RGBColor:
    """A colour as "#0072B2"."""
    return RGBColor.from_string(colour.removeprefix("#"))
