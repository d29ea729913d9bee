"""Drawing on a slide: native text, shapes, tables and charts in the brand's colours, in points from the top left corner.

Everything gets alternative text. Shapes lie in the slide in the order in which they were drawn, which a screen reader follows.
Text is measured before it is placed: it gets smaller, down to 12 points, and is cut only if it does not fit then.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE, XL_LABEL_POSITION, XL_LEGEND_POSITION, XL_TICK_LABEL_POSITION, XL_TICK_MARK
from pptx.enum.shapes import MSO_CONNECTOR_TYPE, MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, MSO_AUTO_SIZE, PP_ALIGN
from pptx.opc.constants import RELATIONSHIP_TYPE as RT
from pptx.opc.oxml import serialize_part_xml
from pptx.oxml import parse_xml
from pptx.oxml.ns import qn
from pptx.util import Emu, Pt

from headrace.explain.deck.brand import Brand, widening
from headrace.explain.diagram import theme
from headrace.explain.diagram.pptx import describe, draw_on, plain, rgb
from headrace.explain.diagram.scene import Label, Scene, xml_text
from headrace.regular_file import read_regular

WIDTH, HEIGHT = 960.0, 540.0  # 13.33 × 7.5 inches
LEFT, RIGHT = 40.0, 920.0
TOP, BOTTOM = 116.0, 496.0  # of the body, between headline and foot
LEAST_PT = 12.0
_LINE = 1.2  # height of a line of text, of its size
_APART = 0.35  # space above a paragraph with a bullet, of its size
_INDENT = 14.0  # of a paragraph with a bullet
_STRETCH = 1.5  # a table's rows may be so much higher than their text, to fill its area
_MARGIN = 1.04  # other fonts of the same class are up to so much wider
WHITE = "#FFFFFF"
_RULE = "#CBD5E1"
_STRIPE = "#F1F5F9"


@dataclass(frozen=True)
class Area:
    """A rectangle in points."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Style:
    """How text is written: its size in points, and the rest by name."""

    size: float = 16.0
    bold: bool = False
    colour: str = ""
    align: str = "left"
    anchor: str = "top"
    bullet: bool = False


def centred(size: float = 14.0, *, bold: bool = False, colour: str = "") -> Style:
    """Text in the middle of a box."""
    return Style(size, bold=bold, colour=colour, align="centre", anchor="middle")


@dataclass(frozen=True)
class Series:
    """A series of a chart: its name, its colour and a value per category."""

    name: str
    colour: str
    values: Sequence[float]


_ALIGN = {"left": PP_ALIGN.LEFT, "centre": PP_ALIGN.CENTER, "right": PP_ALIGN.RIGHT}
_ANCHOR = {"top": MSO_ANCHOR.TOP, "middle": MSO_ANCHOR.MIDDLE, "bottom": MSO_ANCHOR.BOTTOM}
_SIDES = {"top": 0, "left": 1, "bottom": 2, "right": 3}  # connection sites of a rectangle


def presentation(brand: Brand) -> Any:
    """An empty presentation of 13.33 × 7.5 inches with one layout, a headline, in the brand's fonts and colours."""
    deck = Presentation()
    deck.slide_width, deck.slide_height = Pt(WIDTH), Pt(HEIGHT)
    for layout in list(deck.slide_layouts):
        if layout.name != "Title Only":
            deck.slide_layouts.remove(layout)
    _themed(deck, brand)
    for place in (deck.slide_master, deck.slide_layouts[0]):
        for shape in list(place.placeholders):
            if shape.placeholder_format.type == 1:  # the headline
                shape.left, shape.top, shape.width, shape.height = Pt(LEFT + 14), Pt(26), Pt(RIGHT - LEFT - 14), Pt(76)
            else:
                shape._element.getparent().remove(shape._element)
    return deck


def _themed(deck: Any, brand: Brand) -> None:
    """Put the brand into the theme, so that what a presenter adds later looks the same."""
    part = deck.slide_master.part.part_related_by(RT.THEME)
    colours = brand.colours
    palette = {
        "dk1": colours.ink, "lt1": WHITE, "dk2": colours.muted, "lt2": _STRIPE,
        "accent1": colours.accent, "accent2": colours.object, "accent3": colours.table,
        "accent4": colours.vector, "accent5": colours.file, "accent6": colours.stream,
    }  # fmt: skip
    root = parse_xml(part.blob)
    for name, colour in palette.items():
        slot = root.find(f".//{qn('a:clrScheme')}/{qn('a:' + name)}")
        for old in list(slot):
            slot.remove(old)
        slot.append(slot.makeelement(qn("a:srgbClr"), {"val": colour.removeprefix("#")}))
    for kind, font in (("majorFont", brand.fonts.heading), ("minorFont", brand.fonts.body)):
        root.find(f".//{qn('a:' + kind)}/{qn('a:latin')}").set("typeface", font)
    part._blob = serialize_part_xml(root)


@dataclass
class Canvas:
    """One slide."""

    slide: Any
    brand: Brand
    notes: list[str] = field(default_factory=list)

    def headline(self, text: str) -> None:
        """The slide's title: a sentence, on at most two lines, with the accent line beside it."""
        colour = self.brand.colours
        title = self.slide.shapes.title
        limit = (RIGHT - LEFT - 14) / widening(self.brand.fonts.heading)
        size, shown = fitting(text, 28.0, limit, 76.0, bold=True, least=20.0)
        self._write(
            title.text_frame,
            [(shown, Style(size, bold=True, colour=colour.ink, anchor="middle"))],
            self.brand.fonts.heading,
        )
        describe(title, "Headline", "")
        bar = self.box(Area(LEFT, 30, 5, 68), fill=colour.accent, alt="")
        describe(bar, "Accent", "")

    def scene(self, scene: Scene) -> None:
        """A diagram over the whole slide, whose first line becomes the slide's title."""
        head, *rest = scene.groups
        first, *below = (item for item in head.items if isinstance(item, Label))
        title = self.slide.shapes.title
        # As high as its letters, so that the line below it stays clear.
        title.left, title.top = Pt(first.bounds.x), Pt(first.y - first.size)
        title.width, title.height = Pt(first.bounds.width), Pt(first.size * 1.3)
        size = first.size / widening(self.brand.fonts.heading)
        style = Style(size, bold=True, colour=first.colour, anchor="middle")
        self._write(title.text_frame, [(first.text, style)], self.brand.fonts.heading)
        describe(title, "Headline", "")
        # Its text was measured for Calibri, and boxes hold no wider font.
        draw_on(self.slide, replace(scene, groups=(replace(head, items=tuple(below)), *rest)))

    def text(self, area: Area, *paragraphs: str | tuple[str, Style], style: Style | None = None, name: str = "Text") -> Any:
        """Paragraphs in an area; all are made smaller together until they fit."""
        base = style or Style()
        pairs = [(one, base) if isinstance(one, str) else one for one in paragraphs]
        shape = self.slide.shapes.add_textbox(*_emu(area))
        self._write(shape.text_frame, _shrunk(pairs, self._measured(area)), self.brand.fonts.body)
        describe(shape, name, "")
        return shape

    def box(
        self,
        area: Area,
        *paragraphs: str | tuple[str, Style],
        fill: str = "",
        stroke: str = "",
        dashed: bool = False,
        rounded: bool = False,
        style: Style | None = None,
        alt: str | None = None,
        name: str = "Box",
    ) -> Any:
        """A rectangle, with text in it; without `alt` its text describes it."""
        kind = MSO_SHAPE.ROUNDED_RECTANGLE if rounded else MSO_SHAPE.RECTANGLE
        shape = self.slide.shapes.add_shape(kind, *_emu(area))
        plain(shape)
        if rounded:
            shape.adjustments[0] = min(0.5, 7.0 / min(area.width, area.height))
        if fill:
            shape.fill.solid()
            shape.fill.fore_color.rgb = rgb(fill)
        else:
            shape.fill.background()
        if stroke:
            shape.line.color.rgb = rgb(stroke)
            shape.line.width = Pt(1.5)
            if dashed:
                shape.line.dash_style = 4
        else:
            shape.line.fill.background()
        base = style or Style(14.0, colour=self._on(fill), align="centre", anchor="middle")
        pairs = [(one, base) if isinstance(one, str) else one for one in paragraphs]
        if pairs:
            margin = 6.0 if area.height > 28 else 2.0
            inner = Area(area.x, area.y, area.width - 2 * margin, area.height - 4)
            self._write(shape.text_frame, _shrunk(pairs, self._measured(inner)), self.brand.fonts.body, margin=margin)
        describe(shape, name, alt if alt is not None else " ".join(text for text, _ in pairs))
        return shape

    def arrow(
        self,
        start: Any,
        start_side: str,
        end: Any,
        end_side: str,
        *,
        colour: str,
        width: float = 1.75,
        dashed: bool = False,
        alt: str = "",
    ) -> Any:
        """A connector glued to two boxes, with an arrowhead at its end."""
        shape = self.slide.shapes.add_connector(MSO_CONNECTOR_TYPE.STRAIGHT, 0, 0, 0, 0)
        shape.begin_connect(start, _SIDES[start_side])
        shape.end_connect(end, _SIDES[end_side])
        plain(shape)
        shape.line.color.rgb = rgb(colour)
        shape.line.width = Pt(width)
        if dashed:
            shape.line.dash_style = 4
        line = shape.line._get_or_add_ln()
        line.append(line.makeelement(qn("a:tailEnd"), {"type": "triangle", "w": "med", "len": "med"}))
        describe(shape, "Arrow", alt)
        return shape

    def table(
        self,
        area: Area,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        widths: Sequence[float],
        *,
        alt: str,
        size: float = 16.0,
        right: Sequence[int] = (),
    ) -> Any:
        """A native table, its rows as high as their text; its letters get smaller until it fits in the area."""
        total = sum(widths)
        columns = [area.width * share / total for share in widths]
        # What is measured is as wide as Calibri: columns are narrower for it by as much as the font is wider.
        limits = [(width - 12) / widening(self.brand.fonts.body) + 12 for width in columns]
        while True:
            heights = [self._height(row, limits, size, bold=number == 0) for number, row in enumerate((head, *rows))]
            if size <= LEAST_PT or (sum(heights) <= area.height and _whole((head, *rows), limits, size, right)):
                break
            size -= 0.5
        stretch = min(_STRETCH, max(1.0, area.height / sum(heights)))
        heights = [height * stretch for height in heights]
        frame = self.slide.shapes.add_table(len(rows) + 1, len(head), *_emu(Area(area.x, area.y, area.width, sum(heights))))
        table = frame.table
        properties = table._tbl.tblPr
        for style in properties.findall(qn("a:tableStyleId")):
            style.text = "{2D5ABB26-0587-4C30-8999-92F81FD0307C}"  # no style, no grid: colours are set below
        properties.set("bandRow", "0")
        for at, width in enumerate(columns):
            table.columns[at].width = Pt(width)
        for number, row in enumerate((head, *rows)):
            table.rows[number].height = Pt(heights[number])
            for at, text in enumerate(row):
                self._cell(table.cell(number, at), text, number, size, align="right" if at in right else "left")
        describe(frame, "Table", alt)
        return frame

    def chart(
        self,
        area: Area,
        kind: str,
        categories: Sequence[str],
        series: Sequence[Series],
        *,
        alt: str,
        unit: str,
        labels: str = "",
        legend: bool = True,
    ) -> Any:
        """A native chart: `bar` (grouped) or `stacked`, both lying, the first category on top.

        `unit` is the title of the axis; `labels` the number format of the values beside the bars, none if empty.
        """
        data = CategoryChartData(number_format="General")
        data.categories = categories
        for one in series:
            data.add_series(one.name, one.values)
        chosen = XL_CHART_TYPE.BAR_STACKED if kind == "stacked" else XL_CHART_TYPE.BAR_CLUSTERED
        frame = self.slide.shapes.add_chart(chosen, *_emu(area), data)
        chart = frame.chart
        chart.font.size, chart.font.name = Pt(13), self.brand.fonts.body
        chart.font.color.rgb = rgb(self.brand.colours.ink)
        chart.has_title = False
        chart.has_legend = legend and len(series) > 1
        if chart.has_legend:
            chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
            chart.legend.font.size = Pt(13)
        plot = chart.plots[0]
        plot.gap_width = 45
        plot.overlap = 100 if kind == "stacked" else -10
        axis, values = chart.category_axis, chart.value_axis
        axis.reverse_order = True
        axis.tick_labels.font.size = Pt(13)
        axis.major_tick_mark = values.major_tick_mark = XL_TICK_MARK.NONE
        axis.format.line.color.rgb = rgb(_RULE)
        values.has_major_gridlines = not labels
        if not labels:
            values.major_gridlines.format.line.color.rgb = rgb(_RULE)
        values.minimum_scale = 0
        values.format.line.fill.background()
        values.tick_label_position = XL_TICK_LABEL_POSITION.NONE if labels else XL_TICK_LABEL_POSITION.HIGH
        values.tick_labels.font.size = Pt(12)
        if unit and not labels:
            values.has_title = True
            run = values.axis_title.text_frame.paragraphs[0].add_run()
            run.text = unit
            run.font.size, run.font.bold = Pt(12), False
        for one, drawn in zip(series, plot.series, strict=True):
            drawn.format.fill.solid()
            drawn.format.fill.fore_color.rgb = rgb(one.colour)
            drawn.invert_if_negative = False
        if labels:
            plot.has_data_labels = True
            shown = plot.data_labels
            shown.number_format, shown.number_format_is_linked = labels, False
            shown.font.size = Pt(13)
            shown.show_value = True
            if kind != "stacked":
                shown.position = XL_LABEL_POSITION.OUTSIDE_END
        describe(frame, "Chart", alt)
        return frame

    def foot(self, text: str) -> None:
        """The line at the foot, and the brand's logo."""
        area = Area(LEFT, 508, RIGHT - LEFT, 18)
        if self.brand.logo is not None:
            picture = self.slide.shapes.add_picture(io.BytesIO(read_regular(self.brand.logo)), Pt(LEFT), Pt(502), height=Pt(26))
            describe(picture, "Logo", f"Logo of {self.brand.name}" if self.brand.name else "Logo")
            over = picture.width.pt / 130.0
            if over > 1:
                picture.width, picture.height = Emu(round(picture.width / over)), Emu(round(picture.height / over))
            area = Area(LEFT + picture.width.pt + 12, area.y, area.width - picture.width.pt - 12, area.height)
        said = f"{self.brand.name} · {text}" if self.brand.name else text
        shown = theme.fitted(said, LEAST_PT * _MARGIN, theme.REGULAR, self._measured(area).width)
        self.text(area, shown, style=Style(LEAST_PT, colour=self.brand.colours.muted), name="Foot")

    def _measured(self, area: Area) -> Area:
        """The area that text measured in Calibri's widths may take, so that the brand's font fits in `area`."""
        return replace(area, width=area.width / widening(self.brand.fonts.body))

    def _on(self, fill: str) -> str:
        if not fill:
            return self.brand.colours.ink
        return max((WHITE, self.brand.colours.ink), key=lambda colour: theme.contrast(colour, fill))

    def _height(self, row: Sequence[str], columns: Sequence[float], size: float, *, bold: bool) -> float:
        lines = max(len(_wrapped(text, size, width - 12, bold=bold)) for text, width in zip(row, columns, strict=True))
        return lines * size * _LINE + 9

    def _cell(self, cell: Any, text: str, number: int, size: float, *, align: str) -> None:
        cell.margin_left = cell.margin_right = Pt(6)
        cell.margin_top = cell.margin_bottom = Pt(3)
        cell.vertical_anchor = MSO_ANCHOR.MIDDLE
        cell.fill.solid()
        head = number == 0
        cell.fill.fore_color.rgb = rgb(self.brand.colours.accent if head else _STRIPE if number % 2 == 0 else WHITE)
        style = Style(size, bold=head, colour=WHITE if head else self.brand.colours.ink, align=align, anchor="middle")
        self._write(cell.text_frame, [(text, style)], self.brand.fonts.body, keep_frame=True)

    def _write(
        self, frame: Any, pairs: Sequence[tuple[str, Style]], font: str, *, margin: float = 0, keep_frame: bool = False
    ) -> None:
        frame.word_wrap = True
        if not keep_frame:
            frame.auto_size = MSO_AUTO_SIZE.NONE
            frame.vertical_anchor = _ANCHOR[pairs[0][1].anchor] if pairs else MSO_ANCHOR.TOP
            frame.margin_left = frame.margin_right = Pt(margin)
            frame.margin_top = frame.margin_bottom = Pt(0)
        for number, (text, style) in enumerate(pairs):
            paragraph = frame.paragraphs[0] if not number else frame.add_paragraph()
            paragraph.alignment = _ALIGN[style.align]
            if style.bullet:
                _bulleted(paragraph, style.size)
            run = paragraph.add_run()
            run.text = xml_text(text)
            run.font.size, run.font.bold, run.font.name = Pt(style.size), style.bold, font
            run.font.color.rgb = rgb(style.colour or self.brand.colours.ink)


def fitting(
    text: str, size: float, width: float, height: float, *, bold: bool = False, least: float = LEAST_PT
) -> tuple[float, str]:
    """The largest size down to `least` at which the text fits, and the text, cut where it does not fit then."""
    while True:
        lines = _wrapped(text, size, width, bold=bold)
        most = max(1, int(height / (size * _LINE)))
        if len(lines) <= most:
            return size, text
        if size <= least:
            last = theme.fitted(" ".join(lines[most - 1 :]), size * _MARGIN, _weight(bold), width)
            return size, " ".join((*lines[: most - 1], last))
        size -= 0.5


def _whole(rows: Sequence[Sequence[str]], columns: Sequence[float], size: float, numbers: Sequence[int]) -> bool:
    """Whether each word fits in its column, and each number with its unit on one line."""
    for number, row in enumerate(rows):
        for at, (text, width) in enumerate(zip(row, columns, strict=True)):
            words = [text] if at in numbers and number else text.split()
            if any(theme.width(word, size * _MARGIN, _weight(number == 0)) > width - 12 for word in words):
                return False
    return True


def _shrunk(pairs: Sequence[tuple[str, Style]], area: Area) -> list[tuple[str, Style]]:
    """The paragraphs, all smaller by the same amount until they fit in the area, none below 12 points."""
    less = 0.0
    while True:
        sizes = [max(LEAST_PT, style.size - less) for _, style in pairs]
        height = sum(
            len(_wrapped(text, size, area.width - (_INDENT if style.bullet else 0), bold=style.bold)) * size * _LINE
            + (size * _APART if style.bullet else 0)
            for (text, style), size in zip(pairs, sizes, strict=True)
        )
        if height <= area.height + 0.5 or all(size <= LEAST_PT for size in sizes):
            return [(text, replace(style, size=size)) for (text, style), size in zip(pairs, sizes, strict=True)]
        less += 0.5


def _bulleted(paragraph: Any, size: float) -> None:
    """A real bullet with a hanging indent, and space above."""
    properties = paragraph._p.get_or_add_pPr()
    properties.set("marL", str(Pt(_INDENT)))
    properties.set("indent", str(-Pt(_INDENT)))
    paragraph.space_before = Pt(size * _APART)
    properties.append(properties.makeelement(qn("a:buChar"), {"char": "•"}))


def _wrapped(text: str, size: float, width: float, *, bold: bool) -> list[str]:
    return theme.wrapped(text, size * _MARGIN, _weight(bold), width) or [""]


def _weight(bold: bool) -> int:
    return theme.BOLD if bold else theme.REGULAR


def tint(colour: str) -> str:
    """The colour mixed with white, pale enough for dark text on it."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * 0.07):02X}" for part in parts)


def _emu(area: Area) -> tuple[Emu, Emu, Emu, Emu]:
    return Pt(area.x), Pt(area.y), Pt(area.width), Pt(area.height)
