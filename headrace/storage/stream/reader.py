"""Reads a topic. Partitions are assigned explicitly, and offsets are never kept in a consumer group."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import methodcaller
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from headrace.errors import OutOfRange, WrongUsage
from headrace.storage.ledger import Direction
from headrace.storage.signature import SIGNATURE_BYTES
from headrace.storage.stream.topic import RECORD_BYTES, TIMEOUT_S, Identity, Record, Span, Topic, unsupported
from headrace.storage.tansu import TansuRecords

log = logging.getLogger("headrace.landing")
# A partition is drained after an empty fetch (the client's end-of-partition event): silence may be a slow fetch, and Tansu
# reports ends far too low. After that event, wait a moment for records just acknowledged. A partition under constant writes
# has no empty fetch: there, a record newer than the start of reading counts.
_SILENCE_S = 0.15
# How long a fetch waits for more records behind its first one.
_TOGETHER_S = 0.01
# How long a broker may take to return a record it has; some never answer for an offset they do not have.
_ONE_RECORD_S = 5.0
# How long a broker may take to know a topic that it has just created, and what it says until then.
_KNOWN_S, _UNKNOWN_PAUSE_S = 5.0, 0.1
_UNKNOWN_YET = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.LEADER_NOT_AVAILABLE)
# fetch.wait.max.ms. Short, because Tansu waits that long while there is more; but it starts by listing every batch of the
# partition, and if that takes longer it never returns anything.
_GATHER_MS = (100, 1_000, 10_000)
_PACE_S = 3.0  # a reader's rate is measured this long before the broker gets more time, or less
_SLOW = 5_000  # records per second; above this rate, a reader needs no longer wait
_LATE_MS = 2_000  # a reader whose newest record is younger is at the end, even without an empty fetch
# The client's read-ahead per partition. A lander's memory is this plus one batch being read and one being written.
_AHEAD_KIB = 16 << 10
# How long the embedded head may return nothing before its batches are inspected: for an unreadable batch it stays silent, or
# fails every time.
_STUCK_S = 2.0
_UNREADABLE = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED, KafkaError._UNDERFLOW)
# A client that reads truncated gzip loops until the process ends.
_CLOSE_S = 10.0
_NOT_THERE = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)
# Called for a few hundred thousand records per second: as C calls they cost half as much as a loop.
_ERROR, _PARTITION, _OFFSET = methodcaller("error"), methodcaller("partition"), methodcaller("offset")
_KEY, _VALUE = methodcaller("key"), methodcaller("value")


class _Silent(Enum):
    SILENT = "silent"


_SILENT: Final = _Silent.SILENT


@dataclass(frozen=True)
class Fetched:
    """Records of a topic in offset order within each partition, as columns of equal length.

    `last` is the index of each partition's last record; `bytes` is the total size of keys and values.
    """

    partitions: list[int]
    offsets: list[int]
    values: list[bytes | None]
    messages: list[Message]
    last: dict[int, int]
    bytes: int

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, index: int) -> Record:
        """The record at an index."""
        return _record(self.messages[index])


class TopicReader(Topic):
    """Reads one topic from given offsets."""

    @property
    def signed(self) -> bool:
        """Whether events of this topic must be signed."""
        return self._signer is not None

    def forged(self, fetched: Fetched, signed_from: Mapping[int, int]) -> dict[int, str]:
        """The unsigned records at or beyond `signed_from` (offset by partition), by index, with the reason."""
        if self._signer is None:
            return {}
        return self._signer.forged(fetched.messages, fetched.values, signed_from)

    def identity(self) -> Identity:
        """The topic's identity, which changes if the cluster or the topic is recreated under the old name."""
        self.ensure()
        try:
            cluster = self._admin().list_topics(self.store.name, timeout=TIMEOUT_S).cluster_id
            description = self._admin().describe_topics(TopicCollection([self.store.name]))[self.store.name].result(TIMEOUT_S)
            topic = str(description.topic_id)
        except (KafkaException, ValueError) as error:
            if not unsupported(error):
                raise self._unavailable(error) from error
            topic = ""
        # All zeros, in base64, from a broker older than topic ids.
        return Identity(cluster or None, topic if topic.strip("A") else None)

    def spans(self) -> dict[int, Span]:
        """The span of each partition. Tansu may report an end too low, by thousands under load."""
        with self._consumer() as consumer:
            return self._spans(consumer)

    def record(self, partition: int, offset: int) -> Record | None:
        """The record at one offset, or `None` if the head does not have it.

        Some brokers never answer for a missing offset. Raises `Unavailable` if the head reports that it has the offset but
        does not return it.
        """
        self._look_through({partition: offset})
        record = self._found(partition, offset, zip(_GATHER_MS[:2], (_ONE_RECORD_S / 4, _ONE_RECORD_S), strict=True))
        if record is not _SILENT:
            return record
        if self._rewrite_foreign({partition: offset}):
            return self.record(partition, offset)
        span = self.spans()[partition]
        if not span.low <= offset < span.end:
            return None
        # A busy Tansu returns nothing from a fetch that lists for longer than it may gather.
        record = self._found(partition, offset, [(_GATHER_MS[-1], 4 * _ONE_RECORD_S)])
        if record is not _SILENT:
            return record
        raise self._unavailable(f"it reports offset {offset} of partition {partition} but does not return it")

    def _found(
        self, partition: int, offset: int, attempts: Iterable[tuple[int, float]]
    ) -> Record | Literal[_Silent.SILENT] | None:
        """The record at one offset, `None` if a fetch shows that there is none, `_SILENT` if no fetch returned anything.

        `attempts` are how long the broker may gather, in milliseconds, and for how many seconds to try that.
        """
        for gather_ms, patience_s in attempts:
            with self._consumer(gather_ms) as consumer:
                consumer.assign([TopicPartition(self.store.name, partition, offset)])
                until = time.monotonic() + patience_s
                while time.monotonic() < until:
                    try:
                        for fetched in self._fetch(consumer, 1, 0.2, {}, {}):
                            record = fetched.record(0)
                            return record if record.offset == offset else None
                    except OutOfRange:
                        return None
        return _SILENT

    def read(self, start: Mapping[int, int], *, most: int = 10_000, follow: bool = False) -> Iterator[Fetched]:
        """Read records of the partitions in `start`, each from its offset there, `most` at a time.

        Ends when everything is read that the head had at the start, or never with `follow` (which yields an empty `Fetched`
        about twice a second, so that the caller can stop). Raises `OutOfRange` if the head does not (or no longer) have an
        offset.
        """
        self.ensure()
        if not start:
            return
        ends: dict[int, int] | None = None
        reached, ended, newest_ms = dict(start), dict.fromkeys(start, -1), dict.fromkeys(start, 0)
        began_ms, quiet_since = int(time.time() * 1000), time.monotonic()
        ended_since: float | None = None
        pace = _Pace()
        self._look_through(reached)
        looked = time.monotonic()
        while True:
            with self._consumer(pace.gather_ms) as consumer:
                if ends is None:
                    ends = {partition: span.end for partition, span in self._spans(consumer).items() if partition in start}
                consumer.assign([TopicPartition(self.store.name, partition, offset) for partition, offset in reached.items()])
                while True:
                    records = 0
                    wait_s = 0.25 if follow else 0.1
                    if ended_since is not None:
                        wait_s = min(wait_s, max(0.01, ended_since + _SILENCE_S - time.monotonic()))
                    for fetched in self._fetch(consumer, most, wait_s, reached, ended):
                        records, quiet_since = len(fetched), time.monotonic()
                        newest_ms |= {p: fetched.messages[index].timestamp()[1] for p, index in fetched.last.items()}
                        yield fetched
                    if follow and not records:
                        yield Fetched([], [], [], [], {}, 0)
                    elif not follow and all(
                        reached[p] >= end and (ended[p] >= reached[p] or newest_ms[p] > began_ms) for p, end in ends.items()
                    ):
                        ended_since = ended_since or time.monotonic()
                        if time.monotonic() - ended_since >= _SILENCE_S:
                            return
                    elif not follow and time.monotonic() - quiet_since > (most_s := TIMEOUT_S + pace.gather_ms / 1000):
                        raise self._unavailable(f"no record in {most_s:.0f} s, although the head reports more")
                    # No fetch has reached their end, or later records are not returned.
                    held_up = {p: at for p, at in reached.items() if ended[p] < at or self._known_end(consumer, p) > at}
                    if records or not held_up:
                        looked = time.monotonic()
                    elif time.monotonic() - looked >= _STUCK_S:
                        looked = time.monotonic()
                        if self._rewrite_foreign(held_up):
                            break
                        # Offsets that were given out to batches which were never stored: nobody was told that they were.
                        for partition, at in self._without_more(held_up).items():
                            ended[partition] = at
                            ends[partition] = min(at, ends.get(partition, at))
                    late_ms = int(time.time() * 1000) - _LATE_MS
                    if pace.changed(records, {p: ended[p] >= at or newest_ms[p] > late_ms for p, at in reached.items()}):
                        break

    def _known_end(self, consumer: Consumer, partition: int) -> int:
        """A partition's end as of the last fetch, from the client's cache; negative before the first."""
        return int(consumer.get_watermark_offsets(TopicPartition(self.store.name, partition), cached=True)[1])

    def _look_through(self, start: Mapping[int, int]) -> None:
        """Before the first read of these partitions, rewrite batches from these offsets on that would crash or hang a client.

        Only compressed ones do: those that unpack to nothing or to more than memory holds, and truncated gzip.
        """
        if new := {partition: offset for partition, offset in start.items() if partition not in self._link.looked_through}:
            self._rewrite_foreign(new, compressed=True)
            self._link.looked_through |= new.keys()

    def _without_more(self, reached: Mapping[int, int]) -> dict[int, int]:
        """Those of the partitions of which the embedded head stores nothing from these offsets on, whatever end it reports."""
        if (records := self._tansu_records()) is None:
            return {}
        return {partition: at for partition, at in reached.items() if not records.holds(partition, at)}

    def _rewrite_foreign(self, reached: Mapping[int, int], *, compressed: bool = False) -> int:
        """Rewrite unreadable batches after these offsets; returns how many. Only for the embedded head."""
        if (records := self._tansu_records()) is None:
            return 0
        count = sum(records.rewrite_foreign(partition, at, compressed=compressed) for partition, at in reached.items())
        if count:
            log.warning("%d unreadable batches of %s were turned into dead letters", count, self.store.name)
        return count

    def retention_ms(self) -> int | None:
        """The broker's configured retention in milliseconds; `None`: unlimited or unknown."""
        try:
            resource = ConfigResource(ResourceType.TOPIC, self.store.name)
            config = self._admin().describe_configs([resource])[resource].result(TIMEOUT_S)
            value = int(config["retention.ms"].value)
        except (KafkaException, KeyError, ValueError, TypeError):
            return None
        return value if value >= 0 else None

    def forget(self, before: Mapping[int, int]) -> dict[int, int]:
        """Delete the records of each partition before an offset; returns the partitions' new low offsets.

        For the embedded head, whole batches are deleted from its bucket. Raises `WrongUsage` if a broker does not support it.
        """
        if (records := self._tansu_records()) is not None:
            return {partition: records.forget(partition, offset) for partition, offset in before.items()}
        offsets = [TopicPartition(self.store.name, partition, offset) for partition, offset in before.items()]
        try:
            answers = self._admin().delete_records(offsets, request_timeout=TIMEOUT_S) if offsets else {}
            return {at.partition: int(answer.result(TIMEOUT_S).low_watermark) for at, answer in answers.items()}
        except KafkaException as error:
            if not unsupported(error):
                raise self._unavailable(error) from error
            raise WrongUsage(
                f"The broker at {self._bootstrap} cannot delete records.",
                hint="Set trim = false under [landing] and let the broker's own retention do it.",
            ) from error

    def _consumer(self, gather_ms: int = _GATHER_MS[0]) -> _Closing:
        self.ensure()
        return _Closing(
            self,
            Consumer(
                self._client(
                    {
                        "group.id": "headrace",  # required by the client; nothing is ever committed to it
                        "enable.auto.commit": False,
                        "enable.partition.eof": True,
                        "auto.offset.reset": "error",
                        "isolation.level": "read_uncommitted",
                        "fetch.wait.max.ms": gather_ms,
                        "queued.max.messages.kbytes": _AHEAD_KIB,
                        "fetch.queue.backoff.ms": 10,  # by default it pauses for a second each time the queue is full
                        "fetch.message.max.bytes": RECORD_BYTES,
                    }
                )
            ),
        )

    def _spans(self, consumer: Consumer) -> dict[int, Span]:
        until = time.monotonic() + _KNOWN_S
        while (metadata := consumer.list_topics(self.store.name, timeout=TIMEOUT_S).topics[self.store.name]).error is not None:
            if metadata.error.code() not in _UNKNOWN_YET or time.monotonic() >= until:
                raise KafkaException(metadata.error)
            time.sleep(_UNKNOWN_PAUSE_S)
        spans = {}
        for partition in sorted(metadata.partitions):
            low, end = consumer.get_watermark_offsets(TopicPartition(self.store.name, partition), timeout=TIMEOUT_S, cached=False)
            if low and (records := self._tansu_records()) is not None:
                low = min(low, records.begins(partition))  # Tansu mistakes a rewritten batch for a late one
            spans[partition] = Span(low, end)
        return spans

    def _tansu_records(self) -> TansuRecords | None:
        """This topic's records in the embedded head's bucket; `None` for another broker."""
        if self._records is None or (cluster := self.identity().cluster) is None:
            return None
        return TansuRecords(self._records, cluster, self.store, self.meter)

    def _fetch(
        self, consumer: Consumer, most: int, wait_s: float, reached: dict[int, int], ended: dict[int, int]
    ) -> Iterator[Fetched]:
        """Fetch at most once. `reached` is set to the next offset, `ended` to where a fetch found nothing."""
        began = time.perf_counter()
        # The client waits until there are as many as it is asked for, and a single record must not wait for ten thousand.
        messages = consumer.consume(num_messages=1, timeout=wait_s)
        if messages and most > 1:
            messages += consumer.consume(num_messages=most - 1, timeout=_TOGETHER_S)
        seconds = time.perf_counter() - began
        if any(map(_ERROR, messages)):
            messages = self._without_errors(messages, reached, ended)
        if not messages:
            return
        partitions = list(map(_PARTITION, messages))
        offsets = list(map(_OFFSET, messages))
        values = list(map(_VALUE, messages))
        last = {p: len(partitions) - 1 - partitions[::-1].index(p) for p in set(partitions)}
        reached.update({partition: offsets[index] + 1 for partition, index in last.items()})
        size = sum(map(len, filter(None, values))) + sum(map(len, filter(None, map(_KEY, messages))))
        signatures = len(messages) * SIGNATURE_BYTES if self._signer else 0
        self.meter.count(self.store, Direction.READ, bytes=size + signatures, seconds=seconds)
        yield Fetched(partitions, offsets, values, messages, last, size)

    def _without_errors(self, messages: Sequence[Message], reached: dict[int, int], ended: dict[int, int]) -> list[Message]:
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                # The last offsets may hold no record, e.g. a transaction marker.
                partition = message.partition()
                reached[partition] = max(reached.get(partition, 0), message.offset())
                ended[partition] = message.offset()
            elif error.code() in _UNREADABLE and self._records is not None:
                continue  # it recurs until the batch is rewritten
            elif error.code() in _NOT_THERE:
                raise OutOfRange(self.store.name, message.partition())
            else:
                raise KafkaException(error)
        return good


class _Pace:
    """Adapts fetch.wait.max.ms: longer while a reader is behind and receives little."""

    def __init__(self) -> None:
        self._step = 0
        self._begin()

    @property
    def gather_ms(self) -> int:
        return _GATHER_MS[self._step]

    def changed(self, records: int, at_end: Mapping[int, bool]) -> bool:
        """Record a fetch's size and the partitions that are at their end; returns whether the wait has to change."""
        self._records += records
        self._met |= {partition for partition, there in at_end.items() if there}
        seconds = time.monotonic() - self._since
        if seconds < _PACE_S + 2 * self.gather_ms / 1000:
            return False
        step = self._step
        if len(self._met) == len(at_end):
            step = 0
        elif self._records < (1 if step else _SLOW * seconds):
            step = min(step + 1, len(_GATHER_MS) - 1)
        changed, self._step = step != self._step, step
        self._begin()
        return changed

    def _begin(self) -> None:
        self._since, self._records, self._met = time.monotonic(), 0, set[int]()


class _Closing:
    """A consumer for the duration of a block; its errors become ours."""

    def __init__(self, topic: TopicReader, consumer: Consumer) -> None:
        self._topic, self._consumer = topic, consumer

    def __enter__(self) -> Consumer:
        return self._consumer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if sys.is_finalizing():  # a generator left open: at exit, no thread can start, and waiting for one would hang
            return
        closing = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            log.error("a client of %s hangs and is abandoned; restart this process", self._topic.store.name)
        if isinstance(error, KafkaException):
            raise self._topic._unavailable(error) from error


def _record(message: Message) -> Record:
    return Record(message.partition(), message.offset(), message.key(), message.value(), message.timestamp()[1])
