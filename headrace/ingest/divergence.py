"""accept: lets a partition land again that was refused. What is given up is worked out, written down, and only then done."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa

from headrace.catalog import DEAD_LETTERS, LANDINGS, REFUSALS, Store
from headrace.core.stage import each, stage
from headrace.errors import LostRace, NotFound, WrongUsage
from headrace.ingest.positions import GAP, Divergence, Position, disagreement, mark_name, origin, positions
from headrace.storage.records import batch, decode, decoded_schema
from headrace.storage.stream import Span, TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter, quoted

STOPPED = "stopped"
ACCEPTED = "accepted"


def record_refusal(refusals: TableWriter, refusal: Divergence) -> None:
    """Write that a partition stopped, unless that very refusal is what the table says of it last."""
    name = f"refused/{refusal.place}"
    standing = refusals.mark(name)
    now = [refusal.kind, refusal.landed, refusal.span.low]
    if standing == now:
        return
    with contextlib.suppress(LostRace):  # another lander has met it too and written it
        _append(refusals, refusal, STOPPED, "", mark={name: now}, expected={name: standing})


def record_acceptance(refusals: TableWriter, refusal: Divergence, who: str) -> None:
    """Write that somebody let a partition go on."""
    _append(refusals, refusal, ACCEPTED, who, mark={f"refused/{refusal.place}": None}, expected={})


def _append(
    refusals: TableWriter, refusal: Divergence, action: str, who: str, *, mark: dict[str, Any], expected: dict[str, Any]
) -> None:
    row = {
        "topic": refusal.topic,
        "partition": refusal.partition,
        "kind": refusal.kind,
        "action": action,
        "landed": refusal.landed,
        "low": refusal.span.low,
        "end": refusal.span.end,
        "seen": refusal.seen,
        "who": who,
        "at": datetime.now(UTC),
    }
    refusals.append(batch(REFUSALS.columns, [row]), marks=mark, expected=expected)


@dataclass(frozen=True)
class Accepted:
    """A partition that lands again: what was refused, and at which offset of which incarnation it goes on."""

    refusal: Divergence
    position: Position

    @property
    def told(self) -> str:
        """What that means, in a sentence."""
        place, at = self.refusal.place, self.position.next
        if self.refusal.kind == GAP:
            return f"{place} goes on at offset {at}; offsets {self.refusal.landed} to {at - 1} are given up."
        name = origin(self.refusal.topic, self.position.incarnation)
        return f"{place} goes on at offset {at} of the new head, whose rows are called {name!r}."


@stage("Lets a partition land again whose head disagreed with its table.")
def accept(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableWriter], each(LANDINGS.values())],
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    refusals: Annotated[TableWriter, REFUSALS],
    place: str,
    gap: bool,
    who: str,
) -> Accepted:
    """Let `place` (`topic/partition`) go on: past a gap, or with a new head.

    Raises `NotFound` where there is no such partition, `WrongUsage` where it is not refused or not for that.
    """
    name, _, number = place.rpartition("/")
    for topic, table in zip(topics.values(), tables.values(), strict=True):
        if topic.store.name == name and number.isdecimal() and int(number) in (spans := topic.spans()):
            partition = int(number)
            return _accept(topic, table, dead_letters, refusals, partition, spans[partition], gap=gap, who=who)
    known = ", ".join(store.name for store in topics)
    raise NotFound(f"There is no partition {place!r}.", hint=f"Give it as TOPIC/PARTITION; the topics: {known}.")


def _accept(
    topic: TopicReader,
    table: TableWriter,
    letters: TableReader,
    refusals: TableWriter,
    partition: int,
    span: Span,
    *,
    gap: bool,
    who: str,
) -> Accepted:
    name = topic.store.name
    mark = mark_name(name, partition)
    marks = table.marks()
    position = positions(marks, name).get(partition)
    identity = topic.identity()
    refusal = disagreement(topic, partition, position, span, identity)
    if refusal is None:
        raise WrongUsage(f"{name}/{partition} is not refused: it lands as it is.", hint="See `headrace head`.")
    if (refusal.kind == GAP) != gap:
        raise WrongUsage(f"{refusal.place} is not refused for that, but: {refusal.seen}", hint=refusal.remedy)
    position = position or Position.begin(topic)
    known = replace(position, cluster=identity.cluster, topic=identity.topic, last=None)
    if gap:
        new = replace(known, next=span.low)
    else:
        at = _divergence(topic, table, letters, partition, position, span.low)
        before = topic.record(partition, at - 1) if at > span.low else None
        new = replace(known, next=at, last=(at - 1, before.fingerprint) if before else None)
        if new.next < position.next:  # what comes next would bear the name of what has landed
            new = replace(new, incarnation=position.incarnation + 1)
        if topic.signed:  # what came before there were signatures was in the old one
            new = replace(new, signed=0)
    record_acceptance(refusals, refusal, who)
    nothing = pa.Table.from_batches([], table.store.columns)
    table.append(nothing, marks={mark: new.as_mark()}, expected={mark: marks.get(mark)})
    return Accepted(refusal, new)


def _divergence(
    topic: TopicReader, table: TableReader, letters: TableReader, partition: int, position: Position, low: int
) -> int:
    """The first offset at which the head has something else than what landed, by bisection: all before it are the same."""
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
    name = quoted(origin(topic.store.name, position.incarnation))
    where = f"topic = {name} and partition = {partition} and offset = {offset}"
    decoded = decode(topic.store, [record.value if record else None])
    if decoded.rows.num_rows:
        columns = tuple(decoded_schema(topic.store).names)
        if table.read(columns, where).to_pylist() == decoded.rows.to_pylist():
            return True
    return bool(record is not None and letters.read(("value",), where)["value"].to_pylist() == [record.value])
