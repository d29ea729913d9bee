"""The ledger: percentiles near the truth, ledgers that add up, and what watches see."""

from __future__ import annotations

import json
import pickle
import random
import threading
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import CHUNKS, DOCUMENTS, MODELS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction, Ledger, Row, summed
from headrace.storage.meter import Meter, ReportedReader

SECONDS = st.floats(min_value=1e-4, max_value=100.0)


def filled(latencies: list[float], size: int = 10) -> Ledger:
    ledger = Ledger()
    for seconds in latencies:
        ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=size, seconds=seconds)
    return ledger


def rank(latencies: list[float], share: Fraction) -> float:
    """The nearest-rank percentile in milliseconds."""
    return sorted(latencies)[ceil(share * len(latencies)) - 1] * 1e3


@given(st.lists(SECONDS, min_size=1, max_size=200))
def test_percentiles_are_never_below_the_truth_and_at_most_a_tenth_above(latencies: list[float]) -> None:
    (row,) = filled(latencies).rows()
    for shown, share in ((row.p50_ms, Fraction(1, 2)), (row.p95_ms, Fraction(95, 100))):
        true = rank(latencies, share)
        assert true - 0.001 <= shown <= 1.1 * true + 0.001
    assert row.max_ms == pytest.approx(max(latencies) * 1e3, abs=0.001)
    assert row.p50_ms <= row.p95_ms <= row.max_ms
    assert (row.ops, row.bytes) == (len(latencies), 10 * len(latencies))


@given(st.lists(SECONDS, min_size=1, max_size=50), st.lists(SECONDS, max_size=50))
def test_a_ledger_folded_into_another_is_as_if_counted_there(ours: list[float], theirs: list[float]) -> None:
    ledger = filled(ours)
    ledger.fold(json.loads(json.dumps(filled(theirs).export())))
    assert ledger.rows() == filled(ours + theirs).rows()


@st.composite
def operations_of_workers(draw: st.DrawFn) -> list[tuple[int, dict[str, Any] | None]]:
    """Operations of up to four workers in the order in which they happen; `None` in place of one is where a worker reports."""
    operation = st.fixed_dictionaries(
        {
            "stage": st.sampled_from(["embed", "finetune"]),
            "store": st.sampled_from([DOCUMENTS, CHUNKS]),
            "direction": st.sampled_from(list(Direction)),
            "bytes": st.integers(0, 1 << 40),
            "seconds": SECONDS,
            "ops": st.integers(1, 9),
            "tenant": st.sampled_from(["", "acme"]),
            "estimated": st.booleans(),
        }
    )
    return draw(st.lists(st.tuples(st.integers(0, 3), st.none() | operation), max_size=60))


@given(operations_of_workers(), st.randoms(use_true_random=False))
def test_the_ledgers_of_workers_merge_exactly_into_what_one_ledger_counts(
    happened: list[tuple[int, dict[str, Any] | None]], dice: random.Random
) -> None:
    """Each report has all that a worker has counted, so the last one stands for it; what came after that died with the worker."""
    workers: dict[int, Ledger] = {}
    reports: dict[int, list[dict[str, Any]]] = {}
    unreported: dict[int, list[dict[str, Any]]] = {}
    whole = Ledger()
    for number, operation in happened:
        worker = workers.setdefault(number, pickle.loads(pickle.dumps(whole)))
        if operation is not None:
            worker.count(**operation)
            unreported.setdefault(number, []).append(operation)
            continue
        reports[number] = pickle.loads(pickle.dumps(worker.export()))
        for reported in unreported.pop(number, []):
            whole.count(**reported)
    merged, order = Ledger(), list(reports.values())
    dice.shuffle(order)
    for report in order:
        merged.fold(report)
    assert sorted(merged.rows(), key=repr) == sorted(whole.rows(), key=repr)


def test_operations_counted_together_weigh_as_if_each_was_counted() -> None:
    """99 operations of 1 ms in one call and one of 1 s: half of a hundred, and 95 of them, took a millisecond."""
    ledger = Ledger()
    ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=990, seconds=0.001, ops=99)
    ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=10, seconds=1.0)
    assert ledger.rows() == filled([0.001] * 99 + [1.0]).rows()
    (row,) = ledger.rows()
    assert row.p50_ms == row.p95_ms == pytest.approx(1, rel=0.1)
    assert (row.ops, row.bytes, row.max_ms) == (100, 1000, 1000.0)


def test_the_slowest_of_operations_counted_together_is_as_slow_as_each_of_them() -> None:
    ledger = Ledger()
    ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=10, seconds=0.5, ops=8)
    (row,) = ledger.rows()
    assert row.max_ms == 500.0
    assert row.p95_ms == 500.0, "no percentile is above the slowest"


@pytest.mark.parametrize(("slow", "p95"), [(5, 0.001), (6, 1.0)])
def test_the_95th_percentile_is_the_least_that_95_of_100_do_not_exceed(slow: int, p95: float) -> None:
    (row,) = filled([0.001] * (100 - slow) + [1.0] * slow).rows()
    assert row.p95_ms == pytest.approx(p95 * 1e3, rel=0.1)


def test_a_watch_and_another_ledger_get_a_batch_as_it_was_counted() -> None:
    own, watch, other = Ledger(), Ledger(), Ledger()
    with watch.watched():
        Meter(own, "put").count(DOCUMENTS, Direction.WRITE, bytes=990, seconds=0.001, ops=99, estimated=True)
        with Meter(own, "put").operation(CHUNKS, Direction.READ) as operation:
            operation.ops, operation.bytes = 7, 21
    other.fold(own.export())
    assert own.rows() == watch.rows() == other.rows()
    assert [(row.store, row.ops, row.bytes, row.estimated) for row in own.rows()] == [
        ("documents", 99, 990, True),
        ("chunks", 7, 21, False),
    ]


def test_folding_renames_the_stage_and_tenant_where_asked() -> None:
    ledger = Ledger()
    ledger.fold(filled([0.1]).export(), stage="rerank", tenant="acme")
    assert [(row.stage, row.tenant) for row in ledger.rows()] == [("rerank", "acme")]


def test_rows_are_kept_apart_by_everything_they_name() -> None:
    ledger = Ledger()
    for stage in ("a", "b"):
        for store in (DOCUMENTS, CHUNKS):
            for direction in Direction:
                for tenant in ("x", "y"):
                    for estimated in (True, False):
                        meter = Meter(ledger, stage, tenant)
                        meter.count(store, direction, bytes=1, seconds=0.001, estimated=estimated)
    rows = ledger.rows()
    assert len(rows) == 32
    assert len({(r.stage, r.store, r.tier, r.direction, r.tenant, r.estimated) for r in rows}) == 32
    assert all((row.ops, row.bytes) == (1, 1) for row in rows)


@given(st.lists(SECONDS, min_size=1, max_size=60), st.lists(SECONDS, min_size=1, max_size=60))
def test_a_sums_percentiles_are_those_of_all_its_operations(quick: list[float], slow: list[float]) -> None:
    """Not the larger of two rows' percentiles, nor their mean: those of the operations taken together."""
    ledger = Ledger()
    for stage, tenant, latencies in (("a", "x", quick), ("b", "y", slow)):
        for seconds in latencies:
            ledger.count(stage, DOCUMENTS, Direction.WRITE, bytes=10, seconds=seconds, tenant=tenant)
    (row,) = summed(json.loads(json.dumps(ledger.export())), by=("tier",))
    assert {name: row[name] for name in ("stage", "store", "tier", "direction", "tenant")} == {
        "stage": "",
        "store": "",
        "tier": "object",
        "direction": "write",
        "tenant": "",
    }
    (together,) = filled(quick + slow).rows()
    assert all(row[name] == getattr(together, name) for name in ("ops", "bytes", "p50_ms", "p95_ms", "max_ms"))


def test_what_is_added_up_is_kept_apart_by_direction_and_marked_where_a_part_is_estimated() -> None:
    ledger = Ledger()
    ledger.count("a", DOCUMENTS, Direction.WRITE, bytes=1, seconds=0.1, tenant="x")
    ledger.count("a", MODELS, Direction.WRITE, bytes=2, seconds=0.1, tenant="y", estimated=True)
    ledger.count("b", CHUNKS, Direction.READ, bytes=4, seconds=0.1, tenant="x")

    def by(*names: str) -> set[tuple[object, ...]]:
        rows = summed(ledger.export(), by=names)
        assert all(set(row) == set(Row.__dataclass_fields__) for row in rows), "the keys of a row"
        return {(*(row[name] for name in names), row["direction"], row["ops"], row["bytes"], row["estimated"]) for row in rows}

    assert by("tier") == {("object", "write", 2, 3, True), ("vector", "read", 1, 4, False)}
    assert by("stage") == {("a", "write", 2, 3, True), ("b", "read", 1, 4, False)}
    assert by("tenant") == {("x", "write", 1, 1, False), ("y", "write", 1, 2, True), ("x", "read", 1, 4, False)}
    assert by("stage", "store") == {
        ("a", "documents", "write", 1, 1, False),
        ("a", "models", "write", 1, 2, True),
        ("b", "chunks", "read", 1, 4, False),
    }
    assert summed([], by=("tier",)) == []


def test_a_watching_ledger_counts_what_moves_in_the_block_and_only_that() -> None:
    own, watch, other = Ledger(), Ledger(), filled([0.1], size=7)
    own.count("put", DOCUMENTS, Direction.WRITE, bytes=1, seconds=0.1)
    with watch.watched():
        own.count("put", DOCUMENTS, Direction.WRITE, bytes=2, seconds=0.1)
        own.fold(other.export())
    own.count("put", DOCUMENTS, Direction.WRITE, bytes=4, seconds=0.1)
    assert total(own.rows()) == (4, 14)
    assert total(watch.rows()) == (2, 9)


def test_a_watch_ends_with_its_block_even_when_that_raises() -> None:
    own, watch = Ledger(), Ledger()
    with pytest.raises(RuntimeError), watch.watched():
        raise RuntimeError
    own.count("put", DOCUMENTS, Direction.WRITE, bytes=2, seconds=0.1)
    assert watch.rows() == []


def test_a_watch_of_one_thread_does_not_see_another() -> None:
    own, watch = Ledger(), Ledger()
    with watch.watched():
        thread = threading.Thread(target=lambda: own.count("a", DOCUMENTS, Direction.READ, bytes=3, seconds=0.1))
        thread.start()
        thread.join()
    assert total(own.rows()) == (1, 3)
    assert watch.rows() == []


def test_threads_lose_nothing() -> None:
    ledger = Ledger()

    def work(name: str) -> None:
        meter = Meter(ledger, name)
        for _ in range(2000):
            meter.count(DOCUMENTS, Direction.READ, bytes=3, seconds=0.001)
            ledger.count("shared", DOCUMENTS, Direction.READ, bytes=2, seconds=0.002)

    threads = [threading.Thread(target=work, args=(f"stage{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = {row.stage: (row.ops, row.bytes) for row in ledger.rows()}
    assert rows.pop("shared") == (8000, 16000)
    assert rows == {f"stage{n}": (2000, 6000) for n in range(4)}


def test_an_operation_that_fails_is_counted_all_the_same() -> None:
    ledger = Ledger()

    def fail() -> None:
        with Meter(ledger, "put", "acme").operation(DOCUMENTS, Direction.WRITE) as operation:
            operation.bytes = 5
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    (row,) = ledger.rows()
    assert (row.stage, row.tenant, row.ops, row.bytes) == ("put", "acme", 1, 5)


def test_what_a_server_reports_is_taken_for_its_own_store_only() -> None:
    server, ledger = Ledger(), Ledger()
    server.count("server", MODELS, Direction.READ, bytes=90, seconds=0.2)
    server.count("server", DOCUMENTS, Direction.READ, bytes=1, seconds=0.2)
    endpoints = Endpoints.model_construct()
    ReportedReader(MODELS, endpoints, Meter(ledger, "rerank", "acme")).take(server.export())
    assert [(r.stage, r.store, r.tenant, r.bytes) for r in ledger.rows()] == [("rerank", "models", "acme", 90)]


def total(rows: list[Row]) -> tuple[int, int]:
    return sum(row.ops for row in rows), sum(row.bytes for row in rows)


COUNTS = st.tuples(st.sampled_from(["put", "land"]), st.sampled_from([DOCUMENTS, MODELS]), st.sampled_from("abc"), SECONDS)


@given(st.lists(COUNTS, max_size=40), st.booleans())
def test_the_counts_of_all_tenants_together_are_the_sums_of_theirs(
    counts: list[tuple[str, Any, str, float]], folded: bool
) -> None:
    """By these a page shows, each second, what moves, and does not go through a thousand tenants for it."""
    ledger = Ledger()
    for stage, store, tenant, seconds in counts:
        ledger.count(stage, store, Direction.READ, bytes=7, seconds=seconds, tenant=tenant)
    if folded:
        other, ledger = ledger, Ledger()
        ledger.fold(other.export())
    together = [row.as_dict() for row in ledger.rows(by_tenant=False)]
    assert together == summed(ledger.export(), by=("stage", "store", "tier"))
    assert together == summed(ledger.export(by_tenant=False), by=("stage", "store", "tier"))
    rows = summed(ledger.export(), by=("tier", "tenant"))
    assert ledger.bytes_by_tenant() == {(row["tier"], row["direction"], row["tenant"]): row["bytes"] for row in rows}
