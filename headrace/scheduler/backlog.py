"""Verdicts waiting per recipe, and since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import pyarrow.compute as pc

from headrace.catalog import FEEDBACK, FEEDBACK_ROWS, ROUNDS
from headrace.core.stage import stage
from headrace.landing.positions import origin, positions
from headrace.storage.objects import ObjectReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.training import manifest
from headrace.training.manifest import Manifest, Plan

Reached = Mapping[str, Mapping[str, Any]]
"""Landing positions by partition, as in a manifest: `topic_epoch`, `next` and the other fields of a position."""


@dataclass(frozen=True)
class TrainingBacklog:
    """How far verdicts have landed, how far each recipe's newest round has read, and the round under way.

    `newest` is the newest manifest, `begun` the plan of a round not yet committed; `None` if there is none.
    """

    landed: dict[str, dict[str, Any]] = field(default_factory=dict)
    read: dict[str, Reached] = field(default_factory=dict)
    newest: Manifest | None = None
    begun: Plan | None = None


@stage("Finds how far verdicts have landed and how far rounds have read them.")
def training_backlog(
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    rounds: Annotated[ObjectReader, ROUNDS],
    recipes: Sequence[str],
    known: dict[int, Manifest],
) -> TrainingBacklog:
    """The current backlog; `known` caches manifests between calls, since they never change."""
    numbers = manifest.numbers(rounds)
    read: dict[str, Reached] = {}
    for number in reversed(numbers):
        if len(read) == len(set(recipes)):
            break
        if number not in known:
            known[number] = manifest.read(rounds, number)
        found = known[number]
        if found.recipe in recipes:
            read.setdefault(found.recipe, found.offsets.get(FEEDBACK.name, {}))
    if numbers and numbers[-1] not in known:
        known[numbers[-1]] = manifest.read(rounds, numbers[-1])
    newest = known[numbers[-1]] if numbers else None
    begun = manifest.plan(rounds, (numbers[-1] if numbers else 0) + 1)
    landed = {
        str(partition): at.as_property() for partition, at in positions(feedback.snapshot_properties(), FEEDBACK.name).items()
    }
    return TrainingBacklog(landed, read, newest, begun)


def new(landed: Reached, read: Reached) -> int:
    """The number of verdicts landed since `read`. In a recreated topic, all are new."""
    return sum(at["next"] - _from(at, read.get(partition)) for partition, at in landed.items())


@stage("Finds the time of the oldest verdict not learned from yet.")
def oldest(feedback: Annotated[TableReader, FEEDBACK_ROWS], landed: Reached, read: Reached) -> datetime | None:
    """The time it was given; `None` if there is none."""
    times = []
    for partition, at in landed.items():
        topic = quoted(origin(FEEDBACK.name, at["topic_epoch"]))
        where = f"topic = {topic} AND partition = {int(partition)} AND offset >= {_from(at, read.get(partition))}"
        earliest = pc.min(feedback.read(("at",), where)["at"]).as_py()
        if earliest is not None:
            times.append(earliest)
    return min(times, default=None)


def _from(at: Mapping[str, Any], read: Mapping[str, Any] | None) -> int:
    return int(read["next"]) if read and read["topic_epoch"] == at["topic_epoch"] else 0
