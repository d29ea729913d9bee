"""The stream tier: Kafka topics, the head. Partitions are assigned by hand and offsets kept elsewhere, never in a group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.catalog import Store
from headrace.errors import OffsetsRefused, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.records import encode

_TIMEOUT_S = 20.0
# A broker may report an end that is one batch low (platform-facts.md), so silence past the reported end decides.
_LAST_LANDED_S = 5.0
_SILENCE_S = 0.3


@dataclass(frozen=True)
class Record:
    """One record as the head holds it; `at_ms` is its timestamp in milliseconds since the epoch."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    at_ms: int


class _Topic:
    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._meter = meter
        self._bootstrap = endpoints.kafka_bootstrap
        self._base = {"bootstrap.servers": endpoints.kafka_bootstrap, **endpoints.kafka_properties}
        self._made = False

    def ensure(self) -> None:
        """Create the topic where it is missing."""
        if self._made:
            return
        admin = AdminClient(self._client({}))
        try:
            known = admin.list_topics(timeout=_TIMEOUT_S).topics
            if self.store.name not in known:
                new = NewTopic(self.store.name, num_partitions=self.store.partitions)
                admin.create_topics([new])[self.store.name].result(timeout=_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._unavailable(error) from error
        self._made = True

    def _client(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        # librdkafka writes its own lines to stderr; errors reach the user through ours.
        return {**self._base, "log_level": 0, "error_cb": _ignore, **extra}

    def _unavailable(self, error: BaseException | str) -> Unavailable:
        return Unavailable(
            f"Topic {self.store.name} cannot be reached at {self._bootstrap}: {_reason(error)}.",
            hint="Check that Kafka runs there (`headrace endpoints`) and run the command again.",
        )


class TopicReader(_Topic):
    """Reads one topic from given offsets."""

    def read(self, start: Mapping[int, int], *, most: int = 5000, follow: bool = False) -> Iterator[list[Record]]:
        """Batches of records, each partition from its offset in `start` (0 where it is not named).

        Ends when the head is drained, or never if `follow` (an empty batch then comes about once a second, so that the
        caller can stop). Raises `OffsetsRefused` where the head no longer has, or does not yet have, the wanted offset.
        """
        self.ensure()
        consumer = Consumer(
            self._client(
                {
                    "group.id": "headrace-land",  # the client insists on one; nothing is ever committed to it
                    "enable.auto.commit": False,
                    "enable.partition.eof": False,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_uncommitted",
                    "fetch.wait.max.ms": 100,
                }
            )
        )
        try:
            ends = self._assign(consumer, start)
            positions = {partition: start.get(partition, 0) for partition in ends}
            quiet_since = time.monotonic()
            while True:
                began = time.perf_counter()
                messages = consumer.consume(num_messages=most, timeout=0.1 if not follow else 1.0)
                seconds = time.perf_counter() - began
                records = self._records(messages)
                if records:
                    self._meter.count(
                        self.store,
                        Direction.READ,
                        bytes=sum(len(r.key or b"") + len(r.value or b"") for r in records),
                        seconds=seconds,
                    )
                    for record in records:
                        positions[record.partition] = record.offset + 1
                    yield records
                    quiet_since = time.monotonic()
                    continue
                if follow:
                    yield []
                    continue
                drained = all(positions[partition] >= end for partition, end in ends.items())
                silent = time.monotonic() - quiet_since
                if drained and silent >= _SILENCE_S:
                    return
                if silent > _TIMEOUT_S:
                    raise self._unavailable(f"no record in {_TIMEOUT_S:.0f} s, though the head says there are more")
        except KafkaException as error:
            raise self._unavailable(error) from error
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer, start: Mapping[int, int]) -> dict[int, int]:
        metadata = consumer.list_topics(self.store.name, timeout=_TIMEOUT_S).topics[self.store.name]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        ends: dict[int, int] = {}
        for partition in sorted(metadata.partitions):
            low, high = consumer.get_watermark_offsets(
                TopicPartition(self.store.name, partition), timeout=_TIMEOUT_S, cached=False
            )
            wanted = start.get(partition, 0)
            if low > wanted:
                raise OffsetsRefused(
                    f"{self.store.name}/{partition} begins at offset {low}, but offset {wanted} has not landed:"
                    f" the head forgot {low - wanted} events.",
                    hint="Restore the topic, or land it anew under another name.",
                )
            if wanted > high:
                self._require_before(consumer, partition, wanted)
            ends[partition] = high
        consumer.assign([TopicPartition(self.store.name, p, start.get(p, 0)) for p in ends])
        return ends

    def _require_before(self, consumer: Consumer, partition: int, wanted: int) -> None:
        """Raise `OffsetsRefused` unless the head has the record before `wanted`.

        The reported end may just be low; but a broker may also answer an offset it never gave out with silence, and then
        the events of a re-created topic would never land.
        """
        consumer.assign([TopicPartition(self.store.name, partition, wanted - 1)])
        end = time.monotonic() + _LAST_LANDED_S
        while time.monotonic() < end:
            if any(record.offset == wanted - 1 for record in self._records(consumer.consume(num_messages=1, timeout=0.2))):
                return
        raise self._refused(partition)

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        records = []
        for message in messages:
            if (error := message.error()) is not None:
                if error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
                    raise self._refused(message.partition())
                raise KafkaException(error)
            at = message.timestamp()[1]
            records.append(Record(message.partition(), message.offset(), message.key(), message.value(), at))
        return records

    def _refused(self, partition: int | None) -> OffsetsRefused:
        return OffsetsRefused(
            f"{self.store.name}/{partition} does not have the offset that comes next: the topic was re-created or trimmed.",
            hint="Compare `headrace sql 'select max(\"offset\") …'` with the broker before going on.",
        )


class TopicWriter(_Topic):
    """Appends records to one topic; `append` returns when the head has acknowledged them."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._producer: Producer | None = None
        self._opening = threading.Lock()

    def append(self, rows: Sequence[Mapping[str, Any]], *, key: str) -> list[tuple[int, int]]:
        """Append rows of the store's schema, keyed by their field `key`; return (partition, offset) of each, in order.

        Every row is acknowledged by all in-sync replicas when this returns. Raises `Unavailable` if any is not.
        """
        if not rows:
            return []
        self.ensure()
        with self._opening:
            if self._producer is None:
                self._producer = Producer(
                    self._client({"acks": "all", "linger.ms": 5, "delivery.timeout.ms": int(_TIMEOUT_S * 1000)})
                )
        places: list[tuple[int, int] | None] = [None] * len(rows)
        failures: list[KafkaError] = []

        def delivered(index: int) -> Any:
            def note(error: KafkaError | None, message: Message) -> None:
                if error is not None:
                    failures.append(error)
                else:
                    places[index] = (message.partition(), message.offset())

            return note

        with self._meter.operation(self.store, Direction.WRITE) as operation:
            operation.ops = len(rows)
            for index, row in enumerate(rows):
                name, value = str(row[key]).encode(), encode(self.store, row)
                operation.bytes += len(name) + len(value)
                while True:
                    try:
                        self._producer.produce(self.store.name, value, name, on_delivery=delivered(index))
                        break
                    except BufferError:  # the local queue is full: let it drain
                        self._producer.poll(0.1)
                    except KafkaException as error:
                        raise self._unavailable(error) from error
            self._producer.flush(_TIMEOUT_S + 5)
        if failures:
            raise self._unavailable(failures[0].str())
        if any(place is None for place in places):
            raise self._unavailable(f"not acknowledged within {_TIMEOUT_S:.0f} s")
        return [place for place in places if place is not None]


def _ignore(_: KafkaError) -> None:
    """Errors that matter come back through the call that met them."""


def _reason(error: BaseException | str) -> str:
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error.args[0].str()).rstrip(".")
    return str(error).rstrip(".")
