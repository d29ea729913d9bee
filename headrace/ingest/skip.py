"""skip: records that landing is to leave alone. What is skipped is a dead letter like any other, with its bytes and the reason.

It is noted as a mark of the dead letters' table; whoever lands the partition next buries the record in its turn, unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from headrace.catalog import LANDINGS, Store
from headrace.core.stage import Stage
from headrace.errors import NotFound, WrongUsage
from headrace.ingest.handles import pairs, ports
from headrace.ingest.positions import Position, origin, positions
from headrace.storage.tables.handles import TableWriter

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
