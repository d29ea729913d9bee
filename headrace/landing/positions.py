"""Landing positions, kept as properties of the table's snapshot, and the check that the head still agrees with them.

A position is committed together with its rows, so it is never ahead of them or behind. It names the cluster and the topic that
its offset belongs to: in a topic recreated under the old name, old offsets mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.topic import Identity, Record, Span

GAP = "gap"
REGRESSED = "regressed"
RECREATED = "recreated"
_NAME = "landed/"


@dataclass(frozen=True)
class Position:
    """The next offset to land, its cluster and topic, and the last record that landed.

    `topic_epoch` numbers the topics under this name: 1, plus one for each new head accepted. `last` is the offset and the
    fingerprint of the last landed record. From offset `signed` on, only signed records land; `None`: signing is not enabled.
    """

    next: int
    cluster: str | None
    topic: str | None
    topic_epoch: int = 1
    last: tuple[int, str] | None = None
    signed: int | None = None

    @classmethod
    def from_property(cls, value: Mapping[str, Any]) -> Position:
        """The position in a snapshot property."""
        last = value["last"]
        return cls(
            value["next"], value["cluster"], value["topic"], value["topic_epoch"],
            (last["offset"], last["print"]) if last else None, value.get("signed"),
        )  # fmt: skip

    @classmethod
    def begin(cls, topic: TopicReader) -> Position:
        """The position of a partition from which nothing has landed."""
        return cls(0, None, None, signed=0 if topic.signed else None)

    def as_property(self) -> dict[str, Any]:
        """The position as the JSON value of a snapshot property."""
        return {
            "next": self.next,
            "cluster": self.cluster,
            "topic": self.topic,
            "topic_epoch": self.topic_epoch,
            "last": {"offset": self.last[0], "print": self.last[1]} if self.last else None,
            "signed": self.signed,
        }

    def after(self, record: Record) -> Position:
        """The position after `record` has landed."""
        return replace(self, next=record.offset + 1, last=(record.offset, record.fingerprint))


def property_name(topic: str, partition: int) -> str:
    """Name of the property that holds a partition's position."""
    return f"{_NAME}{topic}/{partition}"


def positions(properties: Mapping[str, Any], topic: str) -> dict[int, Position]:
    """The positions of a topic's partitions among a table's properties."""
    start = f"{_NAME}{topic}/"
    return {
        int(name[len(start) :]): Position.from_property(value) for name, value in properties.items() if name.startswith(start)
    }


def origin(topic: str, topic_epoch: int) -> str:
    """The value of the column `topic` in rows of that topic epoch."""
    return topic if topic_epoch == 1 else f"{topic}@{topic_epoch:02}"


@dataclass(frozen=True)
class Divergence:
    """Why a partition has stopped: its position, the head's span, and a sentence about what was seen."""

    topic: str
    partition: int
    kind: str
    landed: int
    span: Span
    seen: str

    @property
    def topic_partition(self) -> str:
        """`topic/partition`."""
        return f"{self.topic}/{self.partition}"

    @property
    def remedy(self) -> str:
        """The command that resumes landing, and what it gives up."""
        if self.kind == GAP:
            return f"To continue without them: headrace land --accept-gap {self.topic_partition}"
        return (
            "If that is intended, land the new head's events beside those already landed: "
            f"headrace land --accept-new-head {self.topic_partition}"
        )


def disagreement(
    topic: TopicReader, partition: int, position: Position | None, span: Span, identity: Identity
) -> Divergence | None:
    """Why this partition must not land from its position, or `None` if the head agrees with it."""
    name = topic.store.name
    landed = position.next if position else 0

    def diverged(kind: str, seen: str) -> Divergence:
        return Divergence(name, partition, kind, landed, span, seen)

    if position is not None:
        for what, was, is_now in (("cluster", position.cluster, identity.cluster), ("topic", position.topic, identity.topic)):
            if was is not None and is_now is not None and was != is_now:
                return diverged(RECREATED, f"The {what} was recreated under its old name: its id was {was} and is now {is_now}.")
    if span.low > landed:
        return diverged(
            GAP, f"The head begins at offset {span.low}: {span.low - landed:,} events were deleted before they landed."
        )
    if position is None or span.low >= landed:
        return None
    # The reported end may be too low, and says nothing about the records: compare the last landed record.
    at, fingerprint = position.last if position.last and position.last[0] >= span.low else (landed - 1, None)
    if fingerprint is None and span.end >= landed:
        return None
    record = topic.record(partition, at)
    if record is None:
        return diverged(REGRESSED, f"The head ends at offset {span.end} and no longer has offset {at}, which has landed.")
    if fingerprint is not None and record.fingerprint != fingerprint:
        return diverged(RECREATED, f"The head's record at offset {at} is not the one that landed from there.")
    return None
