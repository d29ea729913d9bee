"""A scene as a page of PDF: vector shapes, and text in an embedded font."""

from __future__ import annotations

import io

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Item, Label, Line, Rect, Scene

_FONTS = {weight: f"{theme.FAMILY} {weight}" for weight in (theme.REGULAR, theme.SEMIBOLD, theme.BOLD)}


def pdf(scene: Scene) -> bytes:
    """The scene as a PDF document of one page, one point per unit of the scene; the same scene gives the same bytes."""
    for weight, name in _FONTS.items():
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(theme.file(weight))))
    file = io.BytesIO()
    # Its y axis points up, a scene's down: every y is counted from the page's height.
    page = _Page(Canvas(file, pagesize=(scene.width, scene.height), invariant=True, lang="en"), scene.height)
    page.canvas.setTitle(scene.title)
    page.canvas.setSubject(scene.description)
    page.canvas.setCreator("Headrace")
    page.canvas.setFillColor(scene.palette.card)
    page.canvas.rect(0, 0, scene.width, scene.height, stroke=0, fill=1)
    for group in scene.groups:
        for item in group.items:
            page.draw(item)
    page.canvas.showPage()
    page.canvas.save()
    return file.getvalue()


class _Page:
    def __init__(self, canvas: Canvas, height: float) -> None:
        self.canvas = canvas
        self._height = height

    def draw(self, item: Item) -> None:
        """Draw one shape or line of text."""
        if isinstance(item, Rect):
            self._rect(item)
        elif isinstance(item, Line):
            self._line(item)
        else:
            self._text(item)

    def _rect(self, item: Rect) -> None:
        box = item.box
        if item.fill:
            self.canvas.setFillColor(item.fill)
        if item.stroke:
            self.canvas.setStrokeColor(item.stroke)
            self.canvas.setLineWidth(item.stroke_width)
            self.canvas.setDash(*self._dash(item.dash))
        radius = min(item.radius, box.width / 2, box.height / 2)
        corner = box.x, self._height - box.bottom
        self.canvas.roundRect(*corner, box.width, box.height, radius, stroke=bool(item.stroke), fill=bool(item.fill))

    def _line(self, item: Line) -> None:
        self.canvas.setStrokeColor(item.colour)
        self.canvas.setLineWidth(item.width)
        self.canvas.setDash(*self._dash(item.dash))
        x, y = item.shaft
        self.canvas.line(item.x1, self._height - item.y1, x, self._height - y)
        if item.arrowhead:
            path = self.canvas.beginPath()
            (x, y), *others = item.arrowhead
            path.moveTo(x, self._height - y)
            for x, y in others:
                path.lineTo(x, self._height - y)
            path.close()
            self.canvas.setFillColor(item.colour)
            self.canvas.drawPath(path, stroke=0, fill=1)

    def _text(self, item: Label) -> None:
        self.canvas.setFont(_FONTS[item.weight], item.size)
        self.canvas.setFillColor(item.colour)
        self.canvas.drawString(item.box.x, self._height - item.y, item.text)

    @staticmethod
    def _dash(dash: tuple[float, ...]) -> tuple[list[float], float]:
        return list(dash), 0
