"""Whose chunks are embedded when: tenants in turn, and a pass that may end between two rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pyarrow as pa

from headrace.documents.embed import _BATCH_ROWS, FairBatches


def chunks(**of: int) -> pa.Table:
    """So many chunks of each tenant, of one document each."""
    rows = [
        {"tenant": tenant, "document_id": f"{tenant}'s", "text": f"{n}"} for tenant, count in of.items() for n in range(count)
    ]
    return pa.Table.from_pylist(rows)


def tenants(fair: FairBatches) -> list[str]:
    """Whose each batch is."""
    whose = [set(batch.column("tenant").to_pylist()) for batch in fair]
    assert all(len(one) == 1 for one in whose), "a batch is of one tenant"
    return [one.pop() for one in whose]


def left(fair: FairBatches) -> set[str]:
    """The documents with chunks in no batch."""
    return set(fair.rest()["document_id"].to_pylist())


def test_tenants_take_turns_whoever_has_most() -> None:
    fair = FairBatches(chunks(large=10 * _BATCH_ROWS, small=1, middle=2 * _BATCH_ROWS))
    assert tenants(fair) == ["small", "middle", "large", "middle", "large", *["large"] * 8]
    assert fair.rest().num_rows == 0


def test_no_chunk_is_lost_or_doubled() -> None:
    table = chunks(a=3 * _BATCH_ROWS + 5, b=_BATCH_ROWS, c=7)
    given = [row for batch in FairBatches(table) for row in batch.to_pylist()]
    assert Counter(map(str, given)) == Counter(map(str, table.to_pylist()))
    assert list(FairBatches(table.slice(0, 0))) == []


def test_a_pass_ends_once_somebody_is_done() -> None:
    fair = FairBatches(chunks(large=10 * _BATCH_ROWS, small=1), lambda _: False)
    assert tenants(fair) == ["small", "large"], "the round is made whole"
    assert left(fair) == {"large's"}
    assert tenants(FairBatches(chunks(large=5 * _BATCH_ROWS), lambda _: False)) == ["large"] * 5, "alone it goes on"


def test_a_pass_gives_way_to_a_newcomer_after_a_whole_round() -> None:
    asked: list[set[str]] = []

    def arrived(waiting: Collection[str]) -> bool:
        asked.append(set(waiting))
        return len(asked) == 2

    fair = FairBatches(chunks(one=10 * _BATCH_ROWS, other=9 * _BATCH_ROWS), arrived)
    assert tenants(fair) == ["other", "one"] * 2
    assert asked == [{"one", "other"}] * 2
    assert left(fair) == {"one's", "other's"}
    # Somebody who puts something all the time: each pass still takes a batch of everybody.
    table, passes = chunks(one=3 * _BATCH_ROWS, other=2 * _BATCH_ROWS), 0
    while table.num_rows:
        fair = FairBatches(table, lambda _: True)
        given = {row["tenant"] + row["text"] for batch in fair for row in batch.to_pylist()}
        rest = [row for row in table.to_pylist() if row["tenant"] + row["text"] not in given]
        table = fair.rest()
        assert Counter(map(str, table.to_pylist())) == Counter(map(str, rest))
        passes += 1
    assert passes == 3
