"""Which of the rows that wait a pass takes, whatever order they have."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as some

from headrace.documents.processed import ProcessedOffsets
from headrace.documents.queued import not_processed, ranks

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
    found = not_processed(pa.Table.from_pylist(rows, _SCHEMA), ProcessedOffsets(recorded))
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
    assert ranks(pa.chunked_array([pa.array(tenants, pa.string())])).tolist() == wanted
