"""What `headrace up` does without a trigger of the settings: when, and which setting switches it."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.settings import Settings
from headrace.training.recipes import AUTO


@dataclass(frozen=True)
class BuiltInTrigger:
    """A step of `headrace up`: its causes, what it does, whether it is on, and the setting that says so.

    `setting` is empty where it is always on, and `command` where no command does the same.
    """

    name: str
    causes: tuple[str, ...]
    does: str
    command: str
    setting: str
    on: bool


def built_in_triggers(settings: Settings) -> list[BuiltInTrigger]:
    """The steps in the order in which data meets them."""
    automatic, training, maintenance = settings.automatic, settings.training, settings.maintenance
    canary, kept_s = training.canary, settings.head_kept_s
    named = ", ".join(training.recipes)
    recipes = "the recipe that may gain most" if named == AUTO else named
    places = [source.place for source in settings.sources]
    return [
        BuiltInTrigger("land", ("an event on the head",), "lands it in its table", "headrace land", "", on=True),
        BuiltInTrigger(
            "trim",
            (f"{kept_s:g} s after an event has landed" if kept_s is not None else "an event has landed",),
            "removes it from the head",
            "headrace land",
            "landing.trim",
            on=kept_s is not None,
        ),
        BuiltInTrigger(
            "follow",
            tuple(f"a change in {place}" for place in places) or ("a change in a source",),
            "puts and deletes documents",
            "headrace index PLACE",
            "sources",
            on=bool(places),
        ),
        BuiltInTrigger(
            "index", ("a document put or deleted",), "parses, splits, embeds and indexes it", "headrace index", "", on=True
        ),
        BuiltInTrigger(
            "round",
            (f"{training.verdicts:,} new verdicts", f"{training.minutes:g} min after the oldest of fewer"),
            f"a round with {recipes}",
            "headrace train",
            "automatic.rounds",
            on=automatic.rounds,
        ),
        BuiltInTrigger(
            "canary",
            (f"{canary.verdicts:,} verdicts on a challenger", f"{canary.minutes:g} min with fewer"),
            "promotes it, or ends its canary",
            "headrace promote MODEL VERSION",
            "training.canary.share",
            on=automatic.rounds and canary.share > 0,
        ),
        BuiltInTrigger(
            "maintenance",
            (f"{maintenance.every:,} commits to a table",),
            "merges files, expires snapshots, removes orphans",
            "headrace maintain",
            "automatic.maintenance",
            on=automatic.maintenance,
        ),
        BuiltInTrigger(
            "retention",
            ("a document older than its tenant keeps it",),
            "deletes it",
            "",
            "automatic.retention",
            on=automatic.retention,
        ),
    ]
