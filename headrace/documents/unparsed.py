"""The landed events that wait to be parsed: of each tenant the first ones, whole, and of the others only where they are.

Any number may wait: a tenant's documents come faster than they are parsed. A pass takes a few of each tenant, so it costs what it
does, and not what waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENT_ROWS
from headrace.documents.processed import ProcessedOffsets, not_before
from headrace.documents.versions import IN_ORDER, ORIGIN
from headrace.storage.tables.handles import TableState, quoted

_TOGETHER, _LEAST = 5_000, 10
"""Events in a pass, of all tenants together, and of each at least."""
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
        if few := count <= _FEW or every:
            waiting = _waiting(pa.Table.from_batches(whole, DOCUMENT_EVENT_ROWS.columns), processed)
        else:
            del whole
            waiting = _waiting(events.read(("tenant", *ORIGIN), where, since=since), processed)
        tenants = len(pc.unique(waiting["tenant"]))
        first = (
            _ranks(waiting["tenant"]) < max(_LEAST, _TOGETHER // max(1, tenants)) if not every else np.full(len(waiting), True)
        )
        chosen, rest = waiting.filter(pa.array(first)), waiting.filter(pa.array(~first))
        self.first: list[dict[str, Any]] = (chosen if few else _whole(events, chosen, since)).to_pylist()
        self.left = len(rest)
        """How many events wait behind the first ones."""
        self.more: frozenset[str] = frozenset(pc.unique(rest["tenant"]).to_pylist())
        """The tenants that have such."""
        lowest = rest.group_by(["topic", "partition"]).aggregate([("offset", "min")])
        self.next = [{**row, "offset": row["offset_min"]} for row in lowest.to_pylist()]
        """The first of them in each partition: their origins."""


def _waiting(rows: pa.Table, processed: ProcessedOffsets) -> pa.Table:
    """The rows that are not processed, in their order."""
    rows = rows.sort_by(IN_ORDER)
    codes = np.zeros(len(rows), np.int64)
    for name in ("topic", "partition", "tenant"):
        values, own = np.unique(_codes(rows[name]), return_inverse=True)
        codes = codes * max(1, len(values)) + own
    _, places, kinds = np.unique(codes, return_index=True, return_inverse=True)
    named = rows.select(["topic", "partition", "tenant"]).take(pa.array(places)).to_pylist()
    reached = np.array([processed.reached(**row) for row in named], np.int64)
    return rows.filter(pa.array(rows["offset"].to_numpy() >= reached[kinds]))


def _ranks(tenants: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row, how many of the same tenant are before it."""
    codes = _codes(tenants)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - np.searchsorted(ordered, ordered)
    return ranks


def _codes(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A number for each value."""
    codes: np.ndarray[Any, np.dtype[np.int64]] = pc.index_in(column, pc.unique(column)).to_numpy().astype(np.int64)
    return codes


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
