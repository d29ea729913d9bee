"""A scene: rectangles, straight lines and text, for any backend to draw."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from headrace.explain.diagram import theme
from headrace.explain.diagram.theme import Palette

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
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

    @property
    def shaft(self) -> tuple[float, float]:
        """Where the line itself ends: within its arrowhead, if it has one."""
        if not self.head:
            return self.x2, self.y2
        ux, uy = self._along
        inside = self.head[1] - min(1.0, self.head[1] / 2)
        return self.x2 - ux * inside, self.y2 - uy * inside

    @property
    def arrowhead(self) -> tuple[tuple[float, float], ...]:
        """The corners of its arrowhead; none if it has none."""
        if not self.head:
            return ()
        half, length = self.head
        ux, uy = self._along
        x, y = self.x2 - ux * length, self.y2 - uy * length
        return (self.x2, self.y2), (x - uy * half, y + ux * half), (x + uy * half, y - ux * half)

    @property
    def _along(self) -> tuple[float, float]:
        span = ((self.x2 - self.x1) ** 2 + (self.y2 - self.y1) ** 2) ** 0.5 or 1.0
        return (self.x2 - self.x1) / span, (self.y2 - self.y1) / span


@dataclass(frozen=True)
class Label:
    """A line of text whose baseline starts, is centred or ends at (x, y). `bounds` is the box it must stay in."""

    x: float
    y: float
    text: str
    size: float
    bounds: Box
    weight: int
    colour: str
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
    """Items that form one visual element; `alt` describes it in words. Groups are painted in order.

    `name` says which stage (its name), bar (tier/store) or flow (stage|direction|tier/store) a group is.
    """

    kind: str
    alt: str
    items: tuple[Item, ...]
    name: str = ""


@dataclass(frozen=True)
class Scene:
    """A picture in CSS pixels or points, with a title and a textual description; `palette` colours its ground."""

    width: float
    height: float
    title: str
    description: str
    groups: tuple[Group, ...]
    palette: Palette
    notes: tuple[str, ...] = ()  # further notes: below the picture on a page, speaker's notes on a slide


def xml_text(text: str) -> str:
    """Text for XML: characters that it does not allow become `\ufffd`."""
    return _NOT_XML.sub("\ufffd", text)


class Drawing:
    """A scene in the making: items are added, and closed into a group of a kind with a text for those who cannot see it."""

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        self.groups: list[Group] = []
        self._items: list[Item] = []

    def text(
        self, x: float, y: float, text: str, size: float, weight: int, colour: str, limit: float, anchor: Anchor = "start"
    ) -> None:
        """A line of text at x and its base line y, cut to `limit` points."""
        words = theme.fitted(text, size, weight, limit)
        left = x - {"start": 0.0, "middle": limit / 2, "end": limit}[anchor]
        bounds = Box(left, y - size, limit, size * 1.35)
        self._items.append(Label(x, y, words, size, bounds, weight, colour, anchor))

    def add(self, *items: Item) -> None:
        """Shapes, in the order in which they are drawn."""
        self._items += items

    def close(self, kind: str, alt: str) -> None:
        """Make a group of what was added since the last one."""
        self.groups.append(Group(kind, alt, tuple(self._items)))
        self._items = []
