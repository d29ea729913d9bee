"""The picture of a prediction: units a second over the number of workers, both by their logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from headrace.explain.diagram.format import human_count
from headrace.explain.diagram.scene import Box, Drawing, Line, Rect, Scene
from headrace.explain.diagram.theme import BOLD, LIGHT, REGULAR, SEMIBOLD, Palette
from headrace.explain.scaling.prediction import Prediction, Throughput

_WIDTH, _HEIGHT, _MARGIN = 1280.0, 720.0, 60.0
_PLOT = Box(_MARGIN + 70, 150, _WIDTH - 2 * _MARGIN - 270, 470)
_TEXT, _SMALL = 18.0, 16.0
_APART = 22.0  # points between two names beside the curves
_TOLD = ("questions", "documents")  # units of which a headline speaks first


def scaling_scene(prediction: Prediction, *, palette: Palette = LIGHT) -> Scene:
    """A curve for each unit; dashed, what it would be if every worker were as good as the first."""
    drawing = Drawing(palette)
    title = headline(prediction)
    runs = ", ".join(dict.fromkeys(demand.run for demand in prediction.demands))
    below = f"Predicted from {runs}; dashed: every worker as good as the first"
    drawing.text(_MARGIN, 70, title, 30, BOLD, palette.ink, _WIDTH - 2 * _MARGIN)
    drawing.text(_MARGIN, 106, below, _TEXT, REGULAR, palette.muted, _WIDTH - 2 * _MARGIN)
    drawing.close("headline", title)
    curves = {demand.unit: [point for point in prediction.points if point.unit == demand.unit] for demand in prediction.demands}
    scale = _Scale([point for points in curves.values() for point in points])
    _axes(drawing, scale, next(iter(curves.values())))
    colours = (palette.write, palette.read, palette.feedback, palette.idle)
    names: list[float] = []
    for (unit, points), colour in zip(curves.items(), colours, strict=False):
        _curve(drawing, scale, unit, points, colour, names)
    words = "; ".join(f"{point.workers:,} workers: {rate(point.per_s)} {point.unit} a second" for point in prediction.points)
    return Scene(_WIDTH, _HEIGHT, title, f"{below}. {words}.", tuple(drawing.groups), palette)


def headline(prediction: Prediction) -> str:
    """What limits first, in a sentence."""
    first, most = prediction.first, prediction.parameters.workers
    if first is not None and first.workers is not None:
        store = f"{first.store} ({first.tier}, {first.direction})"
        if first.workers <= most:
            return f"At {first.workers:,} workers {store} is the first store to limit {first.unit}"
        return f"No store limits up to {most:,} workers; the first is {store}, for {first.unit} at {first.workers:,}"
    ends = [point for point in prediction.points if point.workers == prediction.points[-1].workers]
    last = min(ends, key=lambda point: _TOLD.index(point.unit) if point.unit in _TOLD else len(_TOLD))
    if prediction.limits:
        return f"No store limits any number of workers: {_limit(prediction)}"
    return f"{last.workers:,} workers: {rate(last.per_s)} {last.unit} a second; what storage supplies is not known"


def _limit(prediction: Prediction) -> str:
    last = {point.unit: point for point in prediction.points}
    return ", ".join(f"{unit} end at {rate(point.per_s)} a second by the {point.limited_by}" for unit, point in last.items())


def rate(per_s: float) -> str:
    """A number a second for people, of three digits, since more are not known: 0.42, 7.1, 1,230."""
    return f"{float(f'{per_s:.3g}'):,.0f}" if per_s >= 100 else f"{per_s:.3g}"


class _Scale:
    """Workers and units a second to x and y."""

    def __init__(self, points: Sequence[Throughput]) -> None:
        self.workers = math.log10(max(2, *(point.workers for point in points)))
        rates = [point.per_s for point in points]
        self.low = math.floor(math.log10(min(rates)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(rates))))

    def x(self, workers: float) -> float:
        return _PLOT.x + _PLOT.width * math.log10(workers) / self.workers

    def y(self, per_s: float) -> float:
        share = (math.log10(per_s) - self.low) / (self.high - self.low)
        return _PLOT.bottom - _PLOT.height * min(1.0, share)


def _axes(drawing: Drawing, scale: _Scale, points: Sequence[Throughput]) -> None:
    p = drawing.palette
    for power in range(scale.low, scale.high + 1):
        y = scale.y(10.0**power)
        drawing.add(Line(_PLOT.x, y, _PLOT.right, y, p.rule if power > scale.low else p.muted, 1.0))
        name = human_count(10**power) if power >= 0 else f"{10.0**power:g}"
        drawing.text(_PLOT.x - 12, y + 6, name, _SMALL, REGULAR, p.muted, 90, "end")
    for point in points:
        if math.log10(point.workers).is_integer() or point is points[-1]:
            drawing.text(
                scale.x(point.workers), _PLOT.bottom + 26, human_count(point.workers), _SMALL, REGULAR, p.muted, 110, "middle"
            )
    drawing.text(_PLOT.x, _PLOT.y - 14, "a second", _SMALL, SEMIBOLD, p.ink, 300)
    drawing.text(_PLOT.right, _PLOT.bottom + 52, "workers", _SMALL, SEMIBOLD, p.ink, 300, "end")
    drawing.close("axes", "Units a second, over workers")


def _curve(drawing: Drawing, scale: _Scale, unit: str, points: Sequence[Throughput], colour: str, names: list[float]) -> None:
    """One unit's curve, its ideal, and its name beside the end, clear of other `names`."""
    first, last = points[0], points[-1]
    reach = min(last.workers, 10**scale.high / first.per_s)
    x, y = scale.x(reach), scale.y(first.per_s * reach)
    drawing.add(Line(scale.x(1), scale.y(first.per_s), x, y, colour, 1.2, dash=(5, 5)))
    for one, two in pairwise(points):
        drawing.add(Line(scale.x(one.workers), scale.y(one.per_s), scale.x(two.workers), scale.y(two.per_s), colour, 3.0))
    for point in points:
        drawing.add(Rect(Box(scale.x(point.workers) - 4, scale.y(point.per_s) - 4, 8, 8), colour, radius=4))
    y = scale.y(last.per_s) + 6
    while any(abs(y - other) < 2 * _APART for other in names):
        y += _APART
    names.append(y)
    drawing.text(_PLOT.right + 14, y, f"{rate(last.per_s)} {unit}", _SMALL, SEMIBOLD, colour, 190)
    drawing.text(_PLOT.right + 14, y + 20, f"limit: {last.limited_by}", 14.0, REGULAR, drawing.palette.muted, 190)
    drawing.close("curve", f"{unit}: {rate(last.per_s)} a second on {last.workers:,} workers, limited by {last.limited_by}")
