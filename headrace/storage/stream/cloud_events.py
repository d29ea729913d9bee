"""Writes CloudEvents 1.0 to a Kafka topic, in structured mode (the Kafka protocol binding 1.0.2, section 3.3)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.catalog import CLOUD_EVENTS, Tier, stores
from headrace.errors import BadSettings, Unavailable
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter

_TIMEOUT_MS = 60_000  # after which the client gives a record up; its delivery is tried again
MEDIA = "application/cloudevents+json"


class CloudEventWriter:
    """Writes to one topic; safe to share between threads."""

    def __init__(self, topic: str, client: Mapping[str, str], meter: Meter) -> None:
        if topic in {store.name for store in stores(Tier.STREAM)}:
            raise BadSettings(f"Topic {topic} is Headrace's own.", hint="Name another topic for the events of a trigger.")
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
