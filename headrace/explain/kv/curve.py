"""The picture of a replay: the share of prompts' tokens found in the cache, over the cache's capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from headrace.explain.diagram import theme
from headrace.explain.diagram.format import human_bytes, human_count, human_s, percent
from headrace.explain.diagram.scene import Anchor, Box, Drawing, Line, Rect, Scene
from headrace.explain.diagram.theme import BOLD, LIGHT, REGULAR, SEMIBOLD, Palette
from headrace.explain.kv.replay import Replayed
from headrace.explain.kv.trace import Trace

_WIDTH, _HEIGHT, _MARGIN = 1280.0, 720.0, 60.0
_PLOT = Box(_MARGIN + 70, 150, _WIDTH - 2 * _MARGIN - 70, 380)
_TEXT, _SMALL = 18.0, 16.0  # 13.5 and 12 pt on a slide 13.33 inches wide
_FILLED = 0.96
"""The share of the plot's height that the highest point reaches at most: above it stand its words."""
_MOST = 0.9
"""The share of all possible hits from which on a capacity counts as enough."""


def enough(curve: Sequence[Replayed], unbounded: Replayed) -> Replayed | None:
    """The smallest capacity with at least nine tenths of the hits of a cache without a bound."""
    fit = (point for point in curve if point.token_hit_rate >= _MOST * unbounded.token_hit_rate > 0)
    return next(fit, None)


def curve_scene(trace: Trace, model: str, curve: Sequence[Replayed], unbounded: Replayed, *, palette: Palette = LIGHT) -> Scene:
    """The curve through the capacities of `curve`, smallest first, under the line of a cache without a bound."""
    drawing = Drawing(palette)
    points = [point for point in curve if point.capacity_bytes]
    title = _headline(points, unbounded)
    below = (
        f"{trace.name}: {human_count(len(trace.requests))} requests in {human_s(trace.seconds)}, {model}; "
        f"every block written once, hits read where that is faster than prefilling"
    )
    drawing.text(_MARGIN, 70, title, 34, BOLD, palette.ink, _WIDTH - 2 * _MARGIN)
    drawing.text(_MARGIN, 106, below, _TEXT, REGULAR, palette.muted, _WIDTH - 2 * _MARGIN)
    drawing.close("headline", title)
    top = max(0.1, math.ceil(unbounded.token_hit_rate / _FILLED * 10) / 10)
    scale = _Scale([point.capacity_bytes or 1 for point in points], top)
    _axes(drawing, scale, points)
    _lines(drawing, scale, points, unbounded)
    _figures(drawing, enough(points, unbounded) or points[-1])
    words = "; ".join(f"{human_bytes(point.capacity_bytes or 0)}: {percent(point.token_hit_rate)}" for point in points)
    most = percent(unbounded.token_hit_rate)
    description = f"{below}. Share of the prompts' tokens found, by capacity: {words}. Without a bound: {most}."
    return Scene(_WIDTH, _HEIGHT, title, description, tuple(drawing.groups), palette)


def _headline(points: Sequence[Replayed], unbounded: Replayed) -> str:
    if not unbounded.token_hit_rate:
        return "No two prompts of this trace share a prefix: a KV cache saves nothing"
    found = enough(points, unbounded)
    if found is None:
        return f"At most {percent(unbounded.token_hit_rate)} of the prompts' tokens need no prefill"
    return (
        f"{human_bytes(found.capacity_bytes or 0)} of KV cache saves the prefill of {percent(found.token_hit_rate)} of the "
        f"prompts' tokens"
    )


class _Scale:
    """Capacities and shares to x and y; capacities are spaced by their logarithm."""

    def __init__(self, sizes: Sequence[int], top: float) -> None:
        self._low, self._high = math.log2(min(sizes)), math.log2(max(sizes))
        self.top = top

    def x(self, size: int) -> float:
        span = self._high - self._low
        return _PLOT.x + 40 + (_PLOT.width - 80) * ((math.log2(size) - self._low) / span if span else 0.5)

    def y(self, share: float) -> float:
        return _PLOT.bottom - _PLOT.height * share / self.top


def _axes(drawing: Drawing, scale: _Scale, points: Sequence[Replayed]) -> None:
    p = drawing.palette
    steps = round(scale.top * 10)
    for tenth in range(steps + 1):
        y = scale.y(tenth / 10)
        drawing.add(Line(_PLOT.x, y, _PLOT.right, y, p.rule if tenth else p.muted, 1.0))
        if steps <= 5 or tenth % 2 == 0:
            drawing.text(_PLOT.x - 12, y + 6, percent(tenth / 10), _SMALL, REGULAR, p.muted, 60, "end")
    for point in points:
        size = point.capacity_bytes or 1
        drawing.text(scale.x(size), _PLOT.bottom + 26, human_bytes(size), _SMALL, REGULAR, p.muted, 110, "middle")
    drawing.text(_PLOT.x, _PLOT.y - 14, "tokens of prompts found in the cache", _SMALL, SEMIBOLD, p.ink, 500)
    drawing.text(_PLOT.right, _PLOT.bottom + 52, "capacity of the cache", _SMALL, SEMIBOLD, p.ink, 400, "end")
    drawing.close("axes", "Share of tokens found, over capacity")


def _lines(drawing: Drawing, scale: _Scale, points: Sequence[Replayed], unbounded: Replayed) -> None:
    p = drawing.palette
    at = scale.y(unbounded.token_hit_rate)
    drawing.add(Line(_PLOT.x, at, _PLOT.right, at, p.feedback, 2.0, dash=(6, 5)))
    words = f"- - without a bound: {percent(unbounded.token_hit_rate)}"
    drawing.text(_PLOT.right, _PLOT.y - 14, words, _SMALL, SEMIBOLD, p.feedback, 400, "end")
    drawing.close("bound", f"Without a bound {percent(unbounded.token_hit_rate)}")
    places = [(scale.x(point.capacity_bytes or 1), scale.y(point.token_hit_rate)) for point in points]
    chosen = enough(points, unbounded)
    labels = [
        _Value(point, x, y, SEMIBOLD if point is chosen else REGULAR, bound=at)
        for point, (x, y) in zip(points, places, strict=True)
    ]
    for label in labels:  # first, so that lines of the scale end before the words and the curve is whole
        drawing.add(Rect(label.ground, p.card))
    for (x1, y1), (x2, y2) in pairwise(places):
        drawing.add(Line(x1, y1, x2, y2, p.write, 3.0))
    for point, (x, y), label in zip(points, places, labels, strict=True):
        half = 8 if point is chosen else 5
        drawing.add(Rect(Box(x - half, y - half, 2 * half, 2 * half), p.write, radius=half))
        drawing.text(label.x, label.y, label.text, _SMALL, label.weight, p.ink, 70, label.anchor)
    drawing.close("curve", "The share of tokens found grows with the capacity")


class _Value:
    """A point's share in words: left above the point, or right below it where the line of the bound would touch the words."""

    def __init__(self, point: Replayed, x: float, y: float, weight: int, *, bound: float) -> None:
        self.text, self.weight = percent(point.token_hit_rate), weight
        self.anchor: Anchor = "end"
        self.x, self.y = x - 10, y - 12
        if self.ground.y - 4 <= bound <= self.ground.bottom:
            self.anchor, self.x, self.y = "start", x + 10, y + 26

    @property
    def ground(self) -> Box:
        """The words' box, with some space around."""
        wide, tall = theme.width(self.text, _SMALL, self.weight), theme.CAP_HEIGHT * _SMALL
        left = self.x - (wide if self.anchor == "end" else 0.0)
        return Box(left - 4, self.y - tall - 5, wide + 8, tall + 10)


def _figures(drawing: Drawing, point: Replayed) -> None:
    p = drawing.palette
    known = (
        ("at this capacity", human_bytes(point.capacity_bytes or 0)),
        ("read, mean and busiest 10 s", f"{_rate(point.read_mean)} · {_rate(point.read_peak)}"),
        ("written, mean and busiest 10 s", f"{_rate(point.write_mean)} · {_rate(point.write_peak)}"),
        ("prefill saved", human_s(point.saved_s)),
    )
    wide = (_WIDTH - 2 * _MARGIN) / len(known)
    for number, (name, value) in enumerate(known):
        x = _MARGIN + number * wide
        drawing.text(x, 634, value, 24, SEMIBOLD, p.ink, wide - 16)
        drawing.text(x, 662, name, _SMALL, REGULAR, p.muted, wide - 16)
        drawing.close("figure", f"{name}: {value}")


def _rate(bytes_per_s: float) -> str:
    return f"{human_bytes(round(bytes_per_s))}/s"
