"""Offsets of tenants that take turns, and rows that wait: nothing that waits is ever taken for processed, whatever the order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.expressions.visitors import bind
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids, expression_to_pyarrow
from pyiceberg.schema import assign_fresh_schema_ids

from headrace.catalog import DOCUMENT_EVENT_ROWS
from headrace.documents.queue import EventQueue, ProcessedOffsets, not_before, not_processed, ranks


def event(offset: int, tenant: str = "acme", partition: int = 0, topic: str = "document-events") -> dict[str, Any]:
    return {"topic": topic, "partition": partition, "offset": offset, "tenant": tenant}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), max_size=20),
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30),
)
def test_what_is_processed_is_known_and_what_waits_is_not(landed: list[tuple[str, int]], turns: list[tuple[str, bool]]) -> None:
    events = [event(n, tenant, partition) for n, (tenant, partition) in enumerate(landed)]
    events.sort(key=lambda one: (one["partition"], one["offset"]))
    queues = {tenant: EventQueue([one for one in events if one["tenant"] == tenant]) for tenant in "abc"}
    offsets, done = ProcessedOffsets(), []
    for tenant, commits in turns:
        for one in queues[tenant]:
            offsets.add(one)
            done.append(one)
            break
        if commits:
            offsets.settle((), (first for queue in queues.values() for first in queue.first()))
            offsets = ProcessedOffsets(offsets.as_property())  # as the next pass reads them
        assert [offsets.includes(one) for one in events] == [one in done for one in events]
    for queue in queues.values():
        for one in queue:
            offsets.add(one)
    offsets.settle((), ())
    assert not offsets.ahead()
    assert all(offsets.includes(one) for one in events)


def test_no_partition_is_raised_beyond_what_is_parsed() -> None:
    offsets = ProcessedOffsets({"document-events/0": 2})
    for one in (event(2, "a"), event(5, "b")):
        offsets.add(one)
    offsets.settle([event(2, "a"), event(5, "b"), event(7, "c")], [], {"document-events/0": 3})
    assert offsets.as_property() == {"document-events/0": 3, "document-events/0/b": 6}
    offsets.settle([event(0, "a", partition=1)], [], {"document-events/0": 3})
    assert offsets.floors == {"document-events/0": 3}, "nothing is parsed of the other partition yet"


def test_a_topic_that_was_made_anew_counts_from_its_newest_epoch() -> None:
    recorded = {
        "document-events/0": 90,
        "document-events@02/0": 3,
        "document-events@02/0/a/b": 5,
        "document-events/1": 4,
        "other/0": 7,
    }
    newest = ProcessedOffsets(recorded).newest_epoch("document-events")
    reached = [newest.reached("document-events", partition, tenant) for partition, tenant in ((0, "a"), (0, "a/b"), (1, "a"))]
    assert reached == [3, 5, 4]
    assert ProcessedOffsets(recorded).as_property() == recorded


@given(
    st.dictionaries(st.tuples(st.sampled_from(["head", "head@02", "it's"]), st.integers(0, 2)), st.integers(0, 9), max_size=5),
    st.lists(st.tuples(st.sampled_from(["head", "head@02", "it's"]), st.integers(0, 2), st.integers(0, 9)), max_size=20),
)
def test_rows_below_the_offset_of_their_partition_are_left_out(
    floors: dict[tuple[str, int], int], origins: list[tuple[str, int, int]]
) -> None:
    schema = pa.schema([DOCUMENT_EVENT_ROWS.columns.field(name) for name in ("topic", "partition", "offset")])
    rows = pa.RecordBatch.from_pylist([dict(zip(schema.names, origin, strict=True)) for origin in origins], schema)
    where = not_before({f"{topic}/{partition}": offset for (topic, partition), offset in floors.items()})
    iceberg = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(schema))
    condition = expression_to_pyarrow(bind(iceberg, where, case_sensitive=True))
    found = pa.Table.from_batches([rows]).filter(condition).to_pylist()
    assert [tuple(row.values()) for row in found] == [origin for origin in origins if origin[2] >= floors.get(origin[:2], 0)]


_SCHEMA = pa.schema([("topic", pa.string()), ("partition", pa.int32()), ("tenant", pa.string()), ("offset", pa.int64())])
_TOPICS, _TENANTS = st.sampled_from(["t", "t@02"]), st.sampled_from(["a", "b", "c"])


def _includes(recorded: dict[str, int], row: dict[str, Any]) -> bool:
    return ProcessedOffsets(recorded).includes(row)


@given(
    st.lists(st.tuples(_TOPICS, st.integers(0, 1), _TENANTS, st.integers(0, 9)), max_size=40, unique=True),
    st.dictionaries(st.sampled_from(["t/0", "t/1", "t@02/0", "t/0/a", "t@02/1/b"]), st.integers(0, 9)),
)
def test_what_waits_is_what_is_not_processed_in_its_order(drawn: list[tuple[Any, ...]], recorded: dict[str, int]) -> None:
    rows = [dict(zip(_SCHEMA.names, row, strict=True)) for row in drawn]
    found = not_processed(pa.Table.from_pylist(rows, _SCHEMA), ProcessedOffsets(recorded))
    origins = [(row["topic"], row["partition"], row["offset"]) for row in found.to_pylist()]
    assert origins == sorted(origins)
    wanted = [row for row in rows if not _includes(recorded, row)]
    assert sorted(found.to_pylist(), key=str) == sorted(wanted, key=str)


@given(st.lists(_TENANTS))
def test_a_rank_is_how_many_of_the_same_tenant_are_before(tenants: list[str]) -> None:
    before, wanted = Counter[str](), []
    for tenant in tenants:
        wanted.append(before[tenant])
        before[tenant] += 1
    assert ranks(pa.chunked_array([pa.array(tenants, pa.string())])).tolist() == wanted


def test_what_comes_next_can_be_seen_without_taking_it() -> None:
    queue = EventQueue([event(0), event(1), event(5, partition=1)])
    assert [one["offset"] for one in queue.peek(2)] == [0, 1]
    assert [one["offset"] for one in queue.peek(9)] == [0, 1, 5]
    assert [one["offset"] for one in queue] == [0, 1, 5]
    assert queue.peek(1) == []
