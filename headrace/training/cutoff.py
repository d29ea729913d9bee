"""Exclusions from a round beyond its settings: suppressed users and documents, and everything from a poisoned event on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from headrace.catalog import LANDINGS, ROUNDS, SUPPRESSIONS, Store
from headrace.core.stage import each, stage
from headrace.errors import NotFound
from headrace.landing.event import Event
from headrace.landing.positions import positions
from headrace.storage.objects import ObjectReader
from headrace.storage.tables.handles import TableReader, quoted
from headrace.training import manifest
from headrace.training.manifest import Manifest


@dataclass(frozen=True)
class Exclusions:
    """What a dataset leaves out beyond its settings.

    `origins` are events as "topic/partition/offset", `users` are (tenant, user), `documents` are document ids (all versions).
    `before` is the first offset that is not read, by "topic/partition"; other partitions are read to their end. `tenants` are
    those whose data trains no model that others use.
    """

    origins: frozenset[str] = frozenset()
    users: frozenset[tuple[str, str]] = frozenset()
    documents: frozenset[str] = frozenset()
    before: Mapping[str, int] = field(default_factory=dict)
    tenants: frozenset[str] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """The exclusions as in a plan and a manifest: sorted, so that equal exclusions are equal JSON."""
        return {
            "origins": sorted(self.origins),
            "users": [list(pair) for pair in sorted(self.users)],
            "documents": sorted(self.documents),
            "tenants": sorted(self.tenants),
            "before": dict(sorted(self.before.items())),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Exclusions:
        """Exclusions from the form of `as_dict`."""
        return cls(
            frozenset(stored["origins"]),
            frozenset((tenant, user) for tenant, user in stored["users"]),
            frozenset(stored["documents"]),
            {place: int(offset) for place, offset in stored["before"].items()},
            frozenset(stored.get("tenants", ())),  # older plans have no tenants
        )


NOTHING = Exclusions()
"""Excludes nothing."""


_USER, _DOCUMENT = "user", "document"


@stage("Reads who and what was forgotten and may not be learned from.")
def suppressed(suppressions: Annotated[TableReader, SUPPRESSIONS]) -> Exclusions:
    """The users, documents and events that `headrace forget` suppressed permanently."""
    rows = suppressions.read().to_pylist()
    return Exclusions(
        origins=frozenset(origin for row in rows for origin in row["origins"]),
        users=frozenset((row["tenant"], row["name"]) for row in rows if row["kind"] == _USER),
        documents=frozenset(row["document_id"] for row in rows if row["kind"] == _DOCUMENT),
    )


@stage("Finds how far each partition may be read so that nothing is learned from an event or what came after it.")
def bound(
    landed: Annotated[Mapping[Store, TableReader], each(LANDINGS.values())],
    event: str,
) -> dict[str, int]:
    """`Exclusions.before` for an event "topic/partition/offset": the first offset that is not read, by partition.

    In the event's own partition this is its offset. Offsets of different partitions cannot be compared, so in every other
    partition it is the first offset whose row has the event's time or a later one. Everything from there on is left out, even
    rows with an earlier time, because a producer's clock may be slow. Times are those that producers wrote: they stay with the
    rows, while snapshots expire. If the event has no row (it was unreadable or forgotten), the time of the next row in its
    partition is used. Raises `NotFound` for an event that has not landed, `WrongUsage` for a text that names no event.
    """
    place = Event.parse(event)
    own = landed[LANDINGS[place.store]]
    rows = own.read(("offset", "at"), _from(place)).sort_by("offset")
    reached = positions(own.snapshot_properties(), place.store.name).get(place.partition)
    if not rows.num_rows and (reached is None or (reached.topic_epoch, reached.next) <= (place.topic_epoch, place.offset)):
        raise NotFound(f"No event has landed from {event}.", hint="See `headrace head` for what has, or `headrace trace`.")
    limits = {place.topic_partition: place.offset}
    if not rows.num_rows:
        return limits  # no row is at or after it in its partition
    at = rows["at"][0].as_py().isoformat()
    for table in landed.values():
        later = table.read(("topic", "partition", "offset"), f"at >= {quoted(at)}")
        for row in later.group_by(["topic", "partition"]).aggregate([("offset", "min")]).to_pylist():
            name = f"{row['topic']}/{row['partition']}"
            limits[name] = min(row["offset_min"], limits.get(name, row["offset_min"]))
    return dict(sorted(limits.items()))


@stage("Finds the newest weights that learned nothing from a partition's offsets beyond a bound.")
def parent_before(rounds: Annotated[ObjectReader, ROUNDS], model: str, before: Mapping[str, int]) -> str:
    """`model/version` of the newest released weights whose rounds, including their parents', did not read that far; else "".

    Everything that had landed when a round was planned counts as read, except what its own exclusions left out.
    """
    manifests = manifest.read_all(rounds)

    def clean(number: int) -> bool:
        made = manifests.get(number)
        if made is None or any(_reached(made, place) > limit for place, limit in before.items()):
            return False
        version = made.start.partition("/")[2]
        return not version or clean(int(version.removeprefix("v")))

    for number, made in sorted(manifests.items(), reverse=True):
        version = made.weights.version
        if version and made.model == model and clean(number):
            return f"{model}/{version}"
    return ""


def _reached(made: Manifest, place: str) -> int:
    """The offset up to which a round may have learned from a partition."""
    event = Event.parse(f"{place}/0")
    position = made.offsets.get(event.store.name, {}).get(str(event.partition))
    if position is None or position["topic_epoch"] < event.topic_epoch:
        return 0
    reached = int(position["next"]) if position["topic_epoch"] == event.topic_epoch else 1 << 62
    return min(reached, int(made.exclusions["before"].get(place, reached)))


def _from(place: Event) -> str:
    """A condition for an event's row and the later ones of its partition."""
    return f"topic = {quoted(place.topic)} AND partition = {place.partition} AND offset >= {place.offset}"
