"""Notifications of a bucket on a Kafka topic of its owner: which objects were written, deleted or tagged.

The format is that of AWS S3 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html), which
MinIO, Ceph and others send, too. Notifications only say where to look: nothing is committed to a consumer group, and the reader
lists the bucket after `start`, so that what was sent before or is lost is found by the listing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.catalog import Store
from headrace.errors import Unavailable
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter

_TIMEOUT_S, _AT_ONCE = 5.0, 1_000
_MOST = 100_000  # notifications taken at a time; for more a listing is cheaper
_LOST = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)


@dataclass(frozen=True)
class Notified:
    """The keys that notifications named for a bucket. Without `complete` there are others: the bucket has to be listed."""

    keys: frozenset[str]
    complete: bool


class BucketNotifications:
    """Reads a topic from its end on; for one thread. Raises `Unavailable` where the broker does not answer."""

    def __init__(self, topic: str, properties: Mapping[str, str], store: Store, meter: Meter) -> None:
        self._topic, self._properties = topic, properties
        self._store, self._meter = store, meter
        self._consumer: Consumer | None = None
        self._failed = ""

    def start(self) -> None:
        """Read from the end of the topic on, which is to be followed by a listing."""
        self.close()
        config: dict[str, Any] = {
            "group.id": "headrace",  # required by the client; nothing is ever committed to it
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "error_cb": self._note,
            **self._properties,
        }
        consumer = Consumer(config)
        try:
            known = consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
            if known.error is not None:
                raise KafkaException(known.error)
            ends = []
            for partition in known.partitions:
                _, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_TIMEOUT_S, cached=False)
                ends.append(TopicPartition(self._topic, partition, end))
            consumer.assign(ends)
        except KafkaException as error:
            consumer.close()
            raise self._unavailable(error.args[0].str()) from error
        self._consumer, self._failed = consumer, ""

    def take(self, bucket: str) -> Notified:
        """What arrived since the last call, without waiting for more."""
        if self._consumer is None:
            raise self._unavailable("it was not started")
        keys, complete, count = set[str](), True, 0
        wait_s = 0.2  # the client fetches ahead, so what is there is there
        while count < _MOST:
            began = time.perf_counter()
            messages = self._consumer.consume(_AT_ONCE, timeout=wait_s)
            if not messages:
                break
            size = sum(len(message.value() or b"") for message in messages if message.error() is None)
            self._meter.count(self._store, Direction.READ, bytes=size, seconds=time.perf_counter() - began)
            for message in messages:
                complete = self._read(message, bucket, keys) and complete
            count += len(messages)
            wait_s = 0.05
        if self._failed:
            failed, self._failed = self._failed, ""
            raise self._unavailable(failed)
        return Notified(frozenset(keys), complete and count < _MOST)

    def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _read(self, message: Message, bucket: str, keys: set[str]) -> bool:
        """Add what a record names; whether it could be read."""
        error = message.error()
        if error is not None:
            if error.code() in _LOST:
                return False
            raise self._unavailable(error.str())
        named = named_in(message.value() or b"")
        if named is None:
            return False
        keys.update(key for name, key in named if name == bucket)
        return True

    def _note(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._failed = error.str()

    def _unavailable(self, said: str) -> Unavailable:
        return Unavailable(
            f"The notifications on topic {self._topic} cannot be read: {said}.",
            hint="Check notifications of this source under [[sources]], and that its broker runs.",
        )


def named_in(value: bytes) -> list[tuple[str, str]] | None:
    """The bucket and key of each object that a record is about; `None` where it is no notification."""
    try:
        records = json.loads(value)["Records"]
        named = [(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"])) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _test_event(value)
    return named if all(isinstance(name, str) for name, _ in named) else None


def _test_event(value: bytes) -> list[tuple[str, str]] | None:
    """Nothing for the event with which AWS tries a new configuration."""
    try:
        return [] if json.loads(value)["Event"] == "s3:TestEvent" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
