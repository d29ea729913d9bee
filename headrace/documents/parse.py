"""parse: the bytes of each announced document to text, one row per document version; or the reason why it has none."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Annotated, Any

from headrace.catalog import DOCUMENT_EVENT_ROWS, DOCUMENT_ROWS, DOCUMENTS
from headrace.core.launch import Batches
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.ahead import ParsingAhead, ReadingAhead
from headrace.documents.claims import SourceClaims
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.lookup import DocumentLookup, SeenEvents
from headrace.documents.names import composed, document_id, object_key
from headrace.documents.parsing import Parsing, UnparsedEvents
from headrace.documents.pii import note_of
from headrace.documents.queue import FORGETTINGS, PROCESSED_OFFSETS, EventQueue, ProcessedOffsets, whose_turn
from headrace.documents.versions import KEPT, ORIGIN, SOURCE_GONE, is_hidden, keep_unnamed, origin_of, row_of, text_of_before
from headrace.errors import BadDocument, HeadraceError, NotFound
from headrace.storage.metadata import Metadata
from headrace.storage.objects import ObjectReader
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.timeline import AHEAD

_COMMIT_ROWS = 200
_COMMIT_CHARS = 20_000_000
_SLICE_S = 2.0  # of parsing one document, while others may wait
SOON_S = 2.0
"""Seconds of parsing others' documents once what another tenant has is parsed, or it waits for the next pass."""
_LOOKED_AT = 32  # events whose documents may be read ahead of their turn
_PII, _LACKS = "pii", "lacks"  # keys of a row on its way, which are no columns
_READ_TO = "events_read"  # the snapshot property: the revision of the events table of which every event is processed

log = logging.getLogger("headrace.index")


@dataclass(frozen=True)
class Failure:
    """A document without text or without some of it, and why."""

    uri: str
    reason: str


@dataclass(frozen=True)
class ParsedDocuments:
    """How many documents were parsed and deleted, which could not be read, and how many events are left for another pass.

    `incomplete` are parsed documents that have more than their text, such as scanned pages; `personal` those with personal data,
    of which `pii` counts each kind. `relabelled` ones have the text they had, and other readers, attributes or another folder.
    """

    parsed: int
    deleted: int
    failed: tuple[Failure, ...]
    left: int = 0
    incomplete: tuple[Failure, ...] = ()
    personal: tuple[Failure, ...] = ()
    pii: Mapping[str, int] = field(default_factory=dict)
    relabelled: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """See `Counted`."""
        return {"documents": self.parsed, **{f"pii_{kind}": count for kind, count in self.pii.items()}}

    def __add__(self, other: ParsedDocuments) -> ParsedDocuments:
        """What two passes did together."""
        return ParsedDocuments(
            self.parsed + other.parsed,
            self.deleted + other.deleted,
            self.failed + other.failed,
            self.left + other.left,
            self.incomplete + other.incomplete,
            self.personal + other.personal,
            Counter(self.pii) + Counter(other.pii),
            self.relabelled + other.relabelled,
        )


@stage("Parses each announced document into text, or records why it has none.", phase=AHEAD)
def parse(
    events: Annotated[TableReader, DOCUMENT_EVENT_ROWS],
    originals: Annotated[ObjectReader, DOCUMENTS],
    documents: Annotated[TableWriter, DOCUMENT_ROWS],
    batches: Batches,
    bars: ProgressBars,
    metadata: Metadata,
    limits: ParseLimits,
    seconds: float = math.inf,
    soon_s: float = SOON_S,
    parsing: Parsing | None = None,
    waits: bool = True,
    gives_way: Callable[[Collection[str]], bool] | None = None,
) -> ParsedDocuments:
    """Parse every landed event that the documents table has not processed; rows and the offsets reached go in one commit.

    Tenants take turns by the time that their documents take. After so many `seconds` the rest is left for another pass, so that
    what is parsed need not wait; sooner (after `soon_s`) where all of a tenant's is parsed, or where `gives_way`, called with the
    tenants that wait, says that another one waits for the next pass; and where many events wait, of which a pass takes the first
    of each tenant.

    With `parsing`, which the caller keeps for that pass and which knows whose turn it is, slow documents are parsed beside
    others. With `waits`, the pass waits for them if it has nothing else to do: nobody's rows are to be committed, and it need
    not give way.

    A pass over all that waits, without either bound, has its documents parsed by the workers of `batches` where these are other
    processes than this one.

    An event that says what the document's newest row says already adds none: a put that was killed announces its files again.
    Nor does one of a key that is bound to readers, where the document is for others by then.
    One that changes readers, attributes or the folder alone adds a row without reading and parsing the source again; its text is
    in the row before it.
    """
    lookup, seen = DocumentLookup(metadata, documents), SeenEvents(metadata, events)
    lookup.follow()
    properties = lookup.state.properties
    recorded, since = properties.get(PROCESSED_OFFSETS), properties.get(_READ_TO)
    forgettings = properties.get(FORGETTINGS)
    processed = ProcessedOffsets(recorded)
    revision = seen.follow()
    claims = SourceClaims(metadata)
    # Of passes that ended between their commit and that.
    claims.drop(event for event in seen.origins(claims.some()) if processed.includes(event))
    unparsed = UnparsedEvents(seen.state, processed, since, every=math.isinf(seconds))
    new = unparsed.first
    once = {origin_of(event) for event in seen.once(new)}
    by_tenant: dict[str, list[dict[str, Any]]] = {}
    for event in new:
        by_tenant.setdefault(event["tenant"], []).append(event)
    waiting = {tenant: EventQueue(ordered) for tenant, ordered in by_tenant.items()}
    done: list[dict[str, Any]] = []
    reached: list[dict[str, Any]] = []  # the events processed since the last commit
    counts = {"parsed": 0, "deleted": 0, "relabelled": 0}
    failed: list[Failure] = []
    incomplete: list[Failure] = []
    personal: list[Failure] = []
    pii = Counter[str]()
    slice_s = _SLICE_S if parsing else math.inf
    shared = batches.remote and parsing is None and math.isinf(seconds) and gives_way is None
    began_at = time.monotonic()
    until, soon_s = began_at + seconds, math.inf if math.isinf(seconds) else soon_s
    # Under their names as they are and in form NFC.
    newest = lookup.newest(document_id(event["tenant"], uri) for event in new for uri in (event["uri"], composed(event["uri"])))

    def name_of(event: dict[str, Any]) -> str | None:
        """The name under which the document of an event is parsed, `None` where its newest row has the text already."""
        named = {**event, "uri": _name_of(event, newest)}
        before = newest.get(document_id(named["tenant"], named["uri"]))
        keep_unnamed(named, before)
        known = origin_of(event) not in once or is_hidden(named, before) or _is_known(named, newest)
        return None if known or text_of_before(named, before) is not None else str(named["uri"])

    def read(event: Mapping[str, Any]) -> bytes:
        return originals.get(object_key(event["tenant"], event["sha256"]))

    ahead = ReadingAhead(read)
    parsing = parsing or (ParsingAhead(batches, limits, by_tenant, name_of, read) if shared else Parsing())

    def another_waits() -> bool:
        return gives_way is not None and gives_way(waiting)

    def look_ahead(turn: Sequence[str]) -> None:
        """Have the documents read whose turn comes next: the next of each tenant, then the one behind it, and so on."""
        if not shared and ahead.wants():
            rounds = zip_longest(*(waiting[tenant].peek(_LOOKED_AT // len(turn) + 1) for tenant in turn))
            events = (event for some in rounds for event in some if event is not None)
            ahead.expect(e for e in events if e["kind"] == "put" and not parsing.is_slow(e) and name_of(e) is not None)

    def in_turn() -> Iterator[dict[str, Any] | None]:
        """The row of each waiting event, `None` where it adds none, those of a tenant in their order, until time is up."""
        nonlocal until
        served, blocked = set[str](), set[str]()  # tenants with an event processed, and those whose next document is slow
        while waiting:
            turn = [tenant for tenant in whose_turn(waiting, processed.ahead()) if tenant not in blocked]
            if not turn:
                if not waits or served - blocked or not parsing.wait(until, another_waits):
                    return
                blocked.clear()
                continue
            while turn:
                tenant = parsing.turns.next(turn)
                event = waiting[tenant].first()[0]
                began = time.monotonic()
                look_ahead([tenant, *(other for other in turn if other != tenant)])
                event["uri"] = _name_of(event, newest)
                before = newest.get(document_id(event["tenant"], event["uri"]))
                keep_unnamed(event, before)
                row = None
                known = origin_of(event) not in once or is_hidden(event, before) or _is_known(event, newest)
                if not known:
                    same = text_of_before(event, before)
                    row = {**row_of(event), "status": "parsed", **same} if same else None
                    row = row or _row(event, ahead.take, parsing, limits, slice_s)
                if known or row:
                    next(iter(waiting[tenant]))
                    ahead.drop(event)
                    if not waiting[tenant]:
                        del waiting[tenant]
                        # The first of the others go on with the next pass, and nobody's last document waits for theirs.
                        until = -math.inf if tenant in unparsed.more else min(until, time.monotonic() + soon_s)
                    processed.add(event)
                    reached.append(event)
                    served.add(tenant)
                    yield row
                else:
                    blocked.add(tenant)
                parsing.turns.took(tenant, time.monotonic() - began)
                if tenant in blocked or tenant not in waiting:
                    turn.remove(tenant)
                if time.monotonic() > until or (time.monotonic() > began_at + soon_s and another_waits()):
                    return
            if waiting.keys() - blocked:
                commit()  # it says who is ahead, and so how many more may be

    def commit() -> None:
        nonlocal recorded
        processed.settle((), [*unparsed.next, *(event for queue in waiting.values() for event in queue.first())])
        if processed.as_property() == (recorded or {}):
            return
        documents.append(
            batch(DOCUMENT_ROWS.columns, done),
            # With nothing waiting, the next pass need not read again what this one read.
            properties={PROCESSED_OFFSETS: processed.as_property(), _READ_TO: since if waiting or unparsed.left else revision},
            # What was forgotten meanwhile must not come back.
            expected={PROCESSED_OFFSETS: recorded, FORGETTINGS: forgettings},
        )
        recorded = processed.as_property()
        done.clear()
        claims.drop(reached)
        reached.clear()

    with parsing.during_pass(new, forgettings), ahead:
        for row in bars.track(in_turn(), "parse", total=len(new), of="documents"):
            if row is None:
                continue
            found: dict[str, int] = row.pop(_PII, {})
            lacks: str = row.pop(_LACKS, "")
            done.append(row)
            newest[row["document_id"]] = {**row, "text": "", "parts": None}
            if row["status"] == "failed":
                failed.append(Failure(row["uri"], row["reason"]))
            elif row["text_at"] is not None:
                counts["relabelled"] += 1
            else:
                counts[row["status"]] += 1
                if found:
                    personal.append(Failure(row["uri"], note_of(found, limits.pii)))
                    pii.update(found)
                if lacks:
                    incomplete.append(Failure(row["uri"], lacks))
            if len(done) >= _COMMIT_ROWS or sum(len(d["text"]) for d in done) > _COMMIT_CHARS:
                commit()
    commit()
    left = unparsed.left + sum(map(len, waiting.values()))
    about = tuple(failed), left, tuple(incomplete), tuple(personal), pii
    return ParsedDocuments(counts["parsed"], counts["deleted"], *about, counts["relabelled"])


def _name_of(event: Mapping[str, Any], newest: Mapping[str, Mapping[str, Any]]) -> str:
    """The document's name in form NFC; a deletion of one parsed under another form, by an older version, keeps that form."""
    uri: str = event["uri"]
    current = newest.get(document_id(event["tenant"], uri))
    exists = current is not None and current["status"] != "deleted"
    return uri if event["kind"] == "delete" and exists else composed(uri)


def _is_known(event: dict[str, Any], newest: dict[str, dict[str, Any]]) -> bool:
    """Whether the document's newest row is of an event with the same kind, source bytes, refusal, readers, attributes and folder.

    Or has another version than the one that is to be deleted.
    A document that failed and is put again is tried again; one that was left out has a row of this very event.
    """
    row = newest.get(document_id(event["tenant"], event["uri"]))
    if row is not None and row["status"] == "failed" and event["kind"] == "put":
        return all(row[name] == event[name] for name in ORIGIN)
    if event["kind"] == "delete" and event["sha256"] and row is not None and row["version"] != event["sha256"]:
        return True  # it was to be deleted with the version that it had, and has another one by now
    if row is None or (event["kind"] == "delete") != (row["status"] == "deleted"):
        return False
    if event["kind"] != "delete" and any(sorted(row[name] or ()) != sorted(event[name] or ()) for name in KEPT):
        return False
    if event["kind"] != "delete" and row["source"] != event["source"]:
        return False
    if event["kind"] == "refuse":
        return bool((row["version"], row["reason"]) == ("", event["reason"]))
    return event["kind"] == "delete" or bool(row["version"] == event["sha256"])


def _row(
    event: dict[str, Any],
    read: Callable[[Mapping[str, Any]], bytes],
    parsing: Parsing,
    limits: ParseLimits,
    seconds: float,
) -> dict[str, Any] | None:
    """The event's row; `None` if its document, whose bytes `read` returns, takes longer than so many seconds.

    As `_PII` it has how much of each kind of personal data is in the text, as `_LACKS` what the text lacks.
    """
    row = row_of(event)
    if event["kind"] == "delete":
        return {**row, "version": "", "status": "deleted", "reason": event["reason"]}
    try:
        if event["kind"] == "refuse":
            raise BadDocument(event["uri"], event["reason"])
        parsed = parsing.go_on(event, limits, lambda: read(event), seconds)
    except BadDocument as error:
        return {**row, "status": "failed", "reason": error.reason}
    except NotFound:
        return {**row, "status": "failed", "reason": SOURCE_GONE}
    except HeadraceError:
        raise
    except Exception as error:  # only this document is at fault: the others must not wait for its repair
        log.exception("%s could not be parsed", row["document_id"])
        return {**row, "status": "failed", "reason": f"it could not be parsed ({type(error).__name__})"}
    if parsed is None:
        return None
    parts = [{"start": part.start, "place": part.place} for part in parsed.parts] or None
    text: dict[str, Any] = {"media": parsed.media, "title": parsed.title, "text": parsed.text, "parts": parts}
    text |= {"ocr_confidence": parsed.ocr_confidence, _LACKS: parsed.note, _PII: parsed.pii}
    notes = [parsed.note, parsed.remark, note_of(parsed.pii, limits.pii)]
    return {**row, "status": "parsed", "reason": "; ".join(filter(None, notes)), **text}
