"""What Headrace relies on a Kafka cluster for. Everything happens on one topic of the check's own."""

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
from headrace.check.promise import Broken, Measured, Promise, Promises, TimeBudget, Unknown, describe, latency, promise
from headrace.errors import Unavailable
from headrace.settings import EmbeddedPart, Settings
from headrace.storage.endpoints import Endpoints

_PARTITIONS = 3
_ANSWER_S = 15.0
_MOMENT_S = 2.0
_SILENCE_S = 5.0
_LARGE_BYTES = 1_000_000  # the largest event that Headrace takes
_EVENT_BYTES = 250
_GONE_S = 10.0

Places = dict[tuple[int, int], bytes]


class HeadSandbox:
    """A topic of the check's own and its clients. Nothing is ever committed to a consumer group."""

    def __init__(self, endpoints: Endpoints, *, embedded: bool) -> None:
        self.embedded = embedded
        self.topic = f"headrace-check-{secrets.token_hex(6)}"
        # librdkafka writes its own lines to stderr; errors reach the user through ours.
        self._base = {
            "bootstrap.servers": endpoints.kafka_bootstrap,
            **endpoints.kafka_properties,
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        self.admin = AdminClient(self._base)
        self._made: set[str] = set()

    def make(self, topic: str, partitions: int = _PARTITIONS) -> None:
        """Make a topic, which is deleted at the end."""
        self._made.add(topic)
        self.admin.create_topics([NewTopic(topic, num_partitions=partitions)])[topic].result(_ANSWER_S)

    def delete(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin.delete_topics([topic])[topic].result(_ANSWER_S)
        end = time.monotonic() + _GONE_S
        while topic in self.admin.list_topics(timeout=_ANSWER_S).topics:
            if time.monotonic() > end:
                raise Broken(f"a topic is still there {_GONE_S:.0f} s after it was deleted")
            time.sleep(0.1)
        self._made.discard(topic)

    def producer(self, **properties: Any) -> Producer:
        """A producer as Headrace has it: acknowledged by all in-sync replicas, neither idempotent nor transactional."""
        words = {name.replace("_", "."): value for name, value in properties.items()}
        return Producer({**self._base, "acks": "all", "linger.ms": 5, "delivery.timeout.ms": int(_ANSWER_S * 1000), **words})

    @contextmanager
    def consumer(self) -> Iterator[Consumer]:
        """A fresh consumer; the client insists on a group, which stays empty."""
        properties = {"group.id": self.topic, "enable.auto.commit": False, "auto.offset.reset": "error"}
        consumer = Consumer({**self._base, **properties, "isolation.level": "read_uncommitted", "fetch.wait.max.ms": 100})
        try:
            yield consumer
        finally:
            consumer.close()

    def append(self, values: Sequence[bytes], *, partition: int = -1, producer: Producer | None = None) -> Places:
        """Append records and return where each acknowledged one stands; raise `Broken` unless all were acknowledged."""
        producer = producer or self.producer()
        places: Places = {}
        failures: list[str] = []

        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error.str())
                return
            place = (message.partition(), message.offset())
            if place in places:
                failures.append(f"two records were acknowledged at offset {place[1]} of partition {place[0]}")
            places[place] = message.value()

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
        if len(places) != len(values):
            raise Broken(f"of {len(values)} records {len(places)} were acknowledged within {_ANSWER_S:.0f} s")
        return places

    def read(self, start: Mapping[int, int], count: int) -> list[Message]:
        """What a fresh consumer gets from these partitions and offsets on, in its order: `count`, or what there is."""
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
        """The offset that the next record of a partition will have, as the broker reports it."""
        with self.consumer() as consumer:
            return int(consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=_ANSWER_S, cached=False)[1])

    def id(self) -> str:
        """The topic's id, empty where the broker gives none."""
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
        """Delete the topics made here."""
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
    "answers, and makes a topic",
    loses="everything: no event could be taken",
)
def answers(room: HeadSandbox, effort: TimeBudget) -> Measured:
    room.admin.list_topics(timeout=_ANSWER_S)  # where nobody is, nothing need be asked for and cleared away
    began = time.perf_counter()
    room.make(room.topic)
    took = (time.perf_counter() - began) * 1e3
    topic = room.admin.list_topics(room.topic, timeout=_ANSWER_S).topics[room.topic]
    if len(topic.partitions) != _PARTITIONS:
        raise Broken(f"a topic of {_PARTITIONS} partitions was asked for, and it has {len(topic.partitions)}")
    return Measured(f"topic made in {took:.0f} ms", make_ms=took)


@promise(
    "records are acknowledged",
    loses="questions and verdicts would wait, or be refused",
)
def acknowledged(room: HeadSandbox, effort: TimeBudget) -> Measured:
    producer = room.producer(linger_ms=0)
    seconds = []
    for _ in effort.rounds(20, 300):
        began = time.perf_counter()
        room.append([os.urandom(_EVENT_BYTES)], partition=0, producer=producer)
        seconds.append(time.perf_counter() - began)
    words, figures = latency("append", seconds)
    count = 20_000 if effort.seconds >= 1 else 2_000
    values = [b"x" * _EVENT_BYTES] * count
    began = time.perf_counter()
    room.append(values)
    rate = count * _EVENT_BYTES / 1e6 / (time.perf_counter() - began)
    return Measured(f"{words}; {rate:.1f} MB/s of {_EVENT_BYTES} B", **figures, append_mb_per_s=rate)


@promise(
    "what was acknowledged is there, as it was written",
    loses="documents, answers and verdicts that users were told are safe",
)
def survives(room: HeadSandbox, effort: TimeBudget) -> Measured:
    places: Places = {}
    for number in effort.rounds(3, 20):
        places |= room.append([f"{number}/{index}".encode() + os.urandom(200) for index in range(200)])
    start = {partition: min(offset for p, offset in places if p == partition) for partition, _ in places}
    values = {(m.partition(), m.offset()): m.value() for m in room.read(start, len(places))}
    if lost := places.keys() - values.keys():
        partition, offset = min(lost)
        raise Broken(f"{len(lost)} of {len(places)} acknowledged records are gone, the first at offset {offset} of {partition}")
    for place, value in places.items():
        if values[place] != value:
            raise Broken(f"the record at offset {place[1]} of partition {place[0]} is not the one acknowledged there")
    return Measured(f"{len(places):,} records, read by a fresh consumer", records=len(places))


@promise(
    "a partition keeps the order it was given",
    loses="a document deleted after it was put could stay indexed; a verdict could land before it was changed",
)
def order(room: HeadSandbox, effort: TimeBudget) -> Measured:
    start = {1: room_end(room, 1), 2: room_end(room, 2)}
    count = 3_000
    for partition in start:
        room.append([f"{number}".encode() for number in range(count)], partition=partition)
    sequence = defaultdict(list)
    for message in room.read(start, 2 * count):
        sequence[message.partition()].append((message.offset(), int(message.value())))
    for partition, places in sequence.items():
        for (offset, number), (later, following) in itertools.pairwise(places):
            if later <= offset:
                raise Broken(f"partition {partition} gave offset {later} after {offset}")
            if following != number + 1:
                raise Broken(f"in partition {partition} record {following} came after record {number}")
    if any(len(sequence[partition]) != count for partition in start):
        raise Broken(f"of {count} records {min(len(sequence[p]) for p in start)} came back")
    return Measured(f"{2 * count:,} records in 2 partitions", records=2 * count)


@promise(
    "offsets are given in turn and never twice",
    loses="events would land twice or be taken for landed: rows are told apart by their offset",
)
def offsets(room: HeadSandbox, effort: TimeBudget) -> Measured:
    start = room_end(room, 0)
    acknowledged: list[int] = []
    with ThreadPoolExecutor(3) as threads:
        each = 300
        batches = [[f"{who}/{number}".encode() for number in range(each)] for who in range(3)]
        for places in threads.map(lambda values: room.append(values, partition=0), batches):
            acknowledged.extend(offset for _, offset in places)
    if len(set(acknowledged)) != len(acknowledged):
        raise Broken(f"{len(acknowledged) - len(set(acknowledged))} offsets were given to two records of three producers at once")
    if sorted(acknowledged) != list(range(start, start + len(acknowledged))):
        gap = next(offset for offset in range(start, start + len(acknowledged) + 1) if offset not in set(acknowledged))
        raise Broken(f"offset {gap} was skipped: {len(acknowledged)} records stand at {min(acknowledged)} to {max(acknowledged)}")
    return Measured(f"{len(acknowledged):,} records of 3 producers at once", records=len(acknowledged))


@promise(
    "reading begins at the offset asked for",
    loses="a lander started again would lose events, or land them twice",
)
def resumes(room: HeadSandbox, effort: TimeBudget) -> Measured:
    places = room.append([f"{number}".encode() for number in range(100)], partition=1)
    rounds = 0
    for rounds in effort.rounds(3, 10):
        wanted = sorted(places)[(37 * rounds) % len(places)]
        if not (records := room.read({1: wanted[1]}, 1)):
            raise Broken(f"nothing came from offset {wanted[1]} on, where a record was acknowledged")
        if records[0].offset() != wanted[1] or records[0].value() != places[wanted]:
            raise Broken(f"offset {wanted[1]} was asked for, and {records[0].offset()} came")
    return Measured(f"{rounds + 1} fresh consumers", consumers=rounds + 1)


@promise(
    "an event of 1 MB is taken",
    loses="answers with long passages would be refused",
)
def large(room: HeadSandbox, effort: TimeBudget) -> Measured:
    value = os.urandom(_LARGE_BYTES)
    producer = room.producer(message_max_bytes=_LARGE_BYTES + 65_536)
    began = time.perf_counter()
    (place,) = room.append([value], partition=2, producer=producer)
    took = (time.perf_counter() - began) * 1e3
    records = room.read({2: place[1]}, 1)
    if not records or records[0].value() != value:
        raise Broken("a record of 1,000,000 bytes was acknowledged and did not come back as it was")
    return Measured(f"1,000,000 bytes in {took:.0f} ms", append_ms=took)


@promise(
    "the reported end is the end",
    loses="`headrace land --once` would wait in vain for events that the head says there are",
)
def end(room: HeadSandbox, effort: TimeBudget) -> Measured:
    low_ms = 0.0
    for _ in range(3):
        (*_, last) = sorted(room.append([f"{number}".encode() for number in range(50)], partition=0))
        true, began = last[1] + 1, time.monotonic()
        while (reported := room.end(0)) < true:
            if time.monotonic() - began > _MOMENT_S:
                raise Unknown(
                    f"it stayed {true - reported} records low for {_MOMENT_S:.0f} s; Headrace reads on until nothing comes, so"
                    " nothing is lost, but a lag is shown low by as much",
                    Measured(f"{true - reported} low", records_low=true - reported),
                )
            time.sleep(0.01)
        if reported > true:
            raise Broken(f"the end was reported as {reported}, and the last record stands at {last[1]}")
        low_ms = max(low_ms, (time.monotonic() - began) * 1e3)
    return Measured(f"right within {low_ms:.0f} ms", late_ms=low_ms)


@promise(
    "the cluster has an id",
    loses="a cluster put in another's place would be found out only by its offsets",
)
def cluster_id(room: HeadSandbox, effort: TimeBudget) -> Measured:
    first = room.admin.list_topics(timeout=_ANSWER_S).cluster_id
    if not first:
        raise Unknown("it gives none: a cluster re-created under the same address is recognised by its offsets alone")
    with room.consumer() as consumer:
        if (second := consumer.list_topics(timeout=_ANSWER_S).cluster_id) != first:
            raise Broken(f"one client was told {first}, another {second}: a lander would take it for another cluster and stop")
    return Measured(str(first))


@promise(
    "a topic re-created under its name has another id",
    loses="the events of a re-created topic would be taken for landed up to the old offset",
)
def topic_id(room: HeadSandbox, effort: TimeBudget) -> Measured:
    before = room.id()
    if not before:
        raise Unknown("it gives topics no ids: one re-created under its name is recognised by its offsets alone")
    if (again := room.id()) != before:
        raise Broken(f"the same topic was given as {before} and as {again}")
    room.delete(room.topic)
    room.make(room.topic)
    if room.id() == before:
        raise Broken(f"it is {before} both before and after")
    (place,) = room.append([b"first"], partition=0)
    if place[1] != 0:
        raise Broken(f"the first record of a new topic stands at offset {place[1]}")
    return Measured("new id, offsets from 0 again")


@promise(
    "offsets are found by time",
    loses="the age of what has not landed would have to be read from the records themselves",
)
def by_time(room: HeadSandbox, effort: TimeBudget) -> Measured:
    first = 1_700_000_000_000
    producer = room.producer()
    reported: list[int] = []
    for number in range(10):
        producer.produce(
            room.topic,
            b"t",
            partition=2,
            timestamp=first + number * 1000,
            on_delivery=lambda error, message: None if error else reported.append(message.offset()),
        )
        producer.flush(_ANSWER_S)
    if len(reported) != 10:
        raise Broken(f"of 10 records with a time of their own {len(reported)} were acknowledged")
    with room.consumer() as consumer:
        lookups = [TopicPartition(room.topic, 2, first + 4500), TopicPartition(room.topic, 2, first + 10**9)]
        answers = [consumer.offsets_for_times([one], timeout=_ANSWER_S)[0].offset for one in lookups]
    if answers[0] != reported[5] or 0 <= answers[1] <= reported[-1]:
        raise Unknown(f"offset {answers[0]} instead of {reported[5]}; Headrace reads the times of the records themselves")
    return Measured("to the record")


@promise(
    "records that have landed can be deleted",
    loses="the head could not be trimmed to what the tables hold; the topic's own retention has to do it",
)
def trimmed(room: HeadSandbox, effort: TimeBudget) -> Measured:
    if room.embedded:
        raise Unknown("not asked of the embedded head, which ends the connection; Headrace deletes where it keeps its records")
    places = sorted(room.append([f"{number}".encode() for number in range(20)], partition=1))
    wanted = places[10][1]
    try:
        futures = room.admin.delete_records([TopicPartition(room.topic, 1, wanted)], request_timeout=5, operation_timeout=5)
        low = next(iter(futures.values())).result(_ANSWER_S).low_watermark
    except (KafkaException, TimeoutError) as error:
        raise Unknown(f"refused ({describe(error)}): the head is trimmed by its retention, and a metric warns before") from None
    if low != wanted:
        raise Broken(f"everything before offset {wanted} was to go, and the topic now begins at {low}")
    records = room.read({1: wanted}, 10)
    if [m.offset() for m in records] != [offset for _, offset in places[10:]]:
        raise Broken("records behind the deleted ones went with them")
    return Measured("10 of 20 records", records=10)


def room_end(room: HeadSandbox, partition: int) -> int:
    """Where the next record of a partition will stand: a broker may report an end that is low, a record cannot lie."""
    (place,) = room.append([b"end"], partition=partition)
    return place[1] + 1


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[HeadSandbox]:
    """A room on the head."""
    room = HeadSandbox(endpoints, embedded=isinstance(settings.head, EmbeddedPart))
    try:
        yield room
    finally:
        room.clear()


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
