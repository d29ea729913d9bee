"""backlog: events per partition that have not landed, and how soon the broker will delete them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from headrace.catalog import LANDINGS, Store
from headrace.core.stage import each, stage
from headrace.landing.positions import Divergence, Position, disagreement, positions
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.topic import Identity, Span
from headrace.storage.tables.handles import TableReader

_SAMPLE = 1000
_COUNTING_S = 3.0
_NEAR = 0.5  # share of the broker's retention at which a warning is due


@dataclass(frozen=True)
class Backlog:
    """The backlog of one partition: `bytes` (extrapolated from its first records if `estimated`) and the oldest event's age.

    `trouble` is a sentence about what needs attention, with the command to run; empty if nothing does.
    """

    topic: str
    partition: int
    low: int
    end: int
    landed: int
    lag: int
    bytes: int
    estimated: bool
    oldest_s: float | None
    retention_s: float | None
    trouble: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@stage("Reports which events of the head have not landed.")
def backlog(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableReader], each(LANDINGS.values())],
) -> list[Backlog]:
    """The backlog of every partition of every topic that lands."""
    return [partition for topic, table in zip(topics.values(), tables.values(), strict=True) for partition in _of(topic, table)]


def _of(topic: TopicReader, table: TableReader) -> list[Backlog]:
    landed_positions = positions(table.snapshot_properties(), topic.store.name)
    spans, identity = topic.spans(), topic.identity()
    retention_ms = topic.retention_ms()
    return [_one(topic, p, landed_positions.get(p), span, identity, retention_ms) for p, span in spans.items()]


def _one(
    topic: TopicReader, partition: int, position: Position | None, span: Span, identity: Identity, retention_ms: int | None
) -> Backlog:
    landed = position.next if position else 0
    divergence = disagreement(topic, partition, position, span, identity)
    first = max(span.low, landed) if divergence is None else span.low
    rows = size = 0
    oldest_s = None
    for fetched in topic.read({partition: first}, most=_SAMPLE):
        if oldest_s is None:
            oldest_s = max(0.0, time.time() - fetched.record(0).at_ms / 1000)
        rows += len(fetched)
        size += sum(map(len, filter(None, fetched.values)))
        if rows >= _SAMPLE:
            break
    end = first + rows if rows < _SAMPLE else counted_end(topic, partition, max(span.end, first + rows))
    lag = end - first
    if rows < lag and rows:
        size = round(size / rows * lag)
    retention_s = retention_ms / 1000 if retention_ms is not None else None
    return Backlog(
        topic.store.name, partition, span.low, end, landed, lag, size, rows < lag, oldest_s, retention_s,
        _trouble(divergence, oldest_s, retention_s),
    )  # fmt: skip


def counted_end(topic: TopicReader, partition: int, reported: int) -> int:
    """The next offset, found by reading past the reported end, which a broker may report far too low."""
    until, end = time.monotonic() + _COUNTING_S, reported
    for fetched in topic.read({partition: reported}):
        end += len(fetched)
        if time.monotonic() > until:
            break
    return end


def _trouble(divergence: Divergence | None, oldest_s: float | None, retention_s: float | None) -> str:
    if divergence is not None:
        return f"{divergence.kind}: {divergence.seen} {divergence.remedy}"
    if oldest_s is not None and retention_s is not None and oldest_s > _NEAR * retention_s:
        return f"The oldest event that has not landed is at {oldest_s / retention_s:.0%} of the broker's retention: headrace land"
    return ""
