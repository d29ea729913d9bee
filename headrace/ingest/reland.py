"""reland: dead letters that can be read now, after a fix, into the tables they were meant for, each once.

A letter stays where it is, for it is the record of what came; that it has landed is seen from its place in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DEAD_LETTERS, LANDINGS, Store
from headrace.core.stage import Port, Stage
from headrace.errors import LostRace
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
