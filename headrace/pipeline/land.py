"""land: the head into the tables, each event with its offset, rows and offsets in one commit.

Both pipelines stand on it, so it lives here and not in either. What landed last is read from the table itself, never from a
consumer group: whatever dies between fetch and commit, the next run goes on from what the table holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import (
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    FEEDBACK,
    FEEDBACK_ROWS,
    INTERACTION_ROWS,
    INTERACTIONS,
)
from headrace.errors import BadRecord
from headrace.pipeline.stage import stage
from headrace.storage.records import batch, decode
from headrace.storage.tables import TableWriter
from headrace.storage.topics import Record, TopicReader

# The mark that says, per partition, which offset lands next.
OFFSETS = "offsets"

_COMMIT_ROWS = 50_000
_COMMIT_S = 5.0


@dataclass(frozen=True)
class Landed:
    """Events landed per topic, and how many of all could not be read."""

    events: dict[str, int]
    dead: int

    @property
    def total(self) -> int:
        """Events of all topics."""
        return sum(self.events.values())


@stage("Lands every event of the head in its table, rows and offsets in one commit.")
def land(
    document_events: Annotated[TopicReader, DOCUMENT_EVENTS],
    interactions: Annotated[TopicReader, INTERACTIONS],
    feedback: Annotated[TopicReader, FEEDBACK],
    document_event_rows: Annotated[TableWriter, DOCUMENT_EVENT_ROWS],
    interaction_rows: Annotated[TableWriter, INTERACTION_ROWS],
    feedback_rows: Annotated[TableWriter, FEEDBACK_ROWS],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
) -> Landed:
    """Land every topic until the head is drained.

    Raises `OffsetsRefused` where the head and a table disagree, `LostRace` where another lander got ahead.
    """
    pairs = [
        (document_events, document_event_rows),
        (interactions, interaction_rows),
        (feedback, feedback_rows),
    ]
    one_at_a_time = threading.Lock()

    def follow(pair: tuple[TopicReader, TableWriter]) -> tuple[int, int]:
        return _drain(*pair, dead_letters, one_at_a_time)

    # A drained topic is told from a slow one by waiting; the waits of the topics may as well overlap.
    with ThreadPoolExecutor(len(pairs)) as pool:
        counts = list(pool.map(follow, pairs))
    events = {topic.store.name: landed for (topic, _), (landed, _) in zip(pairs, counts, strict=True)}
    return Landed(events, sum(dead for _, dead in counts))


def _drain(topic: TopicReader, table: TableWriter, dead_letters: TableWriter, one_at_a_time: threading.Lock) -> tuple[int, int]:
    """Land one topic; return how many events landed and how many of them were dead."""
    standing = table.mark(OFFSETS)
    position = {int(partition): int(offset) for partition, offset in (standing or {}).items()}
    pending: list[Record] = []
    landed = dead = 0
    since = time.monotonic()

    def commit() -> None:
        nonlocal standing, landed, dead
        rows, letters = _read(topic, pending)
        # Dead letters first: a crash in between lands the rest again, and they are known by their own mark.
        with one_at_a_time:
            _bury(topic.store.name, letters, dead_letters, position)
        marks = {str(partition): offset for partition, offset in sorted(position.items())}
        table.append(batch(table.store.columns, rows), marks={OFFSETS: marks}, expected={OFFSETS: standing})
        standing = marks
        landed += len(rows)
        dead += len(letters)
        pending.clear()

    for records in topic.read(position):
        pending.extend(records)
        for record in records:
            position[record.partition] = record.offset + 1
        if len(pending) >= _COMMIT_ROWS or time.monotonic() - since > _COMMIT_S:
            commit()
            since = time.monotonic()
    if pending:
        commit()
    return landed, dead


def _read(topic: TopicReader, records: list[Record]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, letters = [], []
    for record in records:
        origin = {"topic": topic.store.name, "partition": record.partition, "offset": record.offset}
        try:
            rows.append({**decode(topic.store, record.value), **origin})
        except BadRecord as error:
            raw = {"key": record.key or b"", "value": record.value or b""}
            letters.append({**raw, "reason": error.message, "at": datetime.now(UTC), **origin})
    return rows, letters


def _bury(topic: str, letters: list[dict[str, Any]], dead_letters: TableWriter, position: Mapping[int, int]) -> None:
    if not letters:
        return
    name = f"{OFFSETS}/{topic}"
    standing = dead_letters.mark(name)
    buried = {int(partition): int(offset) for partition, offset in (standing or {}).items()}
    new = [letter for letter in letters if letter["offset"] >= buried.get(letter["partition"], 0)]
    marks = {str(partition): offset for partition, offset in sorted(position.items())}
    if new:
        dead_letters.append(batch(DEAD_LETTERS.columns, new), marks={name: marks}, expected={name: standing})
