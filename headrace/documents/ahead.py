"""Documents ahead of their turn: their bytes read by threads, or their texts made by workers.

The process that drives the pass takes the texts of workers in the very same order, and it alone reads and writes storage: bytes
go to the workers with the batches, texts come back, and rows and offsets are one commit, as where the driver parses itself. So a
worker that dies loses and doubles nothing: its batch is given to another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pyarrow as pa

from headrace.core.launch import Batches
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parser import DocumentPart, Parsed, Parser
from headrace.documents.parsing import Parsing
from headrace.documents.queue import EventQueue, Turns
from headrace.documents.versions import origin_of
from headrace.errors import BadDocument, NotFound

_READS, _READ_BYTES = 8, 16 << 20
"""Sources that are read at once, and how much of them is in memory; a larger one is read at its turn."""
_BATCH_DOCUMENTS = 32
_BATCH_BYTES = 8 << 20
_ABOUT = ("note", "remark", "ocr_confidence")
_PARSED, _REFUSED, _FAILED, _GONE, _LEFT = "parsed", "refused", "failed", "gone", "left"

_PART = pa.struct([pa.field("start", pa.int64()), pa.field("place", pa.string())])
SOURCE = pa.schema([pa.field("uri", pa.string()), pa.field("data", pa.large_binary()), pa.field("state", pa.string())])
"""What workers get: a document's name and bytes, or, without any, what is known of it already (`gone`, `left`)."""
RESULT = pa.schema(
    [
        pa.field("state", pa.string()),
        pa.field("reason", pa.string()),
        *(pa.field(name, pa.large_string()) for name in ("text", "title", "media", "note", "remark")),
        pa.field("parts", pa.list_(_PART)),
        pa.field("ocr_confidence", pa.float64()),
        pa.field("pii", pa.map_(pa.string(), pa.int64())),
    ]
)

log = logging.getLogger("headrace.index")


class ReadingAhead:
    """The bytes of the documents whose turn comes next, read some at a time.

    A request to a busy object store takes longer than parsing a document. A context manager; it reads nothing until `expect`.
    """

    def __init__(self, read: Callable[[Mapping[str, Any]], bytes]) -> None:
        self._read = read
        self._pool: ThreadPoolExecutor | None = None
        self._begun: dict[tuple[Any, ...], tuple[Future[bytes], int]] = {}

    def __enter__(self) -> ReadingAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def wants(self) -> bool:
        """Whether more should be expected by now."""
        return len(self._begun) <= _READS // 2

    def expect(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Begin to read the documents of these events, of which the first is taken first, as far as there is room."""
        held = sum(size for _, size in self._begun.values())
        for event in events:
            if len(self._begun) >= _READS:
                return
            origin, size = origin_of(event), event["bytes"] or 0
            if origin not in self._begun and held + size <= _READ_BYTES:
                held += size
                self._pool = self._pool or ThreadPoolExecutor(_READS, "source")
                self._begun[origin] = self._pool.submit(self._read, event), size

    def take(self, event: Mapping[str, Any]) -> bytes:
        """The bytes of an event's document. Raises what `read` raises."""
        begun = self._begun.pop(origin_of(event), None)
        return begun[0].result() if begun else self._read(event)

    def drop(self, event: Mapping[str, Any]) -> None:
        """Nobody takes this one, which need not be parsed: else it would keep one of few places."""
        self._begun.pop(origin_of(event), None)


class Parse:
    """Batch work: a batch of `SOURCE` to one row of `RESULT` for each, in a parser process that ends with the batch."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Parse each document; the fault of one is its own row's."""
        with Parser(self._limits) as parser:
            made = [_result(parser, row) for row in rows.to_pylist()]
        return pa.RecordBatch.from_pylist(made, schema=RESULT)


def _result(parser: Parser, row: Mapping[str, Any]) -> dict[str, Any]:
    if row["data"] is None:
        return {"state": row["state"]}
    try:
        parsed = parser.parse(row["uri"], row["data"])
    except BadDocument as error:
        return {"state": _REFUSED, "reason": error.reason}
    except Exception as error:  # only this document is at fault: the others must not wait for its repair
        log.exception("a document could not be parsed")
        return {"state": _FAILED, "reason": f"it could not be parsed ({type(error).__name__})"}
    parts = [{"start": part.start, "place": part.place} for part in parsed.parts]
    return {
        "state": _PARSED,
        "text": parsed.text,
        "title": parsed.title,
        "media": parsed.media,
        "note": parsed.note,
        "remark": parsed.remark,
        "parts": parts,
        "ocr_confidence": parsed.ocr_confidence,
        "pii": list(parsed.pii.items()),
    }


class _InOrder(Turns):
    """All of a tenant's, then all of the next one's, in the order in which workers are given them."""

    def __init__(self, tenants: Iterable[str]) -> None:
        super().__init__()
        self._order = {tenant: number for number, tenant in enumerate(tenants)}

    def next(self, waiting: Sequence[str]) -> str:
        return min(waiting, key=lambda tenant: self._order[tenant])


class ParsingAhead(Parsing):
    """Like `Parsing`, with the documents of a pass parsed by workers. For one pass over all events that wait.

    `name_of` says under which name a document of an event is to be parsed, or `None` where it need not be; what it said may no
    longer be so by the event's turn, and then the driver parses that document itself.
    """

    def __init__(
        self,
        batches: Batches,
        limits: ParseLimits,
        events: Mapping[str, Sequence[dict[str, Any]]],
        name_of: Callable[[dict[str, Any]], str | None],
        read: Callable[[Mapping[str, Any]], bytes],
    ) -> None:
        """`events` are those of each tenant."""
        super().__init__(_InOrder(events))
        self._events = [event for own in events.values() for event in EventQueue(own) if event["kind"] == "put"]
        self._passed: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self._name_of, self._read = name_of, read
        self._results = _rows(batches.map(self._source(), Parse, limits))
        self._taken = iter(self._events)

    @contextmanager
    def during_pass(self, events: Iterable[Mapping[str, Any]], forgettings: int | None = None) -> Iterator[None]:
        """See `Parsing.during_pass`; workers end with the pass."""
        try:
            with super().during_pass(events, forgettings):
                yield
        finally:
            self._results.close()

    def go_on(self, event: Mapping[str, Any], limits: ParseLimits, read: Callable[[], bytes], seconds: float) -> Parsed | None:
        """See `Parsing.go_on`: the text is here, or on its way."""
        result = self._result_of(event)
        state = result["state"]
        if state == _LEFT:
            return super().go_on(event, limits, read, seconds)
        if state == _GONE:
            raise NotFound(f"The source of {event['uri']} is gone.")
        if state != _PARSED:
            raise BadDocument(event["uri"], result["reason"])
        parts = tuple(DocumentPart(part["start"], part["place"]) for part in result["parts"] or ())
        about = {name: result[name] for name in _ABOUT}
        return Parsed(result["text"], result["title"], result["media"], parts, **about, pii=dict(result["pii"] or ()))

    def _result_of(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result of this event. Those of events before it are kept, since many tenants may take turns in another order."""
        wanted = origin_of(event)
        while wanted not in self._passed:
            self._passed[origin_of(next(self._taken))] = next(self._results)
        return self._passed.pop(wanted)

    def _source(self) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        size = 0
        for event in self._events:
            row = self._row(event)
            rows.append(row)
            size += len(row["data"] or b"")
            if len(rows) >= _BATCH_DOCUMENTS or size >= _BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, schema=SOURCE)
                rows, size = [], 0
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=SOURCE)

    def _row(self, event: dict[str, Any]) -> dict[str, Any]:
        name = self._name_of(event)
        if name is None:
            return {"uri": event["uri"], "data": None, "state": _LEFT}
        try:
            return {"uri": name, "data": self._read(event), "state": ""}
        except NotFound:
            return {"uri": name, "data": None, "state": _GONE}


def _rows(batches: Iterator[pa.RecordBatch]) -> Any:
    """One row after another, as a generator, which can be closed."""
    for rows in batches:
        yield from rows.to_pylist()
