"""The time of stages: unions of intervals, bounded spans, and what a stage's own thread waited for."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import CHUNKS, DOCUMENTS
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.timeline import AHEAD, SPANS, Intervals, Timeline


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def only(timeline: Timeline) -> dict[str, object]:
    (stage,) = timeline.export()
    return stage


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=50))
def test_a_union_counts_what_overlaps_once(pairs: list[tuple[int, int]]) -> None:
    ends = sorted((max(pair), min(pair)) for pair in pairs)
    union = Intervals()
    for end, start in ends:
        union.add(float(start), float(end))
    covered = {second for end, start in ends for second in range(start, end)}
    assert union.seconds == len(covered)


def test_a_union_of_many_parts_stays_small_and_exact() -> None:
    union = Intervals()
    for at in range(10_000):
        union.add(at * 2.0, at * 2.0 + 1)
    assert union.seconds == 10_000
    assert len(union._parts) <= 64


def test_an_interval_that_is_counted_late_is_in_the_union() -> None:
    union = Intervals()
    union.add(5, 6)
    union.add(1, 2)
    union.add(1.5, 5.5)
    assert union.seconds == 5


def test_a_stage_at_work_with_storage_for_a_part_of_it(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.span("put", AHEAD):
        clock.now += 3
        timeline.counted("put", "object", 2.0)
        clock.now += 1
    stage = only(timeline)
    assert stage == {
        "stage": "put",
        "phase": "ahead of time",
        "calls": 1,
        "active_s": 4.0,
        "waited_s": 2.0,
        "storage_s": 2.0,
        "tiers": {"object": 2.0},
        "spans": [[0.0, 4.0, 1, 2.0, 4.0]],
    }


def test_operations_at_once_are_one_stretch_of_time_and_each_tier_has_its_own(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.span("put"):
        clock.now += 4
        timeline.counted("put", "object", 3.0)
        timeline.counted("put", "table", 4.0)
    stage = only(timeline)
    assert (stage["storage_s"], stage["tiers"]) == (4.0, {"object": 3.0, "table": 4.0})


def test_another_threads_operations_are_not_what_the_stage_waited_for(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.span("finetune"):
        clock.now += 5
        other = threading.Thread(target=timeline.counted, args=("finetune", "object", 2.0))
        other.start()
        other.join()
    stage = only(timeline)
    assert (stage["waited_s"], stage["storage_s"], stage["active_s"]) == (0.0, 2.0, 5.0)


def test_components_that_are_no_stages_have_no_time(clock: Clock) -> None:
    timeline = Timeline(clock)
    timeline.counted("page", "vector", 1.0)
    assert timeline.export() == []


def test_spans_stay_few_and_the_nearest_are_joined(clock: Clock) -> None:
    timeline = Timeline(clock)
    for call in range(1000):
        clock.now += 50 if call == 500 else 1
        with timeline.span("retrieve"):
            clock.now += 0.5
            timeline.counted("retrieve", "vector", 0.25)
    stage = only(timeline)
    spans = stage["spans"]
    assert isinstance(spans, list)
    assert len(spans) == SPANS
    assert sum(calls for _, _, calls, *_ in spans) == stage["calls"] == 1000
    assert sum(stored for _, _, _, stored, _ in spans) == pytest.approx(250)
    assert stage["active_s"] == pytest.approx(500)
    assert sum(active for *_, active in spans) == pytest.approx(500), "without the gaps between joined calls"
    assert sum(end - start for start, end, *_ in spans) > 1000
    gaps = [two[0] - one[1] for one, two in pairwise(spans)]
    assert max(gaps) == pytest.approx(50), "the long pause is kept"


def test_calls_at_once_that_are_joined_were_at_work_once(clock: Clock) -> None:
    timeline = Timeline(clock)
    for _ in range(SPANS - 4):
        with timeline.span("embed"):
            clock.now += 1
            with timeline.span("embed"):
                clock.now += 2
        clock.now += 10
    stage = only(timeline)
    spans = stage["spans"]
    assert isinstance(spans, list)
    assert len(spans) == SPANS
    joined = [(end - start, active) for start, end, calls, _, active in spans if calls > 1]
    assert joined
    assert all(active == pytest.approx(long) for long, active in joined), "the inner call is within the outer one"


def test_a_call_under_way_counts_up_to_now(clock: Clock) -> None:
    timeline = Timeline(clock)
    with timeline.span("land"):
        clock.now += 7
        assert (only(timeline)["active_s"], only(timeline)["spans"]) == (7.0, [[0.0, 7.0, 1, 0.0, 7.0]])


def test_a_stage_that_raises_was_at_work(clock: Clock) -> None:
    timeline = Timeline(clock)

    def fail() -> None:
        with timeline.span("put"):
            clock.now += 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert only(timeline)["active_s"] == 2.0


def test_a_ledger_feeds_its_timeline_and_folded_operations_too() -> None:
    ledger, remote = Ledger(), Ledger()
    remote.count("train", CHUNKS, Direction.READ, bytes=1, seconds=0.5, ops=2)
    remote.count("train", CHUNKS, Direction.READ, bytes=1, seconds=0.25)
    with ledger.timeline.span("finetune"):
        ledger.count("finetune", DOCUMENTS, Direction.WRITE, bytes=1, seconds=0.0)
        ledger.fold(remote.export(), stage="finetune")
    (stage,) = ledger.timeline.export()
    assert stage["tiers"].keys() == {"object", "vector"}
    assert remote.export()[0]["seconds"] == 0.75


def test_entries_of_an_older_version_have_no_seconds() -> None:
    ledger = Ledger()
    ledger.count("put", DOCUMENTS, Direction.WRITE, bytes=1, seconds=0.5)
    entries = [{name: value for name, value in entry.items() if name != "seconds"} for entry in ledger.export()]
    other = Ledger()
    other.fold(entries)
    assert other.export()[0]["seconds"] == 0.0
