"""A topic, and what its readers and writers share: clients, and Headrace's errors for theirs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.catalog import Store
from headrace.errors import Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter, Metered
from headrace.storage.signature import Signer

TIMEOUT_S = 20.0
RECORD_BYTES = 4 << 20
"""Largest record that the client sends or accepts; a broker may allow less."""


@dataclass(frozen=True)
class Record:
    """One record of the head; `at_ms` is its timestamp in milliseconds since the epoch."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    at_ms: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the record among others at the same offset."""
        parts = (self.key or b"", self.value or b"", str(self.at_ms).encode())
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Span:
    """Offsets of one partition in the head: from `low` up to but not including `end`."""

    low: int
    end: int


@dataclass(frozen=True)
class Identity:
    """Ids of cluster and topic; `None` if the broker does not report them."""

    cluster: str | None
    topic: str | None


@dataclass
class _Link:
    """Shared state of all handles on a topic: its clients, and how far each partition has been written."""

    made: bool = False
    looked_through: set[int] = field(default_factory=set)  # partitions checked for batches that could crash the client
    administrator: AdminClient | None = None
    producer: Producer | None = None
    floor: dict[int, int] = field(default_factory=dict)  # partition → lowest offset that the broker can still assign
    opening: threading.Lock = field(default_factory=threading.Lock)


class Topic(Metered):
    """A handle on one topic."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.meter = meter
        self._endpoints = endpoints
        self._bootstrap = endpoints.kafka_bootstrap
        self._records = endpoints.records
        self._base = {"bootstrap.servers": endpoints.kafka_bootstrap, **endpoints.kafka_properties}
        self._signer = Signer(endpoints.signing_key, store.name) if endpoints.signing_key else None
        self._link = _Link()

    def __reduce__(self) -> tuple[Any, ...]:
        """A handle reconnects when it is unpickled."""
        return type(self), (self.store, self._endpoints, self.meter)

    def ensure(self) -> None:
        """Create the topic if it is missing."""
        if self._link.made:
            return
        try:
            known = self._admin().list_topics(timeout=TIMEOUT_S).topics
            if self.store.name not in known:
                new = NewTopic(self.store.name, num_partitions=self.store.partitions)
                self._admin().create_topics([new])[self.store.name].result(timeout=TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._unavailable(error) from error
        self._link.made = True

    def _admin(self) -> AdminClient:
        with self._link.opening:
            if self._link.administrator is None:
                self._link.administrator = AdminClient(self._client({}))
            return self._link.administrator

    def _client(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        # Silence librdkafka's own log on stderr; users see our errors.
        return {**self._base, "log_level": 0, "error_cb": _ignore, **extra}

    def _unavailable(self, error: BaseException | str) -> Unavailable:
        return Unavailable(
            f"Topic {self.store.name} cannot be reached at {self._bootstrap}: {_reason(error)}.",
            hint="Check that Kafka runs there (`headrace endpoints`) and run the command again.",
        )


def _ignore(_: KafkaError) -> None:
    """Does nothing: errors that matter are returned by the call that met them."""


def unsupported(error: Exception) -> bool:
    """Whether a broker refused since it does not know the request."""
    codes = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)
    return isinstance(error, ValueError) or (isinstance(error, KafkaException) and error.args[0].code() in codes)


def _reason(error: BaseException | str) -> str:
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error.args[0].str()).rstrip(".")
    return str(error).rstrip(".")
