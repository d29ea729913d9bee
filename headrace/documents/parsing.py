"""The landed events that wait to be parsed, and documents that are parsed in turn.

Of each tenant the first events are read whole, of the others only where they are. Slow documents are parsed beside the others, so
that a slow one keeps nobody else's waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.catalog import DOCUMENT_EVENT_ROWS
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parser import Parsed, Parser
from headrace.documents.queue import ProcessedOffsets, Queued, Turns, not_before
from headrace.documents.versions import IN_ORDER, ORIGIN, origin_of
from headrace.storage.tables.handles import TableState, quoted

_FEW = 10_000  # events that are read whole at once, waiting or not
_RANGES, _GAP = 50, 1_000  # ranges of offsets in a filter, at most, and how many offsets are read rather than left out


class UnparsedEvents:
    """The events of the table, as it was at one moment, that are not processed.

    `first` has the next ones of each tenant, whole and in their order; with `every` it has all. `since` is the revision of the
    table up to which every event is processed.
    """

    def __init__(self, events: TableState, processed: ProcessedOffsets, since: str | None, *, every: bool) -> None:
        where = not_before(processed.floors)
        whole, count = [], 0
        for some in events.scan(where=where, since=since):
            whole.append(some)
            count += some.num_rows
            if count > _FEW and not every:
                break
        few = count <= _FEW or every
        rows = (
            pa.Table.from_batches(whole, DOCUMENT_EVENT_ROWS.columns)
            if few
            else events.read(("tenant", *ORIGIN), where, since=since)
        )
        del whole
        queued = Queued(rows, processed, every=every)
        self.first: list[dict[str, Any]] = (queued.first if few else _whole(events, queued.first, since)).to_pylist()
        self.left = len(queued.rest)
        """How many events wait behind the first ones."""
        self.more, self.next = queued.more, queued.next
        """The tenants that have such, and the first of them in each partition."""


def _whole(events: TableState, chosen: pa.Table, since: str | None) -> pa.Table:
    """These events with all their columns."""
    found: list[pa.RecordBatch] = []
    for topic, partition in {(row["topic"], row["partition"]) for row in chosen.select(["topic", "partition"]).to_pylist()}:
        own = chosen.filter((pc.field("topic") == topic) & (pc.field("partition") == partition))["offset"]
        ranges = " OR ".join(f"(offset >= {low} AND offset <= {high})" for low, high in _ranges(own.to_numpy()))
        where = f"topic = {quoted(topic)} AND partition = {partition} AND ({ranges})"
        found += [some.filter(pc.is_in(some["offset"], own.combine_chunks())) for some in events.scan(where=where, since=since)]
    return pa.Table.from_batches(found, DOCUMENT_EVENT_ROWS.columns).sort_by(IN_ORDER)


def _ranges(offsets: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, int]]:
    """Few ranges that hold these offsets, which are in order, without the widest gaps between them."""
    gaps = np.diff(offsets)
    widest = np.argsort(-gaps)[: _RANGES - 1]
    cuts = np.sort(widest[gaps[widest] > _GAP]) + 1
    for own in np.split(offsets, cuts):
        yield int(own[0]), int(own[-1])


_PLACES = 2  # for slow documents: each has a process, which may take `parse_memory_bytes`
_LOOK_S = 0.1

_Origin = tuple[Any, ...]


class Parsing:
    """Whose turn it is, and the slow documents, each in a parser process of its own. Kept from one pass to the next.

    A document that turns out to be slow while all places are taken is stopped, and begun anew once there is a place.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        self.turns = turns or Turns()
        self._under_way: dict[_Origin, tuple[Parser, float]] = {}  # by event: its parser, and when that began
        self._stopped: set[_Origin] = set()
        self._idle: list[Parser] = []
        self._forgettings: int | None = None

    def prepare(self, limits: ParseLimits) -> None:
        """Start a parser for the pass that begins, which first lands events: a tenth of a second of the processor, and longer."""
        if not self._idle:
            parser = Parser(limits)
            with suppress(OSError):  # the document that needs it will say why
                parser.start()
            self._idle.append(parser)

    @contextmanager
    def during_pass(self, events: Iterable[Mapping[str, Any]], forgettings: int | None = None) -> Iterator[None]:
        """A pass over all events that are not processed; what was begun of any other is stopped.

        All is begun anew once a document was forgotten (`queue.FORGETTINGS`): its bytes may be among those read by then.
        """
        self._keep({origin_of(event) for event in events} if forgettings == self._forgettings else set())
        self._forgettings = forgettings
        try:
            yield
        finally:
            self._end_idle()

    def close(self) -> None:
        """Stop the slow documents. None of them is processed yet, so none is lost."""
        self._keep(set())
        self._end_idle()

    def go_on(self, event: Mapping[str, Any], limits: ParseLimits, read: Callable[[], bytes], seconds: float) -> Parsed | None:
        """Parse an event's document, whose bytes `read` returns, for about so many seconds; `None` if it takes longer.

        It then goes on beside others, and this no longer waits for it when called again. Raises `BadDocument`, and what `read`
        raises.
        """
        origin = origin_of(event)
        slow = self.is_slow(event)
        if begins := origin not in self._under_way:
            if slow and len(self._under_way) >= _PLACES:
                return None
            self._under_way[origin] = self._idle.pop() if self._idle else Parser(limits), time.monotonic()
        parser, began = self._under_way[origin]
        goes_on = False
        try:
            if begins:
                parser.begin(event["uri"], read())
            parsed = None if slow and not parser.ready() else parser.finish(0.0 if slow else seconds)
            goes_on = parsed is None and len(self._under_way) <= _PLACES
            if parsed is None and not goes_on:
                parser.end()
                self._stopped.add(origin)
            return parsed
        finally:
            if not goes_on:
                del self._under_way[origin]
                self._idle.append(parser)
                if slow:
                    self.turns.took(event["tenant"], time.monotonic() - began)

    def is_slow(self, event: Mapping[str, Any]) -> bool:
        """Whether an event's document has been found to be slow: it is being parsed, or was stopped."""
        return origin_of(event) in self._under_way or origin_of(event) in self._stopped

    def ready(self) -> bool:
        """Whether one of the slow documents is done, or has something else to say."""
        return any(parser.ready() for parser, _ in self._under_way.values())

    def wait(self, until: float, gives_way: Callable[[], bool]) -> bool:
        """Wait until one of the slow documents is ready; false at the time `until`, or if something else is to be done first."""
        while self._under_way and not self.ready():
            if time.monotonic() > until or gives_way():
                return False
            time.sleep(_LOOK_S)
        return True

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _keep(self, origins: set[_Origin]) -> None:
        for origin in self._under_way.keys() - origins:
            self._under_way.pop(origin)[0].end()
        self._stopped &= origins
