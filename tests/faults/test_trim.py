"""The head is trimmed of what a table holds and of nothing else; and one that was not trimmed is read all the same."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import obstore
import pytest
from confluent_kafka import Consumer, TopicPartition
from events import METER, Events, assert_exactly_once, land, servers, topic
from kafka_wire import DeletingBroker
from lander import EVENT_ROWS, EVENTS
from servers import Servers

from headrace.catalog import FEEDBACK
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import HeadraceError, Unavailable
from headrace.landing import follow as head_follow
from headrace.landing.land import Following
from headrace.landing.trim import Trimmed
from headrace.landing.trim import trim as trim_stage
from headrace.platform.address import HEAD
from headrace.settings import LandingSettings
from headrace.storage import tansu
from headrace.storage.endpoints import Endpoints
from headrace.storage.objects import connect
from headrace.storage.stream import reader as topics
from headrace.storage.stream.topic import Span
from headrace.storage.stream.writer import TopicWriter

pytest_plugins = ["shared"]
__all__ = ["servers"]


def trim(endpoints: Endpoints, tmp_path: Path, keep_s: float = 0.0) -> list[Trimmed]:
    done: list[Trimmed] = Runner(Run("trim", tmp_path), endpoints).run(
        trim_stage.over(topics=[EVENTS], tables=[EVENT_ROWS]), keep_s=keep_s
    )
    return done


def batches(endpoints: Endpoints, partition: int = 0, of: str = EVENTS.name) -> dict[int, str]:
    """First offset → path of the objects in which Tansu keeps a partition."""
    cluster = topic(endpoints).identity().cluster
    records = f"clusters/{cluster}/topics/{of}/partitions/{partition:010}/records"
    return {int(Path(f["path"]).stem): f["path"] for page in obstore.list(connect(endpoints, HEAD), records) for f in page}


def test_a_broker_is_told_to_delete_what_a_table_has_held_for_a_while_and_nothing_else(servers: Servers, tmp_path: Path) -> None:
    broker = DeletingBroker(servers, tmp_path / "tansu.log")
    try:
        endpoints = servers.endpoints.model_copy(update={"kafka_bootstrap": broker.bootstrap, "records": None})
        events = Events(endpoints)
        events.put(30)
        land(endpoints, tmp_path)

        def trimmed(keep_s: float) -> list[tuple[str, int, int]]:
            broker.asked.clear()
            trim(endpoints, tmp_path, keep_s)
            return sorted(broker.asked)

        assert trimmed(60.0) == [], "no snapshot is that old"
        landed = time.time()
        events.put(30)
        land(endpoints, tmp_path)
        events.put(30)  # not landed
        # Up to what the snapshot of that moment holds, though a newer one holds more.
        assert trimmed(time.time() - landed) == [("events", partition, 10) for partition in range(3)]
        # All that has landed but the last record, by which the head is known again.
        assert trimmed(0.0) == [("events", partition, 19) for partition in range(3)]
    finally:
        broker.close()


def test_the_embedded_head_loses_whole_batches_that_have_landed(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    for _ in range(3):
        events.put(30)
    land(endpoints, tmp_path)
    events.put(30)  # not landed
    assert trim(endpoints, tmp_path, 60.0) == [], "no snapshot is that old"
    before = {partition: sorted(batches(endpoints, partition)) for partition in range(3)}
    # The batch of the last landed record stays, by which the head is known again.
    kept = {partition: max(first for first in firsts if first <= 29) for partition, firsts in before.items()}
    run = Run("trim", tmp_path)
    done = Runner(run, endpoints).run(trim_stage.over(topics=[EVENTS], tables=[EVENT_ROWS]), keep_s=0.0)
    assert done == [Trimmed("events", p, low, low) for p, low in kept.items()]
    moved = {row.direction: (row.ops, row.bytes) for row in run.ledger.rows() if row.store == EVENTS.name}
    assert moved["write"][0] >= 6, "each partition's watermark, and its batches deleted"
    assert moved["write"][1] > 0, "what is done where the embedded broker keeps its records counts as the topic's"
    assert {p: sorted(batches(endpoints, p)) for p in kept} == {p: [b for b in before[p] if b >= kept[p]] for p in kept}
    assert {partition: span.low for partition, span in topic(endpoints).spans().items()} == kept
    assert topic(endpoints).record(0, 29) is not None
    servers.kill("head")
    servers.start("head")
    events.put(30)
    assert land(endpoints, tmp_path).total == 60
    assert_exactly_once(endpoints, events)


def test_a_trim_cut_short_leaves_nothing_missing_and_the_next_one_completes_it(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    for _ in range(3):
        events.put(30)
    land(endpoints, tmp_path)
    before = len(batches(endpoints))

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(tansu.obstore, "delete", cut)  # the watermark says so already, and nothing has gone
        with pytest.raises(Cut):
            trim(endpoints, tmp_path)
    assert len(batches(endpoints)) == before
    events.put(30)
    assert land(endpoints, tmp_path).total == 30
    trim(endpoints, tmp_path)
    assert min(batches(endpoints)) == topic(endpoints).spans()[0].low > 0
    assert_exactly_once(endpoints, events)


@pytest.mark.soak(minutes=0.4)
def test_trimming_a_head_that_is_written_to_loses_nothing(servers: Servers, tmp_path: Path) -> None:
    """Tansu replaces the watermark at each batch, and so does the trim: neither may undo what the other wrote."""
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    stop = threading.Event()

    def produce(number: int) -> None:
        writer = TopicWriter(EVENTS, endpoints, METER)
        at = 1_000_000 * number
        while not stop.wait(0.05):
            numbers = range(at, at := at + 20)
            places = writer.append([{"n": n, "text": f"event {n}"} for n in numbers], key="n")
            events.places.update(zip(numbers, places, strict=True))

    trimmed = 0
    with ThreadPoolExecutor(2) as pool:
        producing = [pool.submit(produce, number) for number in range(2)]
        try:
            for _ in range(3):
                land(endpoints, tmp_path)
                trimmed += sum(found.records for found in trim(endpoints, tmp_path))
        finally:
            stop.set()
        for one in producing:
            one.result()
    land(endpoints, tmp_path)
    trim(endpoints, tmp_path)
    assert trimmed > 100
    assert len(set(events.places.values())) == len(events.places)
    assert_exactly_once(endpoints, events)
    assert all(min(batches(endpoints, partition)) == span.low for partition, span in topic(endpoints).spans().items())


def test_a_lander_that_follows_trims_as_it_goes(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: Callable[[float, Callable[[], bool]], bool]
) -> None:
    endpoints = servers.endpoints
    monkeypatch.setattr(head_follow, "_CHORES_S", 0.5)
    following, failures = Following(threading.Event()), list[HeadraceError]()
    verdict = {"answer_id": "a", "tenant": "acme", "user": "ann", "simulated": False, "up": True, "chunk_id": "", "reason": ""}

    def held() -> int:
        return sum(len(batches(endpoints, partition, FEEDBACK.name)) for partition in range(FEEDBACK.partitions))

    with ThreadPoolExecutor(1) as pool:
        landing = pool.submit(
            head_follow.follow,
            Runner(Run("land", tmp_path), endpoints),
            LandingSettings(commit_s=0.2),
            following,
            keep_s=0.0,
            failed=lambda _, error: failures.append(error),
        )
        try:
            writer = TopicWriter(FEEDBACK, endpoints, METER)
            for n in range(40):
                writer.append([{**verdict, "verdict_id": f"v{n}", "correction": "", "at": datetime.now(UTC)}], key="verdict_id")
            assert within(60, lambda: held() <= FEEDBACK.partitions)
        finally:
            following.stop.set()
        assert landing.result().events[FEEDBACK.name] == 40
    assert failures == []


def test_a_store_that_does_not_answer_is_named(servers: Servers, tmp_path: Path) -> None:
    endpoints = servers.endpoints
    Events(endpoints).put(30)
    assert endpoints.records is not None
    away = endpoints.model_copy(update={"records": endpoints.records.model_copy(update={"endpoint": "http://127.0.0.1:9"})})
    with pytest.raises(Unavailable, match=r"object store of the head at http://127\.0\.0\.1:9/headrace-head does not answer"):
        topic(away).forget({0: 5})


@pytest.mark.parametrize(
    ("count", "patience"),
    [
        pytest.param(400, {"_GATHER_MS": (1, 500, 2_000), "_PACE_S": 0.2}, id="small"),
        pytest.param(8_000, {}, marks=pytest.mark.soak(minutes=0.7), id="large"),
    ],
)
def test_a_partition_of_many_batches_is_read_though_the_broker_takes_its_time(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, count: int, patience: dict[str, object]
) -> None:
    """Tansu lists all of them at each fetch, and hands out nothing where that takes longer than it may gather."""
    for name, value in patience.items():
        monkeypatch.setattr(topics, name, value)
    endpoints = servers.endpoints
    made = many_batches(endpoints, count)
    start = made - count // 4
    gather_ms = topics._GATHER_MS[0] if patience else 20
    settings = {"bootstrap.servers": endpoints.kafka_bootstrap, "group.id": "naive", "fetch.wait.max.ms": gather_ms}
    naive = Consumer(settings)
    naive.assign([TopicPartition(EVENTS.name, 0, start)])
    assert naive.consume(1, timeout=5 if not patience else 1) == [], "less than the list takes: nothing, however often it asks"
    naive.close()
    assert [offset for fetched in topic(endpoints).read({0: start}) for offset in fetched.offsets] == list(range(start, made))
    record = topic(endpoints).record(0, made - 1)
    assert record is not None
    assert record.offset == made - 1
    # And what makes it slow is gone once it is trimmed.
    topic(endpoints).forget({0: made - 1})
    assert len(batches(endpoints)) == 1
    assert topic(endpoints).spans()[0] == Span(made - 1, made)


def many_batches(endpoints: Endpoints, count: int) -> int:
    """Have partition 0 hold that many batches of one record each: copies of one that Tansu wrote, named as it names them."""
    TopicWriter(EVENTS, endpoints, METER).append([{"n": 0, "text": "one"}], key="n")
    partition, store = None, connect(endpoints, HEAD)
    for number in range(EVENTS.partitions):
        with contextlib.suppress(StopIteration):
            partition, path = number, next(iter(batches(endpoints, number).values()))
            break
    assert partition is not None
    data = bytes(obstore.get(store, path).bytes())
    into = path.replace(f"/partitions/{partition:010}/", f"/partitions/{0:010}/").rpartition("/")[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda offset: obstore.put(store, f"{into}/{offset:020}.batch", data), range(count)))
    watermark = into.replace("/records", "/watermark.json")
    obstore.put(store, watermark, json.dumps({"low": None, "high": count, "timestamps": None}).encode())
    return count
