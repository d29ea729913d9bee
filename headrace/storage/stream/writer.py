"""Appends to a topic, and waits until the head has acknowledged it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from headrace.storage.ledger import Direction
from headrace.storage.records import encode
from headrace.storage.signature import SIGNATURE_BYTES
from headrace.storage.stream.topic import RECORD_BYTES, TIMEOUT_S, Topic

_SETTLED_S = 0.01  # between two checks whether another thread received our delivery reports


class TopicWriter(Topic):
    """Appends records to one topic; `append` returns when the head has acknowledged them."""

    def append(self, rows: Sequence[Mapping[str, Any]], *, key: str, patience_s: float = TIMEOUT_S + 5) -> list[tuple[int, int]]:
        """Append rows of the store's schema, keyed by their field `key`; returns (partition, offset) of each, in order.

        When this returns, all in-sync replicas have acknowledged every row. Raises `Unavailable` if any is not acknowledged
        within `patience_s` seconds, or with an offset that was already assigned: Tansu does that when its store is gone, and
        has then not kept the record.
        """
        if not rows:
            return []
        producer, floor = self._open()
        appended: list[tuple[int, int] | None] = [None] * len(rows)
        failures: list[KafkaError] = []

        def delivered(index: int) -> Any:
            def note(error: KafkaError | None, message: Message) -> None:
                if error is not None:
                    failures.append(error)
                else:
                    appended[index] = (message.partition(), message.offset())

            return note

        with self.meter.operation(self.store, Direction.WRITE) as operation:
            operation.ops = len(rows)
            for index, row in enumerate(rows):
                name, value = str(row[key]).encode(), encode(self.store, row)
                operation.bytes += len(name) + len(value) + (SIGNATURE_BYTES if self._signer else 0)
                headers = self._signer.headers(name, value) if self._signer else []
                while True:
                    try:
                        producer.produce(self.store.name, value, name, on_delivery=delivered(index), headers=headers)
                        break
                    except BufferError:  # the local queue is full: let it drain
                        producer.poll(0.1)
                    except KafkaException as error:
                        raise self._unavailable(error) from error
            # Wait for these rows, not for an empty queue: others use the same producer.
            end = time.monotonic() + patience_s
            while not failures and None in appended and time.monotonic() < end:
                producer.poll(_SETTLED_S)
            if not failures and None in appended:
                producer.purge()  # rows given up must not be sent later
                producer.poll(_SETTLED_S)
                failures.clear()
        if failures:
            raise self._unavailable(failures[0].str())
        if any(one is None for one in appended):
            raise self._unavailable(f"not acknowledged within {patience_s:.0f} s")
        acknowledged = [one for one in appended if one is not None]
        with self._link.opening:
            for partition, offset in acknowledged:
                if offset < floor.get(partition, 0):
                    if self._link.producer is producer:
                        # A recreated topic begins at 0: the next call asks again.
                        self._link.producer, self._link.made = None, False
                    raise self._unavailable(f"it acknowledged an event at offset {offset}, which it had already assigned")
            if self._link.producer is producer:  # otherwise the floor belongs to a newer producer, which asked the head again
                for partition, offset in acknowledged:
                    self._link.floor[partition] = max(self._link.floor.get(partition, 0), offset + 1)
        return acknowledged

    def _open(self) -> tuple[Producer, dict[int, int]]:
        """The producer, and the lowest offset of each partition that it may now acknowledge."""
        self.ensure()
        link = self._link
        with link.opening:
            if link.producer is None:
                link.floor = self._ends()
                settings = {"acks": "all", "linger.ms": 5, "message.max.bytes": RECORD_BYTES}
                link.producer = Producer(self._client({**settings, "delivery.timeout.ms": int(TIMEOUT_S * 1000)}))
            return link.producer, dict(link.floor)

    def _ends(self) -> dict[int, int]:
        """The next offsets as reported by the head: they may be too low, but not too high."""
        consumer = Consumer(self._client({"group.id": "headrace"}))
        try:
            partitions = consumer.list_topics(self.store.name, timeout=TIMEOUT_S).topics[self.store.name].partitions
            named = [TopicPartition(self.store.name, partition) for partition in partitions]
            return {at.partition: consumer.get_watermark_offsets(at, timeout=TIMEOUT_S, cached=False)[1] for at in named}
        except KafkaException as error:
            raise self._unavailable(error) from error
        finally:
            consumer.close()
