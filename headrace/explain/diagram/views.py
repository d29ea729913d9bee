"""The views of a diagram: which scene is drawn for a view and a level of detail."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow
from headrace.explain.diagram.geometry import PAGE, SLIDE, Scale
from headrace.explain.diagram.layout import storage_scene
from headrace.explain.diagram.ray_view import on_ray, ray_notes
from headrace.explain.diagram.scene import Scene
from headrace.explain.diagram.slide import Chosen, slide
from headrace.explain.diagram.theme import LIGHT, Palette
from headrace.explain.diagram.time_view import time_scene
from headrace.explain.diagram.title import facts_of


class View(StrEnum):
    """What a picture is about."""

    STORAGE = "storage"
    RAY = "ray"
    TIME = "time"


class Detail(StrEnum):
    """How much of it is drawn."""

    SLIDE = "slide"
    FULL = "full"


def scene_for(
    diagram: Diagram,
    *,
    view: View = View.STORAGE,
    detail: Detail = Detail.SLIDE,
    palette: Palette = LIGHT,
    triggers: bool = True,
) -> Scene:
    """The picture of a diagram.

    At slide level it is 960 × 540 points, as is a slide of 13.33 × 7.5 inches, with text of at least 12 points: flows are
    gathered, the smallest first, until the rest fits. Raises `NotFound` for the view of time where the run has no times.
    """
    facts = facts_of(diagram)
    if detail is Detail.FULL:
        return _drawn(diagram, view, PAGE, palette, triggers, facts, ())
    without: list[Chosen] = []
    while True:
        short = slide(diagram, without=without)
        scene = _drawn(short.diagram, view, SLIDE, palette, triggers, facts, short.gathered)
        if not short.spare or (scene.width <= SLIDE.least_width and scene.height <= SLIDE.least_height):
            return scene
        without.append(short.spare[0])


def _drawn(
    diagram: Diagram,
    view: View,
    scale: Scale,
    palette: Palette,
    triggers: bool,
    facts: tuple[str, ...],
    gathered: tuple[Flow, ...],
) -> Scene:
    if view is View.TIME:  # what a slide gathers takes no space there
        return time_scene(replace(diagram, flows=(*diagram.flows, *gathered)), scale=scale, palette=palette, facts=facts)
    notes: tuple[str, ...] = ()
    if view is View.RAY:
        diagram, notes, triggers = on_ray(diagram), ray_notes(diagram), triggers and not scale.slide
    return storage_scene(diagram, scale=scale, palette=palette, triggers=triggers, facts=facts, gathered=gathered, notes=notes)
