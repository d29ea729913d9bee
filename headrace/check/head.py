"""Promises of a Kafka cluster, tested on a topic of the check's own."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.catalog import Tier
from headrace.check.promise import (
    AMPLE_S,
    Broken,
    Measured,
    NotNeeded,
    NotTested,
    Promise,
    Promises,
    TimeBudget,
    describe,
    latency,
    promise,
)
from headrace.errors import Unavailable
from headrace.settings import EmbeddedPart, Settings
from headrace.storage.endpoints import Endpoints

_PARTITIONS = 3
_ANSWER_S = 15.0
_MOMENT_S = 2.0
_SILENCE_S = 5.0
_LARGE_BYTES = 1_000_000  # the largest event that Headrace accepts
_EVENT_BYTES = 250
_GONE_S = 10.0

Appended = dict[tuple[int, int], bytes]


class HeadSandbox:
    """A temporary topic and its clients. Nothing is ever committed to a consumer group."""

    def __init__(self, endpoints: Endpoints, *, embedded: bool) -> None:
        self.embedded = embedded
        self.topic = f"headrace-check-{secrets.token_hex(6)}"
        # Silence librdkafka's own log on stderr; users see our errors.
        self._base = {
            "bootstrap.servers": endpoints.kafka_bootstrap,
            **endpoints.kafka_properties,
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        self.admin = AdminClient(self._base)
        self._made: set[str] = set()

    def make(self, topic: str, partitions: int = _PARTITIONS) -> None:
        """Create a topic, to be deleted at the end."""
        self._made.add(topic)
        self.admin.create_topics([NewTopic(topic, num_partitions=partitions)])[topic].result(_ANSWER_S)

    def delete(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin.delete_topics([topic])[topic].result(_ANSWER_S)
        end = time.monotonic() + _GONE_S
        while topic in self.admin.list_topics(timeout=_ANSWER_S).topics:
            if time.monotonic() > end:
                raise Broken(f"a topic still exists {_GONE_S:.0f} s after it was deleted")
            time.sleep(0.1)
        self._made.discard(topic)

    def producer(self, **properties: Any) -> Producer:
        """A producer with Headrace's settings: acknowledged by all in-sync replicas, not idempotent, not transactional."""
        words = {name.replace("_", "."): value for name, value in properties.items()}
        return Producer({**self._base, "acks": "all", "linger.ms": 5, "delivery.timeout.ms": int(_ANSWER_S * 1000), **words})

    @contextmanager
    def consumer(self) -> Iterator[Consumer]:
        """A new consumer; its required group stays unused."""
        properties = {"group.id": self.topic, "enable.auto.commit": False, "auto.offset.reset": "error"}
        consumer = Consumer({**self._base, **properties, "isolation.level": "read_uncommitted", "fetch.wait.max.ms": 100})
        try:
            yield consumer
        finally:
            consumer.close()

    def append(self, values: Sequence[bytes], *, partition: int = -1, producer: Producer | None = None) -> Appended:
        """Append records; returns their values by (partition, offset). Raises `Broken` unless all are acknowledged."""
        producer = producer or self.producer()
        appended: Appended = {}
        failures: list[str] = []

        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error.str())
                return
            address = (message.partition(), message.offset())
            if address in appended:
                failures.append(f"two records were acknowledged at offset {address[1]} of partition {address[0]}")
            appended[address] = message.value()

        for number, value in enumerate(values):
            where = {} if partition < 0 else {"partition": partition}
            while True:
                try:
                    producer.produce(self.topic, value, f"{number % 11}".encode(), on_delivery=note, **where)
                    break
                except BufferError:  # the local queue is full: let it drain
                    producer.poll(0.1)
        producer.flush(_ANSWER_S + 1)
        if failures:
            raise Broken(failures[0])
        if len(appended) != len(values):
            raise Broken(f"{len(appended)} of {len(values)} records were acknowledged within {_ANSWER_S:.0f} s")
        return appended

    def read(self, start: Mapping[int, int], count: int) -> list[Message]:
        """Up to `count` messages that a new consumer reads from these partitions and offsets on, in order."""
        messages: list[Message] = []
        with self.consumer() as consumer:
            consumer.assign([TopicPartition(self.topic, partition, offset) for partition, offset in start.items()])
            heard = time.monotonic()
            while len(messages) < count and time.monotonic() < heard + _SILENCE_S:
                for message in consumer.consume(num_messages=min(1000, count - len(messages)), timeout=0.2):
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    messages.append(message)
                    heard = time.monotonic()
        return messages

    def end(self, partition: int) -> int:
        """A partition's end offset, as reported by the broker."""
        with self.consumer() as consumer:
            return int(consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=_ANSWER_S, cached=False)[1])

    def id(self) -> str:
        """The topic's id, or empty if the broker has none."""
        futures = self.admin.describe_topics(TopicCollection([self.topic]), request_timeout=_ANSWER_S)
        try:
            description = futures[self.topic].result(_ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION):
                return ""
            raise
        number = int(description.topic_id.get_most_significant_bits()), int(description.topic_id.get_least_significant_bits())
        return "" if number == (0, 0) else str(description.topic_id)

    def clear(self) -> None:
        """Delete the topics created here."""
        left = []
        for topic in sorted(self._made):
            try:
                self.admin.delete_topics([topic])[topic].result(_ANSWER_S)
            except (KafkaException, TimeoutError) as error:
                if isinstance(error, TimeoutError) or error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    left.append(topic)
        if left:
            raise Unavailable(f"Topic {left[0]} of the check could not be deleted.", hint="Delete it by hand.")


@promise(
    "answers and creates a topic",
    loses="everything: no event could be recorded",
)
def answers(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    sandbox.admin.list_topics(timeout=_ANSWER_S)  # if nothing answers, there is nothing to create and clean up
    began = time.perf_counter()
    sandbox.make(sandbox.topic)
    took = (time.perf_counter() - began) * 1e3
    topic = sandbox.admin.list_topics(sandbox.topic, timeout=_ANSWER_S).topics[sandbox.topic]
    if len(topic.partitions) != _PARTITIONS:
        raise Broken(f"a topic with {_PARTITIONS} partitions was requested, but it has {len(topic.partitions)}")
    return Measured(f"topic created in {took:.0f} ms", make_ms=took)


@promise(
    "records are acknowledged",
    loses="questions and verdicts would be delayed or rejected",
)
def acknowledged(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    producer = sandbox.producer(linger_ms=0)
    seconds = []
    for _ in budget.rounds(20, 300):
        began = time.perf_counter()
        sandbox.append([os.urandom(_EVENT_BYTES)], partition=0, producer=producer)
        seconds.append(time.perf_counter() - began)
    words, figures = latency("append", seconds)
    count = 20_000 if budget.seconds >= AMPLE_S else 2_000
    values = [b"x" * _EVENT_BYTES] * count
    began = time.perf_counter()
    sandbox.append(values)
    rate = count * _EVENT_BYTES / 2**20 / (time.perf_counter() - began)
    return Measured(f"{words}; {rate:.1f} MiB/s of {_EVENT_BYTES} B", **figures, append_mib_per_s=rate)


@promise(
    "acknowledged records are kept unchanged",
    loses="documents, answers and verdicts that were confirmed to users",
)
def survives(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    appended: Appended = {}
    for number in budget.rounds(3, 20):
        appended |= sandbox.append([f"{number}/{index}".encode() + os.urandom(200) for index in range(200)])
    start = {partition: min(offset for p, offset in appended if p == partition) for partition, _ in appended}
    values = {(m.partition(), m.offset()): m.value() for m in sandbox.read(start, len(appended))}
    if lost := appended.keys() - values.keys():
        partition, offset = min(lost)
        raise Broken(f"{len(lost)} of {len(appended)} acknowledged records are gone, the first at offset {offset} of {partition}")
    for address, value in appended.items():
        if values[address] != value:
            raise Broken(f"the record at offset {address[1]} of partition {address[0]} is not the one acknowledged there")
    return Measured(f"{len(appended):,} records, read by a new consumer", records=len(appended))


@promise(
    "a partition keeps the order of its records",
    loses="a deleted document could stay indexed, and an old verdict could replace a newer one",
)
def order(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    start = {1: next_offset(sandbox, 1), 2: next_offset(sandbox, 2)}
    count = 3_000
    for partition in start:
        sandbox.append([f"{number}".encode() for number in range(count)], partition=partition)
    sequence = defaultdict(list)
    for message in sandbox.read(start, 2 * count):
        sequence[message.partition()].append((message.offset(), int(message.value())))
    for partition, appended in sequence.items():
        for (offset, number), (later, following) in itertools.pairwise(appended):
            if later <= offset:
                raise Broken(f"partition {partition} gave offset {later} after {offset}")
            if following != number + 1:
                raise Broken(f"in partition {partition} record {following} came after record {number}")
    if any(len(sequence[partition]) != count for partition in start):
        raise Broken(f"{min(len(sequence[p]) for p in start)} of {count} records came back")
    return Measured(f"{2 * count:,} records in 2 partitions", records=2 * count)


@promise(
    "offsets are consecutive and never reused",
    loses="events would land twice or be skipped as landed, since rows are identified by offset",
)
def offsets(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    start = next_offset(sandbox, 0)
    acknowledged: list[int] = []
    with ThreadPoolExecutor(3) as threads:
        each = 300
        batches = [[f"{who}/{number}".encode() for number in range(each)] for who in range(3)]
        for appended in threads.map(lambda values: sandbox.append(values, partition=0), batches):
            acknowledged.extend(offset for _, offset in appended)
    if len(set(acknowledged)) != len(acknowledged):
        raise Broken(
            f"{len(acknowledged) - len(set(acknowledged))} offsets were assigned to two records of three concurrent producers"
        )
    if sorted(acknowledged) != list(range(start, start + len(acknowledged))):
        gap = next(offset for offset in range(start, start + len(acknowledged) + 1) if offset not in set(acknowledged))
        raise Broken(f"offset {gap} was skipped: {len(acknowledged)} records are at {min(acknowledged)} to {max(acknowledged)}")
    return Measured(f"{len(acknowledged):,} records of 3 concurrent producers", records=len(acknowledged))


@promise(
    "reading begins at the requested offset",
    loses="a restarted lander would lose events or land them twice",
)
def resumes(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    appended = sandbox.append([f"{number}".encode() for number in range(100)], partition=1)
    rounds = 0
    for rounds in budget.rounds(3, 10):
        wanted = sorted(appended)[(37 * rounds) % len(appended)]
        if not (records := sandbox.read({1: wanted[1]}, 1)):
            raise Broken(f"nothing was read from offset {wanted[1]}, where a record was acknowledged")
        if records[0].offset() != wanted[1] or records[0].value() != appended[wanted]:
            raise Broken(f"offset {wanted[1]} was requested, but {records[0].offset()} was returned")
    return Measured(f"{rounds + 1} new consumers", consumers=rounds + 1)


@promise(
    "an event of 1,000,000 bytes is accepted",
    loses="answers with long passages would be rejected",
)
def large(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    value = os.urandom(_LARGE_BYTES)
    producer = sandbox.producer(message_max_bytes=_LARGE_BYTES + 65_536)
    began = time.perf_counter()
    (address,) = sandbox.append([value], partition=2, producer=producer)
    took = (time.perf_counter() - began) * 1e3
    records = sandbox.read({2: address[1]}, 1)
    if not records or records[0].value() != value:
        raise Broken("a record of 1,000,000 bytes was acknowledged but did not come back unchanged")
    return Measured(f"1,000,000 bytes in {took:.0f} ms", append_ms=took)


@promise(
    "the reported end offset is correct",
    loses="`headrace land --once` would wait in vain for events that the head reports",
)
def end(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    low_ms = 0.0
    for _ in range(3):
        (*_, last) = sorted(sandbox.append([f"{number}".encode() for number in range(50)], partition=0))
        true, began = last[1] + 1, time.monotonic()
        while (reported := sandbox.end(0)) < true:
            if time.monotonic() - began > _MOMENT_S:
                raise NotNeeded(
                    f"it stayed {true - reported} records too low for {_MOMENT_S:.0f} s; Headrace reads until nothing comes, so"
                    " nothing is lost, but the displayed lag is too low by that number",
                    Measured(f"{true - reported} too low", records_low=true - reported),
                )
            time.sleep(0.01)
        if reported > true:
            raise Broken(f"the end was reported as {reported}, but the last record is at {last[1]}")
        low_ms = max(low_ms, (time.monotonic() - began) * 1e3)
    return Measured(f"correct within {low_ms:.0f} ms", late_ms=low_ms)


@promise(
    "the cluster has an id",
    loses="a replaced cluster would be recognised only by its offsets",
)
def cluster_id(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    first = sandbox.admin.list_topics(timeout=_ANSWER_S).cluster_id
    if not first:
        raise NotNeeded("it has none: a cluster recreated at the same address is recognised only by its offsets")
    with sandbox.consumer() as consumer:
        if (second := consumer.list_topics(timeout=_ANSWER_S).cluster_id) != first:
            raise Broken(f"one client received {first}, another {second}: a lander would assume another cluster and stop")
    return Measured(str(first))


@promise(
    "a recreated topic has a new id",
    loses="events of a recreated topic would be skipped as landed, up to the old offset",
)
def topic_id(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    before = sandbox.id()
    if not before:
        raise NotNeeded("topics have no ids: a recreated topic is recognised only by its offsets")
    if (again := sandbox.id()) != before:
        raise Broken(f"the same topic had the ids {before} and {again}")
    sandbox.delete(sandbox.topic)
    sandbox.make(sandbox.topic)
    if sandbox.id() == before:
        raise Broken(f"the id is {before} both before and after")
    (address,) = sandbox.append([b"first"], partition=0)
    if address[1] != 0:
        raise Broken(f"the first record of a new topic is at offset {address[1]}")
    return Measured("new id, offsets from 0 again")


@promise(
    "offsets can be looked up by time",
    loses="the age of events not landed would have to be read from the records themselves",
)
def by_time(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    first = 1_700_000_000_000
    producer = sandbox.producer()
    reported: list[int] = []
    for number in range(10):
        producer.produce(
            sandbox.topic,
            b"t",
            partition=2,
            timestamp=first + number * 1000,
            on_delivery=lambda error, message: None if error else reported.append(message.offset()),
        )
        producer.flush(_ANSWER_S)
    if len(reported) != 10:
        raise Broken(f"{len(reported)} of 10 records with explicit timestamps were acknowledged")
    with sandbox.consumer() as consumer:
        lookups = [TopicPartition(sandbox.topic, 2, first + 4500), TopicPartition(sandbox.topic, 2, first + 10**9)]
        answers = [consumer.offsets_for_times([one], timeout=_ANSWER_S)[0].offset for one in lookups]
    if answers[0] != reported[5] or 0 <= answers[1] <= reported[-1]:
        raise NotNeeded(f"offset {answers[0]} instead of {reported[5]}; Headrace reads the times of the records themselves")
    return Measured("exact")


@promise(
    "records that have landed can be deleted",
    loses="landed events could not be trimmed from the head, except by the topic's retention",
)
def trimmed(sandbox: HeadSandbox, budget: TimeBudget) -> Measured:
    if sandbox.embedded:
        raise NotTested("the embedded head closes the connection; Headrace deletes from its bucket instead")
    appended = sorted(sandbox.append([f"{number}".encode() for number in range(20)], partition=1))
    wanted = appended[10][1]
    try:
        futures = sandbox.admin.delete_records([TopicPartition(sandbox.topic, 1, wanted)], request_timeout=5, operation_timeout=5)
        low = next(iter(futures.values())).result(_ANSWER_S).low_watermark
    except (KafkaException, TimeoutError) as error:
        raise NotNeeded(
            f"not supported ({describe(error)}): the topic's retention trims the head, and a metric warns beforehand"
        ) from None
    if low != wanted:
        raise Broken(f"everything before offset {wanted} was to be deleted, but the topic now begins at {low}")
    records = sandbox.read({1: wanted}, 10)
    if [m.offset() for m in records] != [offset for _, offset in appended[10:]]:
        raise Broken("records after the deleted ones are missing")
    return Measured("10 of 20 records", records=10)


def next_offset(sandbox: HeadSandbox, partition: int) -> int:
    """The next offset of a partition, found by appending a record, since the reported end may be too low."""
    (address,) = sandbox.append([b"end"], partition=partition)
    return address[1] + 1


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[HeadSandbox]:
    """A sandbox on the head, for a block."""
    sandbox = HeadSandbox(endpoints, embedded=isinstance(settings.head, EmbeddedPart))
    try:
        yield sandbox
    finally:
        sandbox.clear()


FAULTS: tuple[type[Exception], ...] = (KafkaException, TimeoutError, Unavailable)
PROMISES: Sequence[Promise[HeadSandbox]] = (
    answers,
    acknowledged,
    survives,
    order,
    offsets,
    resumes,
    large,
    end,
    cluster_id,
    topic_id,
    by_time,
    trimmed,
)
SUBJECT = Promises(Tier.STREAM, PROMISES, FAULTS, opened)
