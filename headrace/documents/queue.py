"""The queue of a stage over a table: how far events are processed, which tenant is next, and the rows of a pass.

Tenants take turns, so one may be ahead of others in a partition. Any number of rows may wait, so a pass takes the first ones of
each tenant: it costs what it does, and not what waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, EqualTo, GreaterThanOrEqual, NotIn, Or

from headrace.documents.versions import IN_ORDER

PROCESSED_OFFSETS = "processed_offsets"
FORGETTINGS = "forgettings"
"""The property that counts how often a document was forgotten: a pass that began before commits nothing that it read by then."""
"""The snapshot property that holds `ProcessedOffsets`."""
_Predicate = Callable[[str, Any], BooleanExpression]
_equal, _at_least, _not_in = (cast("_Predicate", one) for one in (EqualTo, GreaterThanOrEqual, NotIn))
_AHEAD = 200  # tenants at most: every snapshot of the table notes how far each of them is


class ProcessedOffsets:
    """For each partition the offset below which all events are processed, and how far those tenants are that are ahead of it.

    As a snapshot property: `topic/partition` → offset, and `topic/partition/tenant` → offset for each tenant that is ahead. Each
    tenant's own events are processed in their order.
    """

    def __init__(self, recorded: Mapping[str, int] | None = None) -> None:
        self.floors: dict[str, int] = {}
        self._ahead: dict[tuple[str, str], int] = {}
        for name, offset in (recorded or {}).items():
            topic, partition, *tenant = name.split("/", 2)
            if tenant:
                self._ahead[f"{topic}/{partition}", tenant[0]] = offset
            else:
                self.floors[name] = offset

    def as_property(self) -> dict[str, int]:
        """The offsets as the JSON value of the snapshot property."""
        return self.floors | {f"{partition}/{tenant}": offset for (partition, tenant), offset in self._ahead.items()}

    def ahead(self) -> set[str]:
        """The tenants that are ahead of others."""
        return {tenant for _, tenant in self._ahead}

    def reached(self, topic: str, partition: int, tenant: str) -> int:
        """The offset below which a tenant's events are processed."""
        name = f"{topic}/{partition}"
        return max(self.floors.get(name, 0), self._ahead.get((name, tenant), 0))

    def includes(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is processed; as everywhere here, a row with its origin and tenant will do."""
        reached = self.reached(event["topic"], event["partition"], event["tenant"])
        return bool(event["offset"] < reached)

    def add(self, event: Mapping[str, Any]) -> None:
        """Note that a tenant's next event is processed."""
        self._ahead[partition_name(event), event["tenant"]] = event["offset"] + 1

    def settle(
        self,
        done: Iterable[Mapping[str, Any]],
        waiting: Iterable[Mapping[str, Any]],
        most: Mapping[str, int] | None = None,
    ) -> None:
        """Raise each partition past what is `done`, to its first `waiting` event, and drop tenants that are not ahead of it.

        Of what is done the last event of each partition will do, of what waits the first.

        With `most`, no partition is raised beyond what that says, and none that it does not name.
        """
        floors = dict(self.floors)
        for partition, offset in (
            *((partition, offset) for (partition, _), offset in self._ahead.items()),
            *((partition_name(event), event["offset"] + 1) for event in done),
        ):
            floors[partition] = max(floors.get(partition, 0), offset)
        for event in waiting:
            floors[partition_name(event)] = min(floors.get(partition_name(event), 0), event["offset"])
        for partition, offset in floors.items():
            if most is None or partition in most:
                reached = offset if most is None else min(offset, most[partition])
                self.floors[partition] = max(self.floors.get(partition, 0), reached)
        self._ahead = {name: offset for name, offset in self._ahead.items() if offset > self.floors.get(name[0], 0)}

    def newest_epoch(self, topic: str) -> ProcessedOffsets:
        """Those of a topic under its plain name; where it was made anew (`topic@02`), of its newest epoch."""
        recorded = self.as_property()
        newest: dict[str, str] = {}
        for name in sorted(recorded):
            own, partition = name.split("/", 2)[:2]
            if own.partition("@")[0] == topic:
                newest[partition] = own
        kept = {name: offset for name, offset in recorded.items() if newest.get(name.split("/", 2)[1]) == name.split("/", 1)[0]}
        return ProcessedOffsets({f"{topic}/{name.partition('/')[2]}": offset for name, offset in kept.items()})


def partition_name(event: Mapping[str, Any]) -> str:
    """The partition of an event, as `ProcessedOffsets` names it."""
    return f"{event['topic']}/{event['partition']}"


def not_before(floors: Mapping[str, int]) -> BooleanExpression:
    """The condition that rows with an origin are not below the offsets of their partitions; partitions not named begin at 0.

    An expression and not SQL, whose parsing takes longer than a small table's scan.
    """
    partitions: dict[str, dict[int, int]] = {}
    for name, offset in floors.items():
        topic, partition = name.rsplit("/", 1)
        partitions.setdefault(topic, {})[int(partition)] = offset
    if not partitions:
        return AlwaysTrue()
    found = _not_in("topic", partitions.keys())
    for topic, offsets in partitions.items():
        own = _not_in("partition", offsets.keys())
        for number, offset in offsets.items():
            own = Or(own, And(_equal("partition", number), _at_least("offset", offset)))
        found = Or(found, And(_equal("topic", topic), own))
    return found


class EventQueue:
    """Events in their order, partition by partition; iterating takes them out."""

    def __init__(self, ordered: Iterable[dict[str, Any]]) -> None:
        self._partitions = deque(deque(events) for _, events in groupby(ordered, partition_name))

    def __len__(self) -> int:
        return sum(map(len, self._partitions))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self._partitions:
            event = self._partitions[0].popleft()
            if not self._partitions[0]:
                self._partitions.popleft()
            yield event

    def peek(self, count: int) -> list[dict[str, Any]]:
        """The next events, at most so many; they stay."""
        return list(islice(chain.from_iterable(self._partitions), count))

    def first(self) -> list[dict[str, Any]]:
        """The first event of each partition that has some left."""
        return [events[0] for events in self._partitions]


class Turns:
    """Whose turn it is: the tenant's whose documents have taken the least time, so that slow ones hold up their own tenant.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant that was idle has not saved up turns.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._now = 0.0

    def next(self, waiting: Sequence[str]) -> str:
        """The tenant among these whose turn it is; ties go to the first."""
        begins = {tenant: max(self._until.get(tenant, 0.0), self._now) for tenant in waiting}
        chosen = min(begins, key=begins.__getitem__)
        self._now = begins[chosen]
        self._until = {tenant: until for tenant, until in self._until.items() if until > self._now}
        return chosen

    def took(self, tenant: str, seconds: float) -> None:
        """Note how long the document of the tenant took whose turn it was; beside other notes, that it took so much longer."""
        self._until[tenant] = max(self._until.get(tenant, 0.0), self._now) + seconds


def whose_turn(waiting: Collection[str], ahead: Collection[str]) -> list[str]:
    """The tenants that take turns until all of theirs is done; `waiting` begins with the one that has waited longest.

    The others are ahead of that one as soon as they had a turn, and the table notes how far. No more than `_AHEAD` may be.
    """
    first, *others = waiting
    others.sort(key=lambda tenant: tenant not in ahead)
    finished = len(set(ahead) - set(waiting))
    return [first, *others[: max(0, _AHEAD - finished)]]


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
