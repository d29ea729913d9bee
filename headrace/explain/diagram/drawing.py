"""A plain drawing of text and shapes, for charts that are not pipelines."""

from __future__ import annotations

from headrace.explain.diagram import theme
from headrace.explain.diagram.scene import Anchor, Box, Group, Item, Label
from headrace.explain.diagram.theme import Palette


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
