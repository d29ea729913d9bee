"""Workloads of a Kafka cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence

from headrace.check.head import HeadSandbox
from headrace.check.workloads.workload import Effort, Timed, Workload, drive, workload

_EVENT_BYTES = 250
_BATCH = 5_000


@workload("append, one by one")
def append(sandbox: HeadSandbox, effort: Effort) -> Timed:
    """Single events, each acknowledged by all in-sync replicas before its producer sends the next."""
    producers = [sandbox.producer(linger_ms=0) for _ in range(effort.concurrency)]
    data = os.urandom(_EVENT_BYTES)

    def run(number: int) -> int:
        sandbox.append([data], partition=number % 3, producer=producers[number % len(producers)])
        return len(data)

    shape = f"events of {_EVENT_BYTES} B, acks=all, each producer waits for each"
    return drive(run, effort, shape, least=4 * effort.concurrency)


@workload("append, in bulk")
def bulk(sandbox: HeadSandbox, effort: Effort) -> Timed:
    """Batches of events by one producer."""
    values = [os.urandom(_EVENT_BYTES)] * (500 if effort.quick else _BATCH)

    def run(number: int) -> int:
        sandbox.append(values)
        return len(values) * _EVENT_BYTES

    return drive(
        run, Effort(effort.seconds, 1), f"{len(values):,} events of {_EVENT_BYTES} B an operation, acks=all, one producer"
    )


@workload("read, in bulk")
def read(sandbox: HeadSandbox, effort: Effort) -> Timed:
    """What was appended, by new consumers."""
    appended = sandbox.append([os.urandom(_EVENT_BYTES)] * (500 if effort.quick else 4 * _BATCH), partition=0)
    first = min(offset for _, offset in appended)

    def run(number: int) -> int:
        messages = sandbox.read({0: first}, len(appended))
        return sum(len(message.value() or b"") for message in messages)

    shape = f"{len(appended):,} events of {_EVENT_BYTES} B an operation, each by a new consumer"
    return drive(run, Effort(effort.seconds, 1), shape)


WORKLOADS: Sequence[Workload[HeadSandbox]] = (append, bulk, read)
