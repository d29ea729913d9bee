"""The deck: which slides, in which order, for whom; built from one recorded run."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace import __version__
from headrace.atomic import write_atomically
from headrace.core.run import journal_of, newest_first
from headrace.errors import NotFound, WrongUsage
from headrace.explain.deck import pipelines, topics
from headrace.explain.deck.brand import Brand
from headrace.explain.deck.canvas import Canvas, presentation
from headrace.explain.deck.draft import Draft
from headrace.explain.deck.numbers import Numbers
from headrace.explain.sizing.measured import measured_by
from headrace.explain.sizing.parameters import SizingParameters
from headrace.explain.sizing.sizing import Sizing, size

Slide = Callable[[Draft], None]

SLIDES: Mapping[str, Slide] = {**pipelines.SLIDES, **topics.SLIDES}

AUDIENCES: Mapping[str, tuple[str, ...]] = {
    "ncp": (
        "overview", "tiers", "inference", "training", "stages", "sizing", "time", "head", "roles", "kv", "ray", "recipes",
        "triggers", "limits",
    ),
    "builder": (
        "overview", "training", "inference", "stages", "time", "ray", "recipes", "head", "roles", "triggers", "kv", "tiers",
        "sizing", "limits",
    ),
    "enterprise": (
        "overview", "inference", "kv", "training", "recipes", "head", "roles", "triggers", "stages", "tiers", "time", "ray",
        "sizing", "limits",
    ),
}  # fmt: skip
"""The slides of each audience, in order: the same slides and numbers, another lead."""

_PICTURES = ("inference", "training")  # slides that are diagrams, which have a foot of their own
_NEEDED = ("retrieve", "finetune")  # stages that show that both pipelines ran
_RUNS = 200


def both_pipelines(home: Path, run: str | None = None) -> Mapping[str, Any]:
    """The journal of a run of both pipelines: `run`, or the newest of the last 200. Raises `NotFound`."""
    if run is not None:
        journal = journal_of(home, run)
        if not ran_both(journal):
            raise NotFound(
                f"Run {journal['run']} did not run both pipelines, which a deck shows.", hint="Name a run of `headrace demo`."
            )
        return journal
    for at, journal in enumerate(newest_first(home)):
        if at >= _RUNS:
            break
        if journal["state"] == "done" and ran_both(journal):
            return journal
    raise NotFound(
        "No run in this home ran both pipelines, which a deck shows.",
        hint="Run `headrace demo` first. One over a few files of your own may have nothing to train on: leave out --docs.",
    )


def ran_both(journal: Mapping[str, Any]) -> bool:
    """Whether a run moved bytes in both pipelines."""
    moved = {row["stage"] for row in journal["rows"] if row["bytes"]}
    return all(stage in moved for stage in _NEEDED)


def build(
    journal: Mapping[str, Any],
    *,
    audience: str = "ncp",
    brand: Brand | None = None,
    sizing: Sizing | None = None,
    slides: Mapping[str, Slide] = SLIDES,
) -> bytes:
    """The deck of one run as a .pptx file.

    `sizing` is the platform that one slide sizes, by default the default parameters. Raises `WrongUsage` for an unknown audience,
    and `Permanent` where a headline is false for the run.
    """
    if audience not in AUDIENCES:
        raise WrongUsage(f"There is no audience {audience!r}.", hint=f"Choose from {', '.join(AUDIENCES)}.")
    brand = brand or Brand()
    numbers = Numbers(journal)
    sizing = sizing or size(SizingParameters(), tuple(measured_by(journal)))
    deck = presentation(brand)
    order = [name for name in AUDIENCES[audience] if name in slides and (name != "time" or numbers.has_times)]
    for at, name in enumerate(order, 1):
        slide = deck.slides.add_slide(deck.slide_layouts[0])
        canvas = Canvas(slide, brand)
        draft = Draft(canvas, numbers, brand, sizing, audience)
        slides[name](draft)
        when = f"{numbers.started:%Y-%m-%d %H:%M} UTC"
        if name not in _PICTURES:
            canvas.foot(f"Measured with Headrace {__version__}: headrace {numbers.command}, {when}, run {numbers.run} · {at}")
        slide.notes_slide.notes_text_frame.text = draft.notes()
    properties = deck.core_properties
    properties.title = f"Two AI pipelines, measured: run {numbers.run}"
    properties.author = brand.name or "Headrace"
    properties.subject = f"for {audience}"
    properties.keywords, properties.comments = "", ""
    properties.created = properties.modified = numbers.started.replace(tzinfo=None)
    file = io.BytesIO()
    deck.save(file)
    return file.getvalue()


def write_deck(path: Path, content: bytes) -> None:
    """Write the deck, whole or not at all. Raises `WrongUsage` for another suffix than .pptx, `StorageFull`."""
    if path.suffix.lower() != ".pptx":
        raise WrongUsage(f"A deck cannot be written as {path.suffix or path.name!r}.", hint="Name a file that ends in .pptx.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, mode=0o644)
