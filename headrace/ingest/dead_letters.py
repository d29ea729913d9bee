"""Dead letters: landed after a fix, each once, or made of records that landing is to leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DEAD_LETTERS, LANDINGS, Store
from headrace.core.stage import Port, Stage
from headrace.errors import LostRace, NotFound, WrongUsage
from headrace.ingest.handles import pairs, ports
from headrace.ingest.positions import Position, origin, positions
from headrace.storage.records import decode
from headrace.storage.signature import UNSIGNED
from headrace.storage.tables.handles import TableReader, TableWriter

_MARK = "relanded"
_TRIES = 5
_ORIGIN = ("topic", "partition", "offset")


@dataclass(frozen=True)
class Relanded:
    """Dead letters that landed now, per topic; those that had landed before; and those that still cannot be read."""

    events: dict[str, int]
    before: int
    dead: int


def relanding(landings: Mapping[Store, Store]) -> Stage[..., Relanded]:
    """The stage that lands dead letters of these topics."""

    def reland(*, dead_letters: TableReader, unsigned: bool = False, **handles: Any) -> Relanded:
        """Read every dead letter again with the schema of today; those of nobody we know stay dead unless `unsigned`."""
        letters = dead_letters.read(("value", "reason", *_ORIGIN))
        forged = pc.starts_with(letters["reason"], UNSIGNED)
        events, before, dead = {}, 0, 0 if unsigned else pc.sum(forged).as_py() or 0
        if not unsigned:
            letters = letters.filter(pc.invert(forged))
        for topic, table in landings.items():
            of = [name.partition("@")[0] == topic.name for name in letters["topic"].to_pylist()]
            mine = letters.filter(pa.array(of, pa.bool_()))
            decoded = decode(topic, mine["value"].to_pylist())
            read = mine.select(_ORIGIN).take(pa.array(decoded.kept, pa.int64()))
            dead += len(decoded.bad)
            events[topic.name] = _append(handles[table.table], decoded.rows, read.to_pylist())
            before += len(decoded.kept) - events[topic.name]
        return Relanded(events, before, dead)

    ports = (Port("dead_letters", DEAD_LETTERS, TableReader), *(Port(t.table, t, TableWriter) for t in landings.values()))
    return Stage("reland", "Lands dead letters that can be read now.", ports, reland, frozenset({"unsigned"}))


reland = relanding(LANDINGS)


def _append(table: TableWriter, rows: pa.RecordBatch, places: list[dict[str, Any]]) -> int:
    if not places:
        return 0
    for _ in range(_TRIES):
        standing = table.mark(_MARK)
        held = {tuple(row.values()) for row in table.read(_ORIGIN).to_pylist()}
        new = [index for index, place in enumerate(places) if tuple(place.values()) not in held]
        if not new:
            return 0
        columns = dict(zip(rows.schema.names, rows.take(pa.array(new)).columns, strict=True))
        columns |= {name: pa.array([places[index][name] for index in new]) for name in _ORIGIN}
        arrays = [columns[field.name].cast(field.type) for field in table.store.columns]
        try:
            data = pa.RecordBatch.from_arrays(arrays, schema=table.store.columns)
            table.append(data, marks={_MARK: (standing or 0) + len(new)}, expected={_MARK: standing})
            return len(new)
        except LostRace:
            continue
    raise LostRace(f"Others land dead letters in {table.store.table} as well.", hint="Run the command again.")


_NAME = "skipped/"


def skipped(marks: Mapping[str, Any], name: str, partition: int) -> dict[int, str]:
    """Offset → why it is skipped, by the marks of the dead letters' table; `name` is the topic with its incarnation."""
    return {int(offset): str(reason) for offset, reason in (marks.get(f"{_NAME}{name}/{partition}") or {}).items()}


def skipping(landings: Mapping[Store, Store]) -> Stage[..., str]:
    """The stage that has records of these topics skipped."""

    def skip(*, place: str, reason: str, dead_letters: TableWriter, **handles: Any) -> str:
        """Have the record at `place` (`topic/partition/offset`) skipped; returns what that means, in a sentence.

        Raises `NotFound` where the head has no such partition, `WrongUsage` where that offset has landed.
        """
        head, _, offset = place.rpartition("/")
        name, _, partition = head.rpartition("/")
        for topic, table in pairs(landings, handles):
            if topic.store.name != name or not (partition.isdecimal() and offset.isdecimal()):
                continue
            if int(partition) not in topic.spans():
                continue
            position = positions(table.marks(), name).get(int(partition)) or Position(0, None, None)
            if int(offset) < position.next:
                raise WrongUsage(f"{place} has landed: {head} goes on at {position.next}.", hint="See `headrace head`.")
            named = origin(name, position.incarnation)
            mark = f"{_NAME}{named}/{int(partition)}"
            marks = dead_letters.marks()
            # What lies behind the position has been buried.
            open_ = {str(at): why for at, why in skipped(marks, named, int(partition)).items() if at >= position.next}
            nothing = pa.Table.from_batches([], dead_letters.store.columns)
            after = {**open_, str(int(offset)): reason}
            dead_letters.append(nothing, marks={mark: after}, expected={mark: marks.get(mark)})
            return f"{place} becomes a dead letter when {head} comes to it, which is next at offset {position.next}."
        known = ", ".join(store.name for store in landings)
        raise NotFound(f"There is no partition {head!r}.", hint=f"Give it as TOPIC/PARTITION/OFFSET; the topics: {known}.")

    sentence = "Has a record of the head skipped that holds its topic up."
    return Stage("skip", sentence, ports(landings, TableWriter), skip, frozenset({"place", "reason"}))


skip = skipping(LANDINGS)
