"""Which of the events that wait a pass takes, whatever order their rows have."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as some

from headrace.documents import unparsed
from headrace.documents.processed import ProcessedOffsets
from headrace.documents.unparsed import _ranges, _ranks, _waiting

_SCHEMA = pa.schema([("topic", pa.string()), ("partition", pa.int32()), ("tenant", pa.string()), ("offset", pa.int64())])
_TOPICS, _TENANTS = some.sampled_from(["t", "t@02"]), some.sampled_from(["a", "b", "c"])


def _includes(recorded: dict[str, int], row: dict[str, Any]) -> bool:
    return ProcessedOffsets(recorded).includes(row)


@given(
    some.lists(some.tuples(_TOPICS, some.integers(0, 1), _TENANTS, some.integers(0, 9)), max_size=40, unique=True),
    some.dictionaries(some.sampled_from(["t/0", "t/1", "t@02/0", "t/0/a", "t@02/1/b"]), some.integers(0, 9)),
)
def test_what_waits_is_what_is_not_processed_in_its_order(drawn: list[tuple[Any, ...]], recorded: dict[str, int]) -> None:
    rows = [dict(zip(_SCHEMA.names, row, strict=True)) for row in drawn]
    found = _waiting(pa.Table.from_pylist(rows, _SCHEMA), ProcessedOffsets(recorded))
    origins = [(row["topic"], row["partition"], row["offset"]) for row in found.to_pylist()]
    assert origins == sorted(origins)
    wanted = [row for row in rows if not _includes(recorded, row)]
    assert sorted(found.to_pylist(), key=str) == sorted(wanted, key=str)


@given(some.lists(_TENANTS))
def test_a_rank_is_how_many_of_the_same_tenant_are_before(tenants: list[str]) -> None:
    before, wanted = Counter[str](), []
    for tenant in tenants:
        wanted.append(before[tenant])
        before[tenant] += 1
    assert _ranks(pa.chunked_array([pa.array(tenants, pa.string())])).tolist() == wanted


@given(some.sets(some.integers(0, 300_000), min_size=1, max_size=200))
def test_ranges_hold_the_offsets_and_leave_out_the_widest_gaps(offsets: set[int]) -> None:
    ranges = list(_ranges(np.array(sorted(offsets))))
    assert len(ranges) <= unparsed._RANGES
    assert all(any(low <= offset <= high for low, high in ranges) for offset in offsets)
    assert {end for both in ranges for end in both} <= offsets
    left_out = [following[0] - this[1] for this, following in itertools.pairwise(ranges)]
    assert all(gap > unparsed._GAP for gap in left_out)
