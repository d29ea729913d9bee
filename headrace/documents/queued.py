"""The rows of a table that wait for a stage: the first ones of each tenant, which a pass takes, and the others.

Any number may wait, so a pass takes few: it then costs what it does, and not what waits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.documents.processed import ProcessedOffsets
from headrace.documents.versions import IN_ORDER

_TOGETHER, _LEAST = 5_000, 10
"""Rows in a pass, of all tenants together, and of each at least."""


class Queued:
    """Rows that are not processed: `first` has those that a pass takes, in their order; with `every` all of them.

    `rows` have a tenant and an origin, and may be processed or not.
    """

    def __init__(self, rows: pa.Table, processed: ProcessedOffsets, *, every: bool) -> None:
        waiting = not_processed(rows, processed)
        most = max(_LEAST, _TOGETHER // max(1, len(pc.unique(waiting["tenant"]))))
        first = np.full(len(waiting), True) if every else ranks(waiting["tenant"]) < most
        self.first = waiting.filter(pa.array(first))
        self.rest = waiting.filter(pa.array(~first))
        """Those behind the first ones."""
        self.more: frozenset[str] = frozenset(pc.unique(self.rest["tenant"]).to_pylist())
        """The tenants that have such."""
        lowest = self.rest.group_by(["topic", "partition"]).aggregate([("offset", "min")])
        self.next: list[dict[str, Any]] = [{**row, "offset": row["offset_min"]} for row in lowest.to_pylist()]
        """The first of them in each partition: their origins."""


def not_processed(rows: pa.Table, processed: ProcessedOffsets) -> pa.Table:
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


def ranks(tenants: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
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
