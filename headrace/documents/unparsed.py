"""The landed events that wait to be parsed: of each tenant the first ones, whole, and of the others only where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENT_ROWS
from headrace.documents.processed import ProcessedOffsets, not_before
from headrace.documents.queued import Queued
from headrace.documents.versions import IN_ORDER, ORIGIN
from headrace.storage.tables.handles import TableState, quoted

_FEW = 10_000  # events that are read whole at once, waiting or not
_RANGES, _GAP = 50, 1_000  # ranges of offsets in a filter, at most, and how many offsets are read rather than left out


class UnparsedEvents:
    """The events of the table, as it was at one moment, that are not processed.

    `first` has the next ones of each tenant, whole and in their order; with `every` it has all. `since` is the revision of the
    table up to which every event is processed.
    """

    def __init__(self, events: TableState, processed: ProcessedOffsets, since: str | None, *, every: bool) -> None:
        where = not_before(processed.floors)
        whole, count = [], 0
        for some in events.scan(where=where, since=since):
            whole.append(some)
            count += some.num_rows
            if count > _FEW and not every:
                break
        few = count <= _FEW or every
        rows = (
            pa.Table.from_batches(whole, DOCUMENT_EVENT_ROWS.columns)
            if few
            else events.read(("tenant", *ORIGIN), where, since=since)
        )
        del whole
        queued = Queued(rows, processed, every=every)
        self.first: list[dict[str, Any]] = (queued.first if few else _whole(events, queued.first, since)).to_pylist()
        self.left = len(queued.rest)
        """How many events wait behind the first ones."""
        self.more, self.next = queued.more, queued.next
        """The tenants that have such, and the first of them in each partition."""


def _whole(events: TableState, chosen: pa.Table, since: str | None) -> pa.Table:
    """These events with all their columns."""
    found: list[pa.RecordBatch] = []
    for topic, partition in {(row["topic"], row["partition"]) for row in chosen.select(["topic", "partition"]).to_pylist()}:
        own = chosen.filter((pc.field("topic") == topic) & (pc.field("partition") == partition))["offset"]
        ranges = " OR ".join(f"(offset >= {low} AND offset <= {high})" for low, high in _ranges(own.to_numpy()))
        where = f"topic = {quoted(topic)} AND partition = {partition} AND ({ranges})"
        found += [some.filter(pc.is_in(some["offset"], own.combine_chunks())) for some in events.scan(where=where, since=since)]
    return pa.Table.from_batches(found, DOCUMENT_EVENT_ROWS.columns).sort_by(IN_ORDER)


def _ranges(offsets: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, int]]:
    """Few ranges that hold these offsets, which are in order, without the widest gaps between them."""
    gaps = np.diff(offsets)
    widest = np.argsort(-gaps)[: _RANGES - 1]
    cuts = np.sort(widest[gaps[widest] > _GAP]) + 1
    for own in np.split(offsets, cuts):
        yield int(own[0]), int(own[-1])
