"""Exactly once, whatever dies: every acknowledged event is in its table once, checked by (topic, partition, offset).

The bugs that others shipped between Kafka and Iceberg each have a test here; a naive lander on a consumer group is kept as the
counter-example that has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from lander import EVENT_ROWS, EVENTS, land_events
from servers import Servers
from wire import wire

from headrace.catalog import DEAD_LETTERS, REFUSALS, Store
from headrace.errors import WrongUsage
from headrace.head.accept import acceptance
from headrace.head.land import Landed, landing
from headrace.head.position import positions
from headrace.head.reland import relanding
from headrace.pipeline.run import Run
from headrace.pipeline.runner import Runner
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.tables import TableReader, TableWriter
from headrace.storage.topics import TopicReader

accept_events = acceptance({EVENTS: EVENT_ROWS})
Place = tuple[str, int, int]


@pytest.fixture(scope="module")
def module_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


@pytest.fixture
def servers(module_servers: Servers) -> Servers:
    """The module's servers, without the topic and the tables of the test before."""
    endpoints = module_servers.endpoints
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    with contextlib.suppress(Exception):
        admin.delete_topics([EVENTS.name])[EVENTS.name].result(10)
    catalog = TableReader(EVENT_ROWS, endpoints, Meter(Ledger(), "test")).format._connect()  # type: ignore[attr-defined]
    for store in (EVENT_ROWS, REFUSALS, DEAD_LETTERS):
        with contextlib.suppress(Exception):
            catalog.drop_table(("headrace", store.table))
    TopicReader(EVENTS, endpoints, Meter(Ledger(), "test")).ensure()
    return module_servers


class Events:
    """Puts numbered events on the topic and remembers which the broker acknowledged, and where it put them.

    As our own writer does, it believes no acknowledgement without a place of its own: after a kill Tansu may answer an idempotent
    producer's retry with "known already", or with offsets that others have, and not hold the records (docs/head.md).
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        self._given: set[tuple[int, int]] = set()
        self.sent = 0
        self._settings = {
            "bootstrap.servers": endpoints.kafka_bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": 60_000,
            "log_level": 0,
        }
        self._producer = Producer(self._settings)
        self._fenced = False

    def put(self, count: int, *, flush: bool = True) -> None:
        if self._fenced:
            self._producer.flush(60)
            self._producer, self._fenced = Producer(self._settings), False
        for _ in range(count):
            number = self.sent
            self.sent += 1
            value = json.dumps({"n": number, "text": f"event {number}"}).encode()

            def note(error: KafkaError | None, message: Any, number: int = number) -> None:
                place = (message.partition(), message.offset())
                if error is None:
                    if place[1] is not None and place not in self._given:
                        self._given.add(place)
                        self.places[number] = place
                elif error.code() == KafkaError.PRODUCER_FENCED:  # Tansu, killed at the wrong moment, disowns its producers
                    self._fenced = True

            self._producer.produce(EVENTS.name, value, str(number).encode(), partition=number % 3, on_delivery=note)
            self._producer.poll(0)
        if flush:
            self.flush()

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


def handle(endpoints: Endpoints, store: Any = EVENT_ROWS) -> TableWriter:
    return TableWriter(store, endpoints, Meter(Ledger(), "test"))


def land(endpoints: Endpoints, tmp_path: Path) -> Landed:
    done: Landed = Runner(Run("land", tmp_path), endpoints).run(land_events)
    return done


def rows(endpoints: Endpoints) -> list[dict[str, Any]]:
    return handle(endpoints).read().to_pylist()


def assert_exactly_once(endpoints: Endpoints, events: Events, topic: str = EVENTS.name) -> None:
    found = rows(endpoints)
    places = Counter((row["topic"], row["partition"], row["offset"]) for row in found)
    assert [place for place, times in places.items() if times > 1] == [], "doubled"
    assert missing(found, events, topic) == {}, "lost"


def missing(found: list[dict[str, Any]], events: Events, topic: str = EVENTS.name) -> dict[int, tuple[int, int]]:
    """Acknowledged events that the rows lack at their place."""
    landed = {(row["partition"], row["offset"]): row["n"] for row in found if row["topic"] == topic}
    return {number: place for number, place in events.places.items() if landed.get(place) != number}


def lander(endpoints: Endpoints, mode: str = "drain", **settings: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("lander.py"), mode, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(endpoints.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Ask a lander that follows to stop, and return its last word."""
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err[-2000:]
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    return last


# The bugs that others shipped. `naive` is what most tutorials show: a consumer group keeps the place.


def naive(endpoints: Endpoints, *, reset: str = "earliest", crash_before_table: bool = False, known: bool = False) -> int:
    """Land what a consumer group has not seen; auto-commit's moment is played by committing first if it `crash`es.

    `known` drops offsets that the table has already, which is how such landers are made "idempotent".
    """
    group = {"group.id": "naive", "auto.offset.reset": reset, "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({"bootstrap.servers": endpoints.kafka_bootstrap, **group})
    table = handle(endpoints)
    try:
        places = [TopicPartition(EVENTS.name, p) for p in range(3)]
        consumer.assign(consumer.committed(places, timeout=10))
        found = []
        silent = 0
        while silent < 3:
            messages = [m for m in consumer.consume(500, timeout=0.5) if m.error() is None]
            silent = 0 if messages else silent + 1
            found += messages
        held = {(r["partition"], r["offset"]) for r in table.read(("partition", "offset")).to_pylist()} if known else set()
        made = [
            {**json.loads(m.value()), "topic": EVENTS.name, "partition": m.partition(), "offset": m.offset()}
            for m in found
            if (m.partition(), m.offset()) not in held
        ]
        if crash_before_table:
            consumer.commit(asynchronous=False)
            return 0
        if made:
            table.append(batch(EVENT_ROWS.columns, made))
        if found:
            consumer.commit(asynchronous=False)
        return len(made)
    finally:
        consumer.close()


def loses_or_doubles(endpoints: Endpoints, events: Events) -> bool:
    try:
        assert_exactly_once(endpoints, events)
    except AssertionError:
        return True
    return False


def forget_rows(endpoints: Endpoints) -> None:
    """An empty table for the lander whose turn it is."""
    with contextlib.suppress(Exception):
        handle(endpoints).format._connect().drop_table(("headrace", EVENT_ROWS.table))  # type: ignore[attr-defined]


def set_group(endpoints: Endpoints, group: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": endpoints.kafka_bootstrap, "group.id": group, "log_level": 0})
    try:
        consumer.commit(offsets=[TopicPartition(EVENTS.name, p, offset) for p in range(3)], asynchronous=False)
    finally:
        consumer.close()


def test_a_group_whose_watermark_regresses_doubles_rows_and_ours_has_none(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    for group, once in (("naive", lambda: naive(endpoints)), ("headrace", lambda: land(endpoints, tmp_path))):
        forget_rows(endpoints)
        once()
        set_group(endpoints, group, 0)
        once()
        assert loses_or_doubles(endpoints, events) == (group == "naive")


def test_a_commit_made_before_the_table_has_it_loses_rows_and_ours_makes_none(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    naive(endpoints, crash_before_table=True)
    naive(endpoints)
    assert loses_or_doubles(endpoints, events)

    forget_rows(endpoints)
    with wire(endpoints.s3_endpoint, rb"PUT \S+/data/\S+parquet", asked=lambda: process.kill()) as between:
        process = lander(through(endpoints, s3=between.url))
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    land(endpoints, tmp_path)
    assert_exactly_once(endpoints, events)


def test_offsets_that_begin_again_lose_rows_and_ours_refuses(servers: Servers, tmp_path: Path) -> None:
    """The broker lost its tail; whoever asks for the place it no longer has starts at the end, or waits for ever."""
    endpoints = servers.endpoints
    for who in ("naive", "ours"):
        recreate(endpoints)
        forget_rows(endpoints)
        events = Events(endpoints)
        events.put(30)
        if who == "naive":
            naive(endpoints, reset="latest")
            set_group(endpoints, "naive", 10)
        else:
            land(endpoints, tmp_path)
        recreate(endpoints)
        again = Events(endpoints)
        again.sent = 1000
        again.put(9)
        if who == "naive":
            naive(endpoints, reset="latest")
            landed = {row["n"] for row in rows(endpoints)}
            assert not set(again.places) <= landed, "it lost what came after"
        else:
            refused = land(endpoints, tmp_path).refusals
            assert {(one.kind, one.partition) for one in refused} == {("recreated", p) for p in range(3)}
            for partition in range(3):
                accept(endpoints, tmp_path, partition, gap=False)
            assert land(endpoints, tmp_path).refusals == ()
            assert_exactly_once(endpoints, again, "events@02")
            assert {row["n"] for row in rows(endpoints)} == set(events.places) | set(again.places)


def test_a_cluster_made_anew_lands_nothing_silently_and_ours_says_so(servers: Servers, tmp_path: Path) -> None:
    """Who skips offsets that the table has already skips a new topic's first ones, and nobody hears of it."""
    endpoints = servers.endpoints
    events = Events(endpoints)
    events.put(30)
    naive(endpoints)
    servers.empty_the_head()
    again = Events(endpoints)
    TopicReader(EVENTS, endpoints, Meter(Ledger(), "test")).ensure()
    again.sent = 1000
    again.put(30)
    assert naive(endpoints, known=True) == 0, "all thirty were dropped"

    forget_rows(endpoints)
    recreate(endpoints)
    events = Events(endpoints)
    events.put(30)
    land(endpoints, tmp_path)
    servers.empty_the_head()
    again = Events(endpoints)
    TopicReader(EVENTS, endpoints, Meter(Ledger(), "test")).ensure()
    again.sent = 1000
    again.put(60)
    done = land(endpoints, tmp_path)
    assert (done.total, {one.kind for one in done.refusals}) == (0, {"recreated"})
    assert all("--accept-new-head events/" in one.remedy for one in done.refusals)
    assert all("was" in one.seen and "is" in one.seen for one in done.refusals)
    land(endpoints, tmp_path)
    written = handle(endpoints, REFUSALS).read().to_pylist()
    assert sorted((row["partition"], row["action"]) for row in written) == [(p, "stopped") for p in range(3)], "once each"
    for partition in range(3):
        accept(endpoints, tmp_path, partition, gap=False)
    land(endpoints, tmp_path)
    assert_exactly_once(endpoints, again, "events@02")
    written = handle(endpoints, REFUSALS).read().to_pylist()
    assert Counter(row["action"] for row in written) == {"stopped": 3, "accepted": 3}
    assert {row["who"] for row in written if row["action"] == "accepted"} == {"ann"}


def test_a_commit_retried_after_an_unseen_success_doubles_rows_and_ours_does_not(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    land(endpoints, tmp_path)  # the table is there
    for who in ("naive", "ours"):
        events.put(30)
        with wire(endpoints.catalog_uri, rb"POST \S+/tables/events ", answered=lambda: False) as between:
            slow = through(endpoints, catalog=between.url)
            if who == "ours":
                land(slow, tmp_path)
                assert between.met == 1
                assert_exactly_once(endpoints, events)
            else:
                made = [
                    {"n": n, "text": f"event {n}", "topic": EVENTS.name, "partition": p, "offset": o}
                    for n, (p, o) in events.places.items()
                    if n >= 30
                ]
                naive_append(slow, made)
                assert loses_or_doubles(endpoints, events)
        if who == "naive":
            recreate(endpoints)
            forget_rows(endpoints)
            events = Events(endpoints)
            events.put(30)
            land(endpoints, tmp_path)


def naive_append(endpoints: Endpoints, made: list[dict[str, Any]]) -> None:
    """An append that is tried again when it fails, as any retry decorator does it."""
    for _ in range(3):
        try:
            table = handle(endpoints).format.load()  # type: ignore[attr-defined]
            table.append(pa.Table.from_batches([batch(EVENT_ROWS.columns, made)]))
            return
        except Exception:
            time.sleep(0.2)


# Refusals.


def accept(endpoints: Endpoints, tmp_path: Path, partition: int, *, gap: bool) -> Any:
    runner = Runner(Run("land", tmp_path), endpoints)
    return runner.run(accept_events, place=f"events/{partition}", gap=gap, who="ann")


def recreate(endpoints: Endpoints) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    with contextlib.suppress(Exception):
        admin.delete_topics([EVENTS.name])[EVENTS.name].result(10)
    admin.create_topics([NewTopic(EVENTS.name, num_partitions=3)])[EVENTS.name].result(10)


def through(endpoints: Endpoints, *, catalog: str = "", s3: str = "") -> Endpoints:
    """Endpoints with a proxy in between."""
    properties = dict(endpoints.catalog_properties)
    if s3:
        properties["s3.endpoint"] = s3
    return endpoints.model_copy(update={"catalog_uri": catalog or endpoints.catalog_uri, "catalog_properties": properties})


def test_a_gap_stops_its_partition_alone_until_it_is_accepted(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    land(endpoints, tmp_path)
    for _ in range(3):
        events.put(3)  # each flush is a batch of its own: offsets 10, 11 and 12 of every partition
    servers.forget(EVENTS.name, 1, 12)
    done = land(endpoints, tmp_path)
    (refusal,) = done.refusals
    assert (refusal.kind, refusal.partition, refusal.landed, refusal.span.low) == ("gap", 1, 10, 12)
    assert "2 events are gone" in refusal.seen
    assert refusal.remedy.endswith("headrace land --accept-gap events/1")
    assert done.total == 6, "the others land"
    with pytest.raises(WrongUsage, match="not refused for that"):
        accept(endpoints, tmp_path, 1, gap=False)
    with pytest.raises(WrongUsage, match="is not refused"):
        accept(endpoints, tmp_path, 0, gap=True)
    accepted = accept(endpoints, tmp_path, 1, gap=True)
    assert accepted.told == "events/1 goes on at offset 12; offsets 10 to 11 are given up."
    assert land(endpoints, tmp_path).total == 1
    lost = {number for number, place in events.places.items() if place in ((1, 10), (1, 11))}
    events.places = {number: place for number, place in events.places.items() if number not in lost}
    assert_exactly_once(endpoints, events)


def test_a_head_that_lost_its_tail_goes_on_from_where_it_differs(servers: Servers, tmp_path: Path) -> None:
    """Offsets 6 to 9 were handed out again for other events: those land beside what had them first."""
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    for _ in range(10):
        events.put(3)
    land(endpoints, tmp_path)
    before = {number: place for number, place in events.places.items() if place[1] < 6}
    recreate(endpoints)
    again = Events(endpoints)
    for number in sorted(before):
        again.sent = number
        again.put(1)
    again.sent = 1000
    again.put(30)
    again.places = {n: p for n, p in again.places.items() if n >= 1000}
    kinds = {refusal.kind for refusal in land(endpoints, tmp_path).refusals}
    assert kinds == {"recreated"}
    goes_on = [accept(endpoints, tmp_path, partition, gap=False).position for partition in range(3)]
    assert [(one.next, one.incarnation) for one in goes_on] == [(6, 2)] * 3
    land(endpoints, tmp_path)
    assert_exactly_once(endpoints, again, "events@02")
    found = Counter(row["n"] for row in rows(endpoints))
    assert found == Counter(list(events.places) + list(again.places))


def test_positions_are_found_again_when_another_tool_has_rewritten_the_table(servers: Servers, tmp_path: Path) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    land(endpoints, tmp_path)
    table = handle(endpoints).format.load()  # type: ignore[attr-defined]
    table.overwrite(table.scan().to_arrow())  # its snapshot has none of our marks; ours is beneath it
    assert sorted(positions(handle(endpoints).marks(), EVENTS.name)) == [0, 1, 2]
    events.put(9)
    assert land(endpoints, tmp_path).total == 9
    assert_exactly_once(endpoints, events)
    # A table that was copied has no history at all: its rows say where they came from.
    held = handle(endpoints).read()
    forget_rows(endpoints)
    copied = handle(endpoints)
    copied.append(held.slice(0, 0))
    copied.format.load().overwrite(held)  # type: ignore[attr-defined]
    for snapshot in copied.format.load().metadata.snapshots[:-1]:  # type: ignore[attr-defined]
        copied.format.load().maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()  # type: ignore[attr-defined]
    assert handle(endpoints).marks() == {}
    events.put(9)
    assert land(endpoints, tmp_path).total == 9
    assert_exactly_once(endpoints, events)


# Kills.

CUTS: tuple[tuple[str, str, bytes, bool, bool], ...] = (
    # moment, which server, request, after its answer, whether the lander gets the answer
    ("fetched", "s3", rb"PUT \S+/data/\S+parquet", False, False),
    ("file written", "s3", rb"PUT \S+/data/\S+parquet", True, False),
    ("committed", "catalog", rb"POST \S+/tables/events ", True, False),
    ("acknowledged", "catalog", rb"POST \S+/tables/events ", True, True),
)


@pytest.mark.parametrize(("moment", "server", "request_line", "after", "heard"), CUTS, ids=[cut[0] for cut in CUTS])
def test_a_lander_killed_at_any_boundary_leaves_each_event_once(
    servers: Servers, tmp_path: Path, moment: str, server: str, request_line: bytes, after: bool, heard: bool
) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    land(endpoints, tmp_path)
    events.put(300)
    killed = threading.Event()

    def kill() -> bool:
        if heard:
            threading.Timer(0.05, lambda: (process.kill(), killed.set())).start()
        else:
            process.kill()
            killed.set()
        return heard

    upstream = endpoints.s3_endpoint if server == "s3" else endpoints.catalog_uri
    how: dict[str, Callable[[], Any]] = {"answered": kill} if after else {"asked": kill}
    with wire(upstream, request_line, **how) as between:
        process = lander(through(endpoints, **{server: between.url}))
        process.communicate(timeout=60)
        assert killed.wait(10)
    if not heard:
        assert process.returncode == -signal.SIGKILL
    committed = moment in ("committed", "acknowledged")
    assert len(rows(endpoints)) == (330 if committed else 30)
    begun = time.monotonic()
    assert land(endpoints, tmp_path).total == (0 if committed else 300)
    assert time.monotonic() - begun < 10
    assert_exactly_once(endpoints, events)


@pytest.mark.parametrize("part", ["head", "objects"])
def test_a_lander_outlives_the_servers_it_works_with(servers: Servers, part: str, within: Any) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    process = lander(endpoints, "follow", commit_s=0.2)
    try:
        assert within(20, lambda: len(rows(endpoints)) == 30)
        events.put(300, flush=False)
        servers.kill(part)
        if part == "objects":
            servers.kill("head")  # it stores there
        time.sleep(2)
        for one in ("objects", "head"):
            if servers.children[one].ended:
                servers.start(one)
        events.put(300, flush=False)
        events.flush()
        events.put(30)  # by another producer, should Tansu have disowned the one before: what it held was never acknowledged
        wanted = len(events.places)
        assert wanted >= 60
        assert within(60, lambda: len(rows(endpoints)) >= wanted), (len(rows(endpoints)), wanted)
    finally:
        servers_up(servers)
        done = finish(process)
    assert done["refused"] == []
    assert_exactly_once(endpoints, events)


def servers_up(servers: Servers) -> None:
    for one in ("objects", "head"):
        if servers.children[one].ended:
            servers.start(one)


def test_a_frozen_object_store_is_waited_for(servers: Servers, within: Any) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    process = lander(endpoints, "follow", commit_s=0.2)
    try:
        assert within(20, lambda: len(rows(endpoints)) == 30)
        events.put(30)
        servers.freeze("objects")
        time.sleep(30)
        servers.thaw("objects")
        events.put(30)
        assert within(60, lambda: len(rows(endpoints)) == 90), len(rows(endpoints))
    finally:
        servers.thaw("objects")
        finish(process)
    assert_exactly_once(endpoints, events)


# Several landers.


def owners(endpoints: Endpoints) -> set[str]:
    """Names of the landers that share the topic."""
    from headrace.catalog import LANDERS
    from headrace.storage.objects import ObjectReader

    return set(json.loads(ObjectReader(LANDERS, endpoints, Meter(Ledger(), "test")).get("events.json")))


def test_landers_share_the_partitions_and_one_that_dies_is_replaced(servers: Servers, within: Any) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    first, second = (lander(endpoints, "follow", commit_s=0.2) for _ in range(2))
    try:
        assert within(30, lambda: len(owners(endpoints)) == 2 and len(rows(endpoints)) == 30)
        for _ in range(20):
            events.put(30)
            time.sleep(0.1)
        assert within(30, lambda: len(rows(endpoints)) == 630)
        first.kill()
        out = first.communicate()[0]
        assert sum(json.loads(line).get("committed", 0) for line in out.splitlines()) > 0, "both land"
        events.put(30)
        assert within(30, lambda: len(rows(endpoints)) == 660), "the other one takes over"
    finally:
        first.kill()
        assert finish(second)["landed"] > 0
    assert_exactly_once(endpoints, events)


def test_a_lander_that_slept_is_refused_and_starts_again_from_the_table(servers: Servers, tmp_path: Path, within: Any) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(30)
    process = lander(endpoints, "follow", commit_s=3.0)
    try:
        assert within(20, lambda: len(rows(endpoints)) == 30)
        events.put(300)
        time.sleep(1.0)  # it has fetched them and not yet committed
        os.kill(process.pid, signal.SIGSTOP)
        assert len(rows(endpoints)) == 30
        assert land(endpoints, tmp_path).total == 300, "another lander"
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(4.0)
        assert len(rows(endpoints)) == 330, "its commit was refused"
        events.put(30)
        assert within(20, lambda: len(rows(endpoints)) == 360)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        finish(process)
    assert_exactly_once(endpoints, events)


def test_landers_that_race_for_everything_double_nothing(servers: Servers) -> None:
    endpoints, events = servers.endpoints, Events(servers.endpoints)
    events.put(3000)
    racing = [lander(endpoints, commit_rows=100) for _ in range(3)]
    landed = [finish(process)["landed"] for process in racing]
    assert sum(landed) == 3000
    assert_exactly_once(endpoints, events)


# What comes on the head.


def runner(endpoints: Endpoints, tmp_path: Path) -> Runner:
    return Runner(Run("land", tmp_path), endpoints)


def put_values(endpoints: Endpoints, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": endpoints.kafka_bootstrap, "acks": "all", "message.max.bytes": 4 << 20})
    for value in values:
        producer.produce(EVENTS.name, value, partition=0)
    assert producer.flush(20) == 0


def widened(*more: pa.Field) -> tuple[Store, Store]:
    """The topic and its table as a later catalog has them."""
    topic = pa.schema([*EVENTS.columns, *more])
    table = pa.schema([*EVENTS.columns, *more, *(f for f in EVENT_ROWS.columns if f.name not in EVENTS.columns.names)])
    return replace(EVENTS, schema=topic), replace(EVENT_ROWS, schema=table)


def test_dead_letters_land_once_when_they_can_be_read(servers: Servers, tmp_path: Path) -> None:
    """Events whose text may be null were refused by a catalog that did not allow it; the fix is a catalog that does."""
    endpoints = servers.endpoints
    put_values(endpoints, b'{"n": 1, "text": "good"}', b'{"n": 2, "text": null}', b"{broken", b'{"n": 4, "text": null}')
    done = land(endpoints, tmp_path)
    assert (done.total, done.dead) == (1, 3)
    assert runner(endpoints, tmp_path).run(relanding({EVENTS: EVENT_ROWS})).events == {"events": 0}, "nothing is fixed yet"

    lenient = pa.schema([EVENTS.columns.field("n"), EVENTS.columns.field("text").with_nullable(True)])
    fixed = replace(EVENTS, schema=lenient)
    rest = [f for f in EVENT_ROWS.columns if f.name not in lenient.names]
    table = replace(EVENT_ROWS, schema=pa.schema([*lenient, *rest]))
    again = runner(endpoints, tmp_path).run(relanding({fixed: table}))
    assert (again.events, again.before, again.dead) == ({"events": 2}, 0, 1)
    again = runner(endpoints, tmp_path).run(relanding({fixed: table}))
    assert (again.events, again.before, again.dead) == ({"events": 0}, 2, 1), "and only once"
    found = handle(endpoints, table).read(("n", "text", "partition", "offset")).to_pylist()
    assert sorted((r["offset"], r["n"], r["text"]) for r in found) == [(0, 1, "good"), (1, 2, None), (3, 4, None)]
    assert handle(endpoints, DEAD_LETTERS).count() == 3, "what came is kept"


def test_a_topic_may_gain_columns_and_producers_may_be_ahead_or_behind(servers: Servers, tmp_path: Path) -> None:
    endpoints = servers.endpoints
    put_values(endpoints, b'{"n": 1, "text": "old"}', b'{"n": 2, "text": "ahead", "mood": "good", "depth": {"m": 3}}')
    land(endpoints, tmp_path)
    assert {r["n"]: r["extra"] for r in rows(endpoints)} == {1: None, 2: '{"mood":"good","depth":{"m":3}}'}

    topic, table = widened(pa.field("mood", pa.string()))
    put_values(endpoints, b'{"n": 3, "text": "new", "mood": "fine"}', b'{"n": 4, "text": "behind"}')
    assert runner(endpoints, tmp_path).run(landing({topic: table})).total == 2
    found = handle(endpoints, table).read().to_pylist()
    assert {r["n"]: r["mood"] for r in found} == {1: None, 2: None, 3: "fine", 4: None}

    # A lander that has not been updated goes on, and loses nothing of what it does not know.
    put_values(endpoints, b'{"n": 5, "text": "late", "mood": "calm"}')
    assert land(endpoints, tmp_path).total == 1
    assert next(r["extra"] for r in rows(endpoints) if r["n"] == 5) == '{"mood":"calm"}'


def test_an_event_of_a_megabyte_lands(servers: Servers, tmp_path: Path) -> None:
    endpoints = servers.endpoints
    text = "x" * (1 << 20)
    put_values(endpoints, *(json.dumps({"n": n, "text": text}).encode() for n in range(20)))
    assert land(endpoints, tmp_path).total == 20
    assert {(r["n"], len(r["text"])) for r in rows(endpoints)} == {(n, 1 << 20) for n in range(20)}


# A full disk.


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk takes root")
def test_a_full_disk_stops_landing_and_loses_nothing(tmp_path: Path, within: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=220m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    servers = None
    try:
        servers = Servers(disk / "home")
        endpoints = servers.endpoints
        TopicReader(EVENTS, endpoints, Meter(Ledger(), "test")).ensure()
        events = Events(endpoints)
        events.put(300)
        land(endpoints, tmp_path)
        events.put(300)
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(os.urandom(1 << 16))
                file.flush()
        process = lander(endpoints, "follow", commit_s=0.2)
        time.sleep(6)
        assert len(rows(endpoints)) == 300, "nothing fits any more"
        ballast.unlink()
        assert within(60, lambda: len(rows(endpoints)) == 600), len(rows(endpoints))
        finish(process)
        assert_exactly_once(endpoints, events)
    finally:
        if servers is not None:
            servers.close()
        subprocess.run(["umount", "-l", disk], check=False)
