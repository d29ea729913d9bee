"""CloudEvents 1.0 on Kafka topics of other programs (Kafka protocol binding 1.0.2): written in structured mode, read in both."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from headrace.catalog import Store, Tier, stores
from headrace.errors import BadSettings, Unavailable
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.stream.topic import RECORD_BYTES

_TIMEOUT_MS = 60_000  # after which the client gives a record up; its delivery is tried again
EVENT_BYTES = 64 << 10
"""The largest event of another program that is passed on: so many are by everybody (CloudEvents 1.0.2, section 5).

Each is kept in the metadata store until it is delivered, and any number may be written to a topic.
"""
_LIST_S, _WAIT_S, _AT_ONCE = 5.0, 0.2, 500
_FEW, _BYTES = 20, 16 << 20  # records taken from the client's queue together, and bytes after which no more are
_DEEP = 100
MEDIA = "application/cloudevents+json"

CLOUD_EVENTS = Store("cloud-events", Tier.STREAM, "what happened, for and from other programs, as CloudEvents", "its owner's")
"""In the ledger, any topic that a trigger names. It is its owner's and not landed, so it is not in the catalog."""


def _require_foreign(topic: str) -> None:
    if topic in {store.name for store in stores(Tier.STREAM)}:
        raise BadSettings(f"Topic {topic} is Headrace's own.", hint="Name another topic for the events of a trigger.")


class CloudEventWriter:
    """Writes to one topic; safe to share between threads."""

    def __init__(self, topic: str, client: Mapping[str, str], meter: Meter) -> None:
        _require_foreign(topic)
        self._topic, self._meter = topic, meter
        config: dict[str, Any] = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": _TIMEOUT_MS,
            **client,
        }
        self._producer = Producer(config)
        self._polling = threading.Lock()

    def write(self, event: Mapping[str, Any], timeout_s: float) -> None:
        """Write an event, and return once it is acknowledged. Raises `Unavailable`."""
        answers: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            answers.append(error)

        value, key = json.dumps(event).encode(), str(event.get("subject", event["id"])).encode()
        headers: list[tuple[str, str | bytes | None]] = [("content-type", f"{MEDIA}; charset=utf-8")]
        with self._meter.operation(CLOUD_EVENTS, Direction.WRITE) as operation:
            operation.bytes = len(value) + len(key)
            try:
                self._producer.produce(self._topic, value, key, headers=headers, on_delivery=delivered)
            except (KafkaException, BufferError) as error:
                raise self._unavailable(str(error)) from error
            end = time.monotonic() + timeout_s
            while not answers and time.monotonic() < end:
                with self._polling:
                    self._producer.poll(0.05)
        if not answers or answers[0] is not None:
            raise self._unavailable(answers[0].str() if answers and answers[0] else f"not acknowledged within {timeout_s:g} s")

    def _unavailable(self, said: str) -> Unavailable:
        return Unavailable(f"Topic {self._topic} cannot be written: {said}.", hint="Check that it exists, and its broker.")


@dataclass(frozen=True)
class ReadEvents:
    """Events of a topic, and the offset behind them of each partition; `refused`: records that are not events, and why."""

    events: list[dict[str, Any]]
    refused: list[tuple[str, str]]
    offsets: dict[int, int]


class CloudEventReader:
    """Reads one topic from given offsets, which the caller keeps: nothing is committed to a consumer group. For one thread."""

    def __init__(self, topic: str, client: Mapping[str, str], meter: Meter) -> None:
        _require_foreign(topic)
        self._topic, self._meter = topic, meter
        config: dict[str, Any] = {
            "group.id": "headrace",  # required by the client
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",  # where the topic has forgotten what was not read yet
            "fetch.message.max.bytes": RECORD_BYTES,
            **client,
        }
        self._consumer = Consumer(config)
        self._assigned: set[int] = set()
        self._reached: dict[int, int] = {}

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def read(self, offsets: Mapping[int, int] | None) -> ReadEvents:
        """What arrived behind `offsets`, without waiting for more; with `None` nothing, and where the topic ends.

        A partition that has none is read from its beginning: it is new. Raises `Unavailable`.
        """
        try:
            known = self._consumer.list_topics(self._topic, timeout=_LIST_S).topics[self._topic]
            if known.error is not None:
                raise KafkaException(known.error)
            partitions = sorted(known.partitions)
            if offsets is None:
                return ReadEvents([], [], {partition: self._ends(partition) for partition in partitions})
            wanted = {partition: offsets.get(partition, 0) for partition in partitions}
            if wanted != self._reached:
                self._consumer.assign([TopicPartition(self._topic, partition, at) for partition, at in wanted.items()])
                self._reached = dict(wanted)
            began = time.perf_counter()
            messages = self._messages()
            seconds = time.perf_counter() - began
        except KafkaException as error:
            self._reached = {}
            raise self._unavailable(error.args[0].str()) from error
        read = ReadEvents([], [], dict(wanted))
        size = 0
        for message in messages:
            if (fault := message.error()) is not None:
                self._reached = {}
                raise self._unavailable(fault.str())
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            size += _size(message)
            read.offsets[partition] = offset + 1
            try:
                read.events.append(event_of(message))
            except ValueError as error:
                read.refused.append((f"{self._topic}/{partition}/{offset}", str(error)))
        self._meter.count(CLOUD_EVENTS, Direction.READ, bytes=size, seconds=seconds)
        self._reached = dict(read.offsets)
        return read

    def _messages(self) -> list[Message]:
        """Some of what is there."""
        found: list[Message] = []
        size = 0
        while len(found) < _AT_ONCE and size < _BYTES:
            some = self._consumer.consume(_FEW, timeout=0.0 if found else _WAIT_S)
            if not some:
                break
            found += some
            size += sum(map(_size, some))
        return found

    def _ends(self, partition: int) -> int:
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_LIST_S, cached=False)
        return int(end)

    def _unavailable(self, said: str) -> Unavailable:
        return Unavailable(f"Topic {self._topic} cannot be read: {said}.", hint="Check that it exists, and its broker.")


def event_of(message: Message) -> dict[str, Any]:
    """The event in a record, in the JSON format. Raises `ValueError` with the reason where there is none."""
    if (size := _size(message)) > EVENT_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {EVENT_BYTES:,}: let it say where the rest is")
    headers = {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in message.headers() or ()}
    body, kind = message.value() or b"", headers.get("content-type", "")
    if "ce_specversion" in headers:
        event: Any = {name.removeprefix("ce_"): value for name, value in headers.items() if name.startswith("ce_")}
        event |= {"datacontenttype": kind} if kind else {}
        event |= _data(body, kind)
    else:
        try:
            event = _json(body)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON, and has no header ce_specversion") from None
    if not isinstance(event, dict):
        raise ValueError("it is no JSON object")
    if event.get("specversion") != "1.0":
        raise ValueError("it is no CloudEvent of version 1.0")
    for name in ("id", "source", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ValueError(f"it has no {name}")
    if _is_deep(event):
        raise ValueError(f"it is nested more than {_DEEP} times")
    return event


def _size(message: Message) -> int:
    """The bytes of a record's value and headers."""
    return len(message.value() or b"") + sum(len(name) + len(value or b"") for name, value in message.headers() or ())


def _json(body: bytes) -> Any:
    return json.loads(body, parse_constant=_refuse, parse_float=_finite)


def _finite(number: str) -> float:
    """1e400 is JSON, but Python reads it as infinity, and would write that."""
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    """NaN and infinities, which Python reads, are not JSON: who is sent them could not read the event."""
    raise ValueError(constant)


def _is_deep(value: Any) -> bool:
    """Whether a value is nested so deeply that it may be read, but not written again."""
    level = [value]
    for _ in range(_DEEP):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _data(body: bytes, kind: str) -> dict[str, Any]:
    """The data of an event in binary mode, as the JSON format has it."""
    if not body:
        return {}
    if kind.partition(";")[0].strip() in ("", "application/json") or kind.partition(";")[0].strip().endswith("+json"):
        try:
            return {"data": _json(body)}
        except (ValueError, RecursionError):
            pass
    try:
        return {"data": body.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(body).decode()}
