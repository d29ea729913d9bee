"""The headline of a picture, and the line below it: short facts about a measured run."""

from __future__ import annotations

from headrace.explain.diagram import theme
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.format import human_bytes, human_count, human_s
from headrace.explain.diagram.geometry import Scale
from headrace.explain.diagram.scene import Box, Group, Label
from headrace.explain.diagram.theme import BOLD, REGULAR, Palette
from headrace.storage.timeline import ASKED

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


def facts_of(diagram: Diagram) -> tuple[str, ...]:
    """What was run and when, how much it was about, what one question or round moved, and how long it took.

    A fact that the journal does not have is left out.
    """
    if not diagram.measured:
        return ()
    facts = [f"{diagram.command}, {diagram.when:%Y-%m-%d}"]
    phases = {stage.name: stage.phase for stage in diagram.stages}
    total = sum(flow.bytes for flow in diagram.flows)
    if ASKED in phases.values():
        if documents := diagram.counts.get("documents"):
            facts.append(_counted(documents, "document"))
        asked = sum(flow.bytes for flow in diagram.flows if phases[flow.stage] == ASKED)
        if questions := diagram.counts.get("questions"):
            facts.append(_each(questions, "question", asked))
    elif rounds := next((time.calls for time in diagram.times if time.stage == "promote"), 0):
        facts.append(_each(rounds, "round", total))
    if diagram.seconds:
        facts.append(f"{human_s(diagram.seconds)}, on average {human_bytes(round(total / diagram.seconds))}/s")
    return tuple(facts)


def _each(count: int, noun: str, moved: int) -> str:
    return f"{_counted(count, noun)}, {human_bytes(moved // count)} moved" + ("" if count == 1 else f" per {noun}")


def _counted(count: int, noun: str) -> str:
    return f"{human_count(count)} {noun}{'' if count == 1 else 's'}"
