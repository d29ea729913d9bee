"""Numbered events put on the head, landed, and accounted for by (topic, partition, offset)."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from lander import EVENT_ROWS, EVENTS, land_events
from servers import Servers

from headrace.catalog import DEAD_LETTERS, DIVERGENCES, LEASES
from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import NotFound
from headrace.landing.land import Landed
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.tables.iceberg.core import NAMESPACE
from headrace.storage.tables.iceberg.table import IcebergTable

METER = Meter(Ledger(), "test")
LEASE_KEY = f"{EVENTS.name}.json"
Place = tuple[int, int]


@pytest.fixture
def servers(shared_servers: Servers) -> Iterator[Servers]:
    """Servers without the topic, the tables and the landers of the test before, and up again after this one."""
    endpoints = shared_servers.endpoints
    recreate(endpoints)
    for store in (EVENT_ROWS, DIVERGENCES, DEAD_LETTERS):
        forget_rows(endpoints, store)
    ObjectWriter(LEASES, endpoints, METER).delete(LEASE_KEY)
    yield shared_servers
    servers_up(shared_servers)


def servers_up(servers: Servers) -> None:
    """Thaw and start what a test has frozen or killed."""
    for part in ("objects", "head"):
        if servers.children[part].ended:
            servers.start(part)
        servers.thaw(part)


def recreate(endpoints: Endpoints) -> None:
    """The topic made anew: the same name, another identity, offsets from 0."""
    admin = AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})
    again = NewTopic(EVENTS.name, num_partitions=EVENTS.partitions)
    until = time.monotonic() + 30
    while True:
        # A broker that has only just come up may fail to delete, and one that deletes in the background may still have the name.
        with contextlib.suppress(KafkaException):
            admin.delete_topics([EVENTS.name])[EVENTS.name].result(10)
        try:
            admin.create_topics([again])[EVENTS.name].result(10)
            return
        except KafkaException:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def forget_rows(endpoints: Endpoints, store: Any = EVENT_ROWS) -> None:
    """An empty table for the lander whose turn it is."""
    found = TableReader(store, endpoints, METER).format
    assert isinstance(found, IcebergTable)
    with contextlib.suppress(Exception):
        found._connect().drop_table((NAMESPACE, store.table))


class Events:
    """Puts numbered events on the topic and remembers which the broker acknowledged, and where it put them.

    As our own writer does, it is not idempotent and believes no acknowledgement without a place of its own:
    docs/explanation/design.md says what Tansu does to idempotent producers after a kill.
    """

    def __init__(self, endpoints: Endpoints, first: int = 0) -> None:
        self.places: dict[int, Place] = {}
        self._given: set[Place] = set()
        self.sent = first
        self._producer = Producer(
            {
                "bootstrap.servers": endpoints.kafka_bootstrap,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 60_000,
                "log_level": 0,
            }
        )

    def put(self, count: int, *, flush: bool = True) -> None:
        for _ in range(count):
            number = self.sent
            self.sent += 1
            value = json.dumps({"n": number, "text": f"event {number}"}).encode()

            def note(error: KafkaError | None, message: Any, number: int = number) -> None:
                place = (message.partition(), message.offset())
                if error is None and place[1] is not None and place not in self._given:
                    self._given.add(place)
                    self.places[number] = place

            self._producer.produce(EVENTS.name, value, str(number).encode(), partition=number % 3, on_delivery=note)
            self._producer.poll(0)
        if flush:
            self.flush()

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


def handle(endpoints: Endpoints, store: Any = EVENT_ROWS) -> TableWriter:
    return TableWriter(store, endpoints, METER)


def topic(endpoints: Endpoints) -> TopicReader:
    return TopicReader(EVENTS, endpoints, METER)


def land(endpoints: Endpoints, tmp_path: Path) -> Landed:
    done: Landed = Runner(Run("land", tmp_path), endpoints).run(land_events)
    return done


def rows(endpoints: Endpoints) -> list[dict[str, Any]]:
    return handle(endpoints).read().to_pylist()


def owners(endpoints: Endpoints) -> set[str]:
    """Names of the landers that share the topic."""
    try:
        return set(json.loads(ObjectReader(LEASES, endpoints, METER).get(LEASE_KEY)))
    except NotFound:
        return set()


def assert_exactly_once(endpoints: Endpoints, events: Events, topic: str = EVENTS.name) -> None:
    found = rows(endpoints)
    places = Counter((row["topic"], row["partition"], row["offset"]) for row in found)
    assert [place for place, times in places.items() if times > 1] == [], "doubled"
    assert missing(found, events, topic) == {}, "lost"


def missing(found: list[dict[str, Any]], events: Events, topic: str = EVENTS.name) -> dict[int, Place]:
    """Acknowledged events that the rows lack at their place."""
    landed = {(row["partition"], row["offset"]): row["n"] for row in found if row["topic"] == topic}
    return {number: place for number, place in events.places.items() if landed.get(place) != number}
