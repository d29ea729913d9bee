"""land: writes events from the head into tables, each exactly once; rows and position are one commit.

The position is read from the table, never from a consumer group, so after a crash between fetch and commit the next lander
continues from what the table holds. A commit names the position it starts from; if another lander has moved it, the commit
fails and this lander starts again from the table. So any number of landers may run, and each event still lands once.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DEAD_LETTERS, DIVERGENCES, LANDINGS, LEASES, Store
from headrace.core.stage import each, stage
from headrace.errors import HeadraceError, LostRace, OffsetsRefused, OutOfRange, StorageFull, Transient
from headrace.landing.backlog import counted_end
from headrace.landing.dead_letters import skipped
from headrace.landing.divergence import record_divergence
from headrace.landing.partitions import PartitionAssignment
from headrace.landing.positions import Divergence, Position, disagreement, origin, positions, property_name
from headrace.retry import backoff
from headrace.settings import LandingSettings
from headrace.storage.objects import ObjectWriter
from headrace.storage.records import batch, decode
from headrace.storage.stream.reader import Fetched, TopicReader
from headrace.storage.stream.topic import Record
from headrace.storage.tables.handles import Append, TableState, TableWriter

_OVERTAKEN_S = 0.2
_TRIES = 100
_RETRY_S = (0.5, 4.0)  # first and longest wait of a follower while storage does not answer or is full
_RECHECK_S = 15.0
_DEFAULTS = LandingSettings()
_DONE: Future[None] = Future()
_DONE.set_result(None)


@dataclass(frozen=True)
class Landed:
    """Events landed per topic, the number that could not be read, and the partitions that have stopped."""

    events: dict[str, int]
    dead: int
    divergences: tuple[Divergence, ...] = ()

    @property
    def total(self) -> int:
        """Events of all topics."""
        return sum(self.events.values())

    @property
    def counts(self) -> dict[str, int]:
        """See `Counted`."""
        return {"events": self.total}

    def require(self, *topics: Store) -> None:
        """Raise `OffsetsRefused` if a partition of these topics (default: of any) has stopped."""
        names = {topic.name for topic in topics}
        stopped = [divergence for divergence in self.divergences if not names or divergence.topic in names]
        if stopped:
            reasons = "\n".join(
                f"{divergence.topic_partition} has stopped landing ({divergence.kind}). {divergence.seen}"
                for divergence in stopped
            )
            raise OffsetsRefused(reasons, hint="\n".join(divergence.remedy for divergence in stopped))


@dataclass(frozen=True)
class Commit:
    """One commit of a lander. `seconds` is the time that writing and committing took."""

    topic: str
    events: int
    dead: int
    seconds: float


@dataclass(frozen=True)
class Following:
    """A lander that follows the head until `stop` is set, and its callbacks.

    `committed` after each commit; `diverged` when a partition stops; `waiting` for a topic whose storage does not answer or is
    full; `divergences` about twice a second with a topic's stopped partitions.
    """

    stop: threading.Event
    committed: Callable[[Commit], None] = lambda _: None
    diverged: Callable[[Divergence], None] = lambda _: None
    waiting: Callable[[str, HeadraceError], None] = lambda _topic, _error: None
    divergences: Callable[[str, Mapping[int, Divergence]], None] = lambda _topic, _divergences: None


@stage("Lands every event of the head in its table; rows and position are one commit.")
def land(
    topics: Annotated[Mapping[Store, TopicReader], each(LANDINGS)],
    tables: Annotated[Mapping[Store, TableWriter], each(LANDINGS.values())],
    dead_letters: Annotated[TableWriter, DEAD_LETTERS],
    divergences: Annotated[TableWriter, DIVERGENCES],
    leases: Annotated[ObjectWriter, LEASES],
    settings: LandingSettings = _DEFAULTS,
    following: Following | None = None,
    committed: Callable[[Commit], None] = lambda _: None,
    only: Collection[Store] = (),
) -> Landed:
    """Land every topic, or `only` some, until the head is drained, or until `following` is stopped.

    A partition whose head disagrees with its table does not land and is named in the result; the others do land.
    """
    burying = threading.Lock()
    lands = [
        _Lander(topic, table, dead_letters, divergences, burying, settings)
        for topic, table in zip(topics.values(), tables.values(), strict=True)
        if not only or topic.store in only
    ]

    failed = threading.Event()

    def work(lander: _Lander) -> None:
        try:
            if following is None:
                lander.drain(committed)
            else:
                lander.follow(following, leases, failed)
        except BaseException:
            failed.set()  # stop the other followers: the error surfaces only when they all have ended
            raise

    # Only waiting shows that a topic is drained and not slow; in threads, the topics' waits overlap.
    with ThreadPoolExecutor(len(lands), "land") as pool:
        for done in [pool.submit(work, lander) for lander in lands]:
            done.result()
    return Landed(
        {lander.name: lander.landed for lander in lands},
        sum(lander.dead for lander in lands),
        tuple(divergence for lander in lands for _, divergence in sorted(lander.divergences.items())),
    )


@dataclass(frozen=True)
class _Piece:
    """A decoded fetch: rows, their partitions and offsets, the records that cannot be read, and each partition's last."""

    rows: pa.RecordBatch
    partitions: pa.Array
    offsets: pa.Array
    bad: list[tuple[Record, str]]
    last: dict[int, Record]


def _read(topic: TopicReader, fetched: Fetched, signed_from: Mapping[int, int], skips: Mapping[tuple[int, int], str]) -> _Piece:
    """Decode a fetch at once: a record takes several times the memory of its row.

    `skips` has the partition and offset of records to leave unread, and the reason.
    """
    wrong, values = topic.forged(fetched, signed_from), fetched.values
    if skips:
        where_from = zip(fetched.partitions, fetched.offsets, strict=True)
        wrong |= {index: skips[at] for index, at in enumerate(where_from) if at in skips}
    indices: Sequence[int] = range(len(fetched))
    if wrong:  # removed before decoding: one bad record makes its whole batch slower to decode
        indices = [index for index in indices if index not in wrong]
        values = [values[index] for index in indices]
    decoded = decode(topic.store, values)
    at, where = pa.array(fetched.partitions, pa.int32()), pa.array(fetched.offsets, pa.int64())
    if wrong or decoded.bad:
        offsets_kept = pa.array([indices[index] for index in decoded.kept], pa.int64())
        at, where = at.take(offsets_kept), where.take(offsets_kept)
        wrong |= {indices[index]: reason for index, reason in decoded.bad.items()}
    bad = [(fetched.record(index), reason) for index, reason in sorted(wrong.items())]
    return _Piece(decoded.rows, at, where, bad, {p: fetched.record(index) for p, index in fetched.last.items()})


@dataclass
class _Block:
    """Fetched and not yet committed.

    Rows are written as they are decoded; only bad records and each partition's last record stay in memory.
    """

    append: Append
    written: list[Future[None]] = field(default_factory=list)
    last: dict[int, Record] = field(default_factory=dict)
    bad: list[tuple[Record, str]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    since: float = 0.0
    seconds: float = 0.0

    def add(self, fetched: Fetched, ahead: dict[int, int]) -> None:
        """Count a fetch and advance `ahead`, the next offsets."""
        if not self.rows:
            self.since = time.monotonic()
        self.rows += len(fetched)
        self.bytes += fetched.bytes
        for partition, index in fetched.last.items():
            ahead[partition] = fetched.offsets[index] + 1


class _Lander:
    """Lands one topic in one table."""

    def __init__(
        self,
        topic: TopicReader,
        table: TableWriter,
        dead_letters: TableWriter,
        divergences: TableWriter,
        burying: threading.Lock,
        settings: LandingSettings,
    ) -> None:
        self.topic, self.table = topic, table
        self.name = topic.store.name
        self.landed = self.dead = 0
        self.divergences: dict[int, Divergence] = {}
        self._dead_letters, self._divergences, self._burying, self._settings = dead_letters, divergences, burying, settings
        self._properties: dict[int, dict[str, Any] | None] = {}
        self._positions: dict[int, Position] = {}
        self._skips: dict[tuple[int, int], str] = {}
        self._overtaken = 0
        self._drained: dict[int, int] | None = None
        self._committed: Callable[[Commit], None] = lambda _: None

    def drain(self, committed: Callable[[Commit], None]) -> None:
        """Land until the table holds what the head had; a running follower may land it first."""
        self._committed = committed
        while True:
            try:
                self._pass(None, None)
                return
            except (LostRace, OutOfRange) as error:
                if self._landed_by_another():
                    return
                self._again(error)

    def follow(self, following: Following, leases: ObjectWriter, failed: threading.Event) -> None:
        """Land this lander's share of the partitions until stopped, or until another lander has `failed`.

        While storage does not answer, or is full, it waits.
        """

        def stopped() -> bool:
            return following.stop.is_set() or failed.is_set()

        assignment = PartitionAssignment(leases, self.name)
        reported: dict[int, Divergence] = {}
        failing_since: float | None = None
        failures = 0

        def committed(commit: Commit) -> None:
            nonlocal failing_since, failures
            failing_since, failures = None, 0
            following.committed(commit)

        self._committed = committed
        while not stopped():
            try:
                begun = time.monotonic()
                mine = assignment.assigned(self.topic.spans())

                def go_on(partitions: list[int], mine: set[int] = mine, begun: float = begun) -> bool:
                    for partition, divergence in self.divergences.items():
                        if reported.get(partition) != divergence:
                            reported[partition] = divergence
                            following.diverged(divergence)
                    following.divergences(self.name, self.divergences)
                    recheck = bool(self.divergences) and time.monotonic() - begun > _RECHECK_S
                    return not (stopped() or recheck or assignment.assigned(partitions) != mine)

                self._pass(mine, go_on)
            except (LostRace, OutOfRange) as error:
                self._again(error)
            except (Transient, StorageFull) as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._settings.patience_s:
                    raise
                following.waiting(self.name, error)
                failures += 1
                following.stop.wait(backoff(failures, first_s=_RETRY_S[0], longest_s=_RETRY_S[1], spread=0.0))
        with contextlib.suppress(Transient):
            assignment.leave()

    def _landed_by_another(self) -> bool:
        """Whether everything has landed up to the end that the first complete read reached."""
        if self._drained is None:
            return False
        landed_positions = positions(self.table.snapshot_properties(), self.name)
        return all(
            partition in landed_positions and landed_positions[partition].next >= end for partition, end in self._drained.items()
        )

    def _again(self, error: LostRace | OutOfRange) -> None:
        """Wait a little before starting again from the table: another lander has made progress."""
        self._overtaken += 1
        if self._overtaken > _TRIES:
            raise error
        time.sleep(_OVERTAKEN_S * random.random())

    def _pass(self, mine: set[int] | None, go_on: Callable[[list[int]], bool] | None) -> None:
        """Fetch from the table's position and commit in blocks, writing one while fetching the next.

        Ends when the head is drained or, with `go_on`, when that returns False (called about twice a second). Raises
        `LostRace` if another lander moved a position.
        """
        everyone, ahead = self._start(mine)
        signed_from = {partition: self._positions[partition].signed or 0 for partition in ahead}
        block, writing = _Block(self.table.begin()), _DONE
        reading: Future[_Piece] | None = None
        with ThreadPoolExecutor(1, "write") as writer, ThreadPoolExecutor(1, "decode") as reader:
            try:
                for fetched in self.topic.read(dict(ahead), follow=go_on is not None):
                    if fetched:
                        if reading is not None:
                            reading.result()  # keep one fetch at a time as records, which take the most memory
                        reading = reader.submit(_read, self.topic, fetched, signed_from, self._skips)
                        block.add(fetched, ahead)
                        block.written.append(writer.submit(self._write, block, reading))
                    if writing.done():
                        writing.result()
                    if block.rows and self._due(block):
                        writing.result()  # raises if that block was not committed; then this one must not be
                        writing, block = writer.submit(self._commit, block), _Block(self.table.begin())
                    if go_on is not None and not go_on(everyone):
                        break
                if go_on is None:
                    self._drained = self._drained or dict(ahead)
                writing.result()
                if block.rows:
                    writer.submit(self._commit, block).result()
            except BaseException:
                writer.submit(block.append.discard)
                raise
        while go_on is not None and not ahead and go_on(everyone):
            time.sleep(0.5)

    def _due(self, block: _Block) -> bool:
        settings = self._settings
        old = time.monotonic() - block.since >= settings.commit_s
        return old or block.rows >= settings.commit_rows or block.bytes >= settings.commit_bytes

    def _start(self, mine: set[int] | None) -> tuple[list[int], dict[int, int]]:
        """All partitions, and the start offset of each of ours that may land."""
        state = self.table.state()
        properties = state.properties
        landed_positions = positions(properties, self.name) or _recovered(state, self.name)
        spans, identity = self.topic.spans(), self.topic.identity()
        start = {}
        self.divergences = {}
        letters = self._dead_letters.snapshot_properties()
        self._skips = {}
        for partition, span in spans.items():
            if mine is not None and partition not in mine:
                continue
            position = landed_positions.get(partition)
            divergence = disagreement(self.topic, partition, position, span, identity)
            if divergence is not None:
                self.divergences[partition] = divergence
                record_divergence(self._divergences, divergence)
                continue
            self._properties[partition] = properties.get(property_name(self.name, partition))
            position = position or Position.begin(self.topic)
            unsigned_so_far = self.topic.signed and position.signed is None
            # Landing began before signing was enabled, so everything now in the head is unsigned too.
            signed = counted_end(self.topic, partition, max(span.end, position.next)) if unsigned_so_far else position.signed
            # The ids the broker reports now; ids missing from the old position are added.
            self._positions[partition] = Position(
                position.next, identity.cluster or position.cluster, identity.topic or position.topic,
                position.topic_epoch, position.last, signed,
            )  # fmt: skip
            if unsigned_so_far:  # recorded before another event can arrive
                self._note(partition)
            start[partition] = position.next
            named = origin(self.name, position.topic_epoch)
            self._skips |= {(partition, at): reason for at, reason in skipped(letters, named, partition).items()}
        return list(spans), start

    def _note(self, partition: int) -> None:
        """Commit a partition's position without rows."""
        name, value = property_name(self.name, partition), self._positions[partition].as_property()
        nothing = pa.Table.from_batches([], self.table.store.columns)
        self.table.append(nothing, properties={name: value}, expected={name: self._properties[partition]})
        self._properties[partition] = value

    def _write(self, block: _Block, reading: Future[_Piece]) -> None:
        piece = reading.result()
        began = time.monotonic()
        names = {partition: origin(self.name, self._positions[partition].topic_epoch) for partition in piece.last}
        block.append.write(_landed_rows(self.table.store, piece, names))
        block.last |= piece.last
        block.bad += piece.bad
        block.seconds += time.monotonic() - began

    def _commit(self, block: _Block) -> None:
        began = time.monotonic()
        try:
            for written in block.written:
                written.result()
            moved = {p: self._positions[p].after(record) for p, record in block.last.items()}
            properties = {property_name(self.name, p): position.as_property() for p, position in moved.items()}
            # Dead letters first: after a crash in between, the rest lands again, and their own properties prevent duplicates.
            names = {p: origin(self.name, position.topic_epoch) for p, position in moved.items()}
            self._bury(block.bad, names, {p: position.next for p, position in moved.items()})
        except BaseException:
            block.append.discard()
            raise
        block.append.commit(properties, {property_name(self.name, p): self._properties[p] for p in moved})
        self._positions |= moved
        self._properties |= {p: position.as_property() for p, position in moved.items()}
        self._overtaken = 0
        rows = block.rows - len(block.bad)
        self.landed += rows
        self.dead += len(block.bad)
        self._committed(Commit(self.name, rows, len(block.bad), block.seconds + time.monotonic() - began))

    def _bury(self, bad: Sequence[tuple[Record, str]], names: dict[int, str], reached: dict[int, int]) -> None:
        if not bad:
            return
        letters = []
        for record, reason in bad:
            letter = {"key": record.key or b"", "value": record.value or b"", "reason": reason, "at": datetime.now(UTC)}
            letter |= {"topic": names[record.partition], "partition": record.partition, "offset": record.offset}
            letters.append((record, letter))
        # Landers of other topics append to the same table; each only expects its own properties to be unchanged.
        with self._burying:
            properties = self._dead_letters.snapshot_properties()
            keys = {p: f"buried/{names[p]}/{p}" for p in reached}
            upto = {p: int(properties.get(keys[p]) or 0) for p in reached}
            new = [(record, letter) for record, letter in letters if record.offset >= upto[record.partition]]
            if new:
                self._dead_letters.append(
                    batch(DEAD_LETTERS.columns, [letter for _, letter in new]),
                    properties={keys[p]: max(offset, upto[p]) for p, offset in reached.items()},
                    expected={name: properties.get(name) for name in keys.values()},
                )


def _recovered(table: TableState, topic: str) -> dict[int, Position]:
    """Positions computed from rows, for a table whose snapshot properties are lost (another tool rewrote it)."""
    rows = table.read(("topic", "partition", "offset"))
    positions: dict[int, Position] = {}
    for row in rows.group_by(["topic", "partition"]).aggregate([("offset", "max")]).to_pylist():
        name, _, number = row["topic"].partition("@")
        topic_epoch = int(number or 1)
        if name == topic and topic_epoch >= positions.get(row["partition"], Position(0, None, None, 0)).topic_epoch:
            positions[row["partition"]] = Position(row["offset_max"] + 1, None, None, topic_epoch, signed=0)
    return positions


def _landed_rows(table: Store, piece: _Piece, names: Mapping[int, str]) -> pa.RecordBatch:
    """The rows with their topic, partition and offset, in the table's column order."""
    known = sorted(names)
    named, numbers = pa.array([names[p] for p in known]), pa.array(known, pa.int32())
    columns = dict(zip(piece.rows.schema.names, piece.rows.columns, strict=True))
    topics = named.take(pc.index_in(piece.partitions, numbers))
    columns |= {"topic": topics, "partition": piece.partitions, "offset": piece.offsets}
    return pa.RecordBatch.from_arrays([columns[name] for name in table.columns.names], schema=table.columns)
