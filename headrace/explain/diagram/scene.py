"""A scene: rectangles, straight lines and text, for any backend to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.explain.diagram import theme
from headrace.explain.diagram.theme import REGULAR

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Box:
    """A rectangle, given by its top left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def meets(self, other: Box) -> bool:
        """Whether the two overlap by more than an edge."""
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom


@dataclass(frozen=True)
class Rect:
    """A drawn rectangle; an empty `fill` or `stroke` means none."""

    box: Box
    fill: str = ""
    stroke: str = ""
    stroke_width: float = 1.0
    radius: float = 0.0
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A straight line; `head` adds an arrowhead of that half-width and length, ending at (x2, y2)."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float
    head: tuple[float, float] | None = None
    dash: tuple[float, ...] = ()


@dataclass(frozen=True)
class Label:
    """A line of text whose baseline starts, is centred or ends at (x, y). `bounds` is the box it must stay in."""

    x: float
    y: float
    text: str
    size: float
    bounds: Box
    weight: int = REGULAR
    colour: str = theme.INK
    anchor: Anchor = "start"

    @property
    def box(self) -> Box:
        """The letters' extent by the font's real widths, from the top of the capitals to the baseline."""
        wide = theme.width(self.text, self.size, self.weight)
        left = self.x - {"start": 0.0, "middle": wide / 2, "end": wide}[self.anchor]
        return Box(left, self.y - theme.CAP_HEIGHT * self.size, wide, theme.CAP_HEIGHT * self.size)


Item = Rect | Line | Label


@dataclass(frozen=True)
class Group:
    """Items that form one visual element; `alt` describes it in words. Groups are painted in order."""

    kind: str
    alt: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Scene:
    """A picture in CSS pixels or points, with a title and a textual description."""

    width: float
    height: float
    title: str
    description: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()  # further notes: below the picture on a page, speaker's notes on a slide
