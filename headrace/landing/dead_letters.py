"""Dead letters: land them once they can be read, or skip a record, which makes it one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DEAD_LETTERS, LANDINGS, Store
from headrace.core.stage import each, stage
from headrace.errors import LostRace, NotFound, WrongUsage
from headrace.landing.positions import Position, origin, positions
from headrace.storage.records import decode
from headrace.storage.signature import UNSIGNED
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter, quoted

_PROPERTY = "relanded"
_TRIES = 5
_ORIGIN = ("topic", "partition", "offset")


@dataclass(frozen=True)
class Relanded:
    """Dead letters landed now, per topic; landed `before`; and still unreadable (`dead`)."""

    events: dict[str, int]
    before: int
    dead: int


@stage("Lands dead letters that can be read now.")
def reland(
    dead_letters: Annotated[TableReader, DEAD_LETTERS],
    tables: Annotated[Mapping[Store, TableWriter], each(LANDINGS.values())],
    unsigned: bool = False,
    topics: Iterable[Store] = LANDINGS,
) -> Relanded:
    """Decode every dead letter with the current schema and land it; unsigned ones only if `unsigned`."""
    letters = dead_letters.read(("value", "reason", *_ORIGIN))
    forged = pc.starts_with(letters["reason"], UNSIGNED)
    events, before, dead = {}, 0, 0 if unsigned else pc.sum(forged).as_py() or 0
    if not unsigned:
        letters = letters.filter(pc.invert(forged))
    for topic, table in zip(topics, tables.values(), strict=True):
        of = [name.partition("@")[0] == topic.name for name in letters["topic"].to_pylist()]
        mine = letters.filter(pa.array(of, pa.bool_()))
        decoded = decode(topic, mine["value"].to_pylist())
        read = mine.select(_ORIGIN).take(pa.array(decoded.kept, pa.int64()))
        dead += len(decoded.bad)
        events[topic.name] = _append(table, decoded.rows, read.to_pylist())
        before += len(decoded.kept) - events[topic.name]
    return Relanded(events, before, dead)


def _append(table: TableWriter, rows: pa.RecordBatch, origins: list[dict[str, Any]]) -> int:
    if not origins:
        return 0
    for _ in range(_TRIES):
        recorded = table.snapshot_property(_PROPERTY)
        existing = _landed(table, origins)
        new = [index for index, origin in enumerate(origins) if tuple(origin.values()) not in existing]
        if not new:
            return 0
        columns = dict(zip(rows.schema.names, rows.take(pa.array(new)).columns, strict=True))
        columns |= {name: pa.array([origins[index][name] for index in new]) for name in _ORIGIN}
        arrays = [columns[field.name].cast(field.type) for field in table.store.columns]
        try:
            data = pa.RecordBatch.from_arrays(arrays, schema=table.store.columns)
            table.append(data, properties={_PROPERTY: (recorded or 0) + len(new)}, expected={_PROPERTY: recorded})
            return len(new)
        except LostRace:
            continue
    raise LostRace(f"Other processes are landing dead letters in {table.store.table} too.", hint="Run the command again.")


def _landed(table: TableWriter, origins: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Those of some events that a table has, by topic, partition and offset; ten million rows are not held for a few."""
    offsets: dict[tuple[str, int], list[int]] = {}
    for one in origins:
        offsets.setdefault((one["topic"], one["partition"]), []).append(one["offset"])
    found: set[tuple[Any, ...]] = set()
    for (topic, partition), own in offsets.items():
        wanted, here = pa.array(own, pa.int64()), f"topic = {quoted(topic)} AND partition = {partition}"
        # Between the first and the last of them, so that files of other events are not read.
        for rows in table.scan(("offset",), f"{here} AND offset >= {min(own)} AND offset <= {max(own)}"):
            same = rows.filter(pc.is_in(rows.column("offset"), value_set=wanted)).column("offset").to_pylist()
            found.update((topic, partition, offset) for offset in same)
    return found


_NAME = "skipped/"


def skipped(properties: Mapping[str, Any], name: str, partition: int) -> dict[int, str]:
    """Skipped offsets and reasons, from the properties of the dead-letter table; `name` is the topic with its epoch."""
    return {int(offset): str(reason) for offset, reason in (properties.get(f"{_NAME}{name}/{partition}") or {}).items()}


@stage("Skips a record of the head that blocks its topic.")
def skip(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableReader], each(LANDINGS.values())],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
    event: str,
    reason: str,
) -> str:
    """Skip the record at `event` (`topic/partition/offset`); returns a sentence that says what happens to it.

    Raises `NotFound` if the head has no such partition, `WrongUsage` if that offset has landed.
    """
    head, _, offset = event.rpartition("/")
    name, _, partition = head.rpartition("/")
    for topic, table in zip(topics.values(), tables.values(), strict=True):
        if topic.store.name != name or not (partition.isdecimal() and offset.isdecimal()):
            continue
        if int(partition) not in topic.spans():
            continue
        position = positions(table.snapshot_properties(), name).get(int(partition)) or Position(0, None, None)
        if int(offset) < position.next:
            raise WrongUsage(f"{event} has landed: {head} continues at {position.next}.", hint="See `headrace head`.")
        named = origin(name, position.topic_epoch)
        mark = f"{_NAME}{named}/{int(partition)}"
        properties = dead_letters.snapshot_properties()
        # Offsets before the position are already dead letters.
        open_ = {str(at): why for at, why in skipped(properties, named, int(partition)).items() if at >= position.next}
        nothing = pa.Table.from_batches([], dead_letters.store.columns)
        after = {**open_, str(int(offset)): reason}
        dead_letters.append(nothing, properties={mark: after}, expected={mark: properties.get(mark)})
        return f"{event} becomes a dead letter when {head}, now at offset {position.next}, reaches it."
    known = ", ".join(store.name for store in topics)
    raise NotFound(f"There is no partition {head!r}.", hint=f"Give it as TOPIC/PARTITION/OFFSET; the topics: {known}.")
