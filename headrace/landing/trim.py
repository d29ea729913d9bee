"""trim: deletes from the broker what a table has held for a while. What has not landed is never trimmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from headrace.catalog import LANDINGS, Store
from headrace.core.stage import each, stage
from headrace.landing.positions import disagreement, positions
from headrace.storage.stream.reader import TopicReader
from headrace.storage.tables.handles import TableReader


@dataclass(frozen=True)
class Trimmed:
    """The number of records deleted from a partition, and the first offset that remains."""

    topic: str
    partition: int
    records: int
    low: int


@stage("Deletes from the broker what a table holds.")
def trim(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableReader], each(LANDINGS.values())],
    keep_s: float,
) -> list[Trimmed]:
    """Trim every partition up to what a snapshot at least `keep_s` seconds old holds; stopped partitions are left alone.

    Raises `WrongUsage` if the broker cannot delete records.
    """
    return [one for topic, table in zip(topics.values(), tables.values(), strict=True) for one in _of(topic, table, keep_s)]


def _of(topic: TopicReader, table: TableReader, keep_s: float) -> list[Trimmed]:
    name = topic.store.name
    before_window = positions(table.snapshot_properties(datetime.now(UTC) - timedelta(seconds=keep_s)), name)
    newest = positions(table.snapshot_properties(), name)
    spans, identity = topic.spans(), topic.identity()
    before = {}
    for partition, span in spans.items():
        then, now = before_window.get(partition), newest.get(partition)
        if then is None or now is None or now.last is None or then.topic_epoch != now.topic_epoch:
            continue
        # Keep the last landed record: the next lander recognises the head by it.
        upto = min(then.next, now.last[0])
        if upto > span.low and disagreement(topic, partition, now, span, identity) is None:
            before[partition] = upto
    lows = topic.forget(before)
    return [Trimmed(name, partition, low - spans[partition].low, low) for partition, low in lows.items()]
