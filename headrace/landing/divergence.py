"""Resolve a divergence: let a stopped partition land again. What is given up is recorded before the position moves."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa

from headrace.catalog import DEAD_LETTERS, DIVERGENCES, LANDINGS, Store
from headrace.core.stage import each, stage
from headrace.errors import LostRace, NotFound, WrongUsage
from headrace.landing.positions import GAP, Divergence, Position, disagreement, origin, positions, property_name
from headrace.storage.records import batch, decode, decoded_schema
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.topic import Span
from headrace.storage.tables.handles import TableReader, TableWriter, quoted

STOPPED = "stopped"
RESOLVED = "resolved"


def record_divergence(divergences: TableWriter, divergence: Divergence) -> None:
    """Record that a partition stopped, unless the table's last entry for it is the same divergence."""
    name = f"divergence/{divergence.topic_partition}"
    recorded = divergences.snapshot_property(name)
    current = [divergence.kind, divergence.landed, divergence.span.low]
    if recorded == current:
        return
    with contextlib.suppress(LostRace):  # another lander has recorded it
        _append(divergences, divergence, STOPPED, "", properties={name: current}, expected={name: recorded})


def record_resolution(divergences: TableWriter, divergence: Divergence, who: str) -> None:
    """Record that `who` let a partition go on."""
    _append(divergences, divergence, RESOLVED, who, properties={f"divergence/{divergence.topic_partition}": None}, expected={})


def _append(
    divergences: TableWriter,
    divergence: Divergence,
    action: str,
    who: str,
    *,
    properties: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    row = {
        "topic": divergence.topic,
        "partition": divergence.partition,
        "kind": divergence.kind,
        "action": action,
        "landed": divergence.landed,
        "low": divergence.span.low,
        "end": divergence.span.end,
        "seen": divergence.seen,
        "who": who,
        "at": datetime.now(UTC),
    }
    divergences.append(batch(DIVERGENCES.columns, [row]), properties=properties, expected=expected)


@dataclass(frozen=True)
class ResolvedDivergence:
    """A partition that lands again: its divergence, and the offset and topic epoch at which it goes on."""

    divergence: Divergence
    position: Position

    @property
    def sentence(self) -> str:
        """A sentence that says what was given up or accepted."""
        topic_partition, at = self.divergence.topic_partition, self.position.next
        if self.divergence.kind == GAP:
            return f"{topic_partition} continues at offset {at}; offsets {self.divergence.landed} to {at - 1} are given up."
        name = origin(self.divergence.topic, self.position.topic_epoch)
        return f"{topic_partition} continues at offset {at} of the new head; its rows have the topic {name!r}."


@stage("Lets a partition whose head disagreed with its table land again.")
def resolve_divergence(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableWriter], each(LANDINGS.values())],
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    divergences: Annotated[TableWriter, DIVERGENCES],
    topic_partition: str,
    gap: bool,
    who: str,
) -> ResolvedDivergence:
    """Let `topic_partition` (`topic/partition`) land again: past a gap, or from a new head.

    Raises `NotFound` if there is no such partition, `WrongUsage` if it has not stopped, or not for this reason.
    """
    name, _, number = topic_partition.rpartition("/")
    for topic, table in zip(topics.values(), tables.values(), strict=True):
        if topic.store.name == name and number.isdecimal() and int(number) in (spans := topic.spans()):
            partition = int(number)
            return _resolve(topic, table, dead_letters, divergences, partition, spans[partition], gap=gap, who=who)
    known = ", ".join(store.name for store in topics)
    raise NotFound(f"There is no partition {topic_partition!r}.", hint=f"Give it as TOPIC/PARTITION; the topics: {known}.")


def _resolve(
    topic: TopicReader,
    table: TableWriter,
    letters: TableReader,
    divergences: TableWriter,
    partition: int,
    span: Span,
    *,
    gap: bool,
    who: str,
) -> ResolvedDivergence:
    name = topic.store.name
    key = property_name(name, partition)
    properties = table.snapshot_properties()
    position = positions(properties, name).get(partition)
    identity = topic.identity()
    divergence = disagreement(topic, partition, position, span, identity)
    if divergence is None:
        raise WrongUsage(f"{name}/{partition} has not stopped: it lands normally.", hint="See `headrace head`.")
    if (divergence.kind == GAP) != gap:
        raise WrongUsage(f"{divergence.topic_partition} stopped for another reason: {divergence.seen}", hint=divergence.remedy)
    position = position or Position.begin(topic)
    known = replace(position, cluster=identity.cluster, topic=identity.topic, last=None)
    if gap:
        new = replace(known, next=span.low)
    else:
        at = _first_difference(topic, table, letters, partition, position, span.low)
        before = topic.record(partition, at - 1) if at > span.low else None
        new = replace(known, next=at, last=(at - 1, before.fingerprint) if before else None)
        if new.next < position.next:  # or new rows would get the same topic/partition/offset as landed ones
            new = replace(new, topic_epoch=position.topic_epoch + 1)
        if topic.signed:  # only the old head had events from before signing was enabled
            new = replace(new, signed=0)
    record_resolution(divergences, divergence, who)
    nothing = pa.Table.from_batches([], table.store.columns)
    table.append(nothing, properties={key: new.as_property()}, expected={key: properties.get(key)})
    return ResolvedDivergence(divergence, new)


def _first_difference(
    topic: TopicReader, table: TableReader, letters: TableReader, partition: int, position: Position, low: int
) -> int:
    """The first offset at which the head differs from what landed, by bisection."""
    same, other = low, max(low, position.next)
    while same < other:
        middle = (same + other) // 2
        if _same(topic, table, letters, partition, position, middle):
            same = middle + 1
        else:
            other = middle
    return same


def _same(topic: TopicReader, table: TableReader, letters: TableReader, partition: int, position: Position, offset: int) -> bool:
    record = topic.record(partition, offset)
    name = quoted(origin(topic.store.name, position.topic_epoch))
    where = f"topic = {name} and partition = {partition} and offset = {offset}"
    decoded = decode(topic.store, [record.value if record else None])
    if decoded.rows.num_rows:
        columns = tuple(decoded_schema(topic.store).names)
        if table.read(columns, where).to_pylist() == decoded.rows.to_pylist():
            return True
    return bool(record is not None and letters.read(("value",), where)["value"].to_pylist() == [record.value])
