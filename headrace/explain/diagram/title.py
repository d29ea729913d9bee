"""The headline of a picture and the line below it."""

from __future__ import annotations

from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.geometry import Scale
from headrace.explain.diagram.scene import Box, Group, Label
from headrace.explain.diagram.theme import BOLD, REGULAR, Palette

_SMALLEST = 0.62
"""How much smaller a long headline may be set before it is cut."""


def title_group(title: str, below: str, scale: Scale, palette: Palette, right: float, ys: tuple[float, float]) -> Group:
    """Both lines, from the left margin to `right`; `ys` are their baselines."""
    s = scale
    limit = right - s.margin
    size = s.headline
    while theme.width(title, size, BOLD) > limit and size > s.headline * _SMALLEST:
        size -= 0.5
    bounds = [Box(s.margin, y - high, limit, high * 1.35) for y, high in zip(ys, (s.headline, s.subtitle), strict=True)]
    text = theme.fitted(title, size, BOLD, limit)
    second = theme.fitted(below, s.subtitle, REGULAR, limit)
    return Group(
        "headline",
        title,
        (
            Label(s.margin, ys[0], text, size, bounds[0], BOLD, palette.ink),
            Label(s.margin, ys[1], second, s.subtitle, bounds[1], REGULAR, palette.muted),
        ),
    )


def subtitle(diagram: Diagram, facts: tuple[str, ...], *, slide: bool) -> str:
    """The line below the headline: what was run and when, and facts about it."""
    if not diagram.measured:
        return diagram.sentence
    what = f"{diagram.name[:1].upper()}{diagram.name[1:]} pipeline"
    if slide:
        return " · ".join((what, *facts))
    run = f"{what}, as measured: {diagram.command} · run {diagram.run_id} · {diagram.when:%Y-%m-%d %H:%M} UTC"
    return " · ".join((run, *facts[1:]))
