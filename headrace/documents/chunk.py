"""chunk: the text of each document to chunks that fit the embedder's window, cut by structure, heading path in front."""

from __future__ import annotations

import hashlib
import logging
import time
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.failed import GiveUp, Unfit, refuse
from headrace.documents.formats.registry import by_media
from headrace.documents.lookup import ChunkLookup, DocumentLookup
from headrace.documents.pieces import Piece, steps
from headrace.documents.queue import (
    FORGETTINGS,
    PROCESSED_OFFSETS,
    EventQueue,
    ProcessedOffsets,
    partition_name,
    whose_turn,
)
from headrace.documents.splitting import Key, Splitting, UnsplitVersions
from headrace.errors import HeadraceError
from headrace.storage.metadata import Metadata
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.timeline import AHEAD

_READ_TO = "documents_read"  # the snapshot property: the revision of the documents table of which every version is processed
_COMMIT_ROWS = 5000
_SLICE_S = 0.5  # of one document, while others may wait

log = logging.getLogger("headrace.index")


@dataclass(frozen=True)
class Chunked:
    """How many documents were split, into how many chunks, and which could not be; `unfinished` ones are for another pass."""

    documents: int
    chunks: int
    failed: tuple[Unfit, ...] = ()
    unfinished: frozenset[str] = frozenset()


@stage("Splits each document into chunks within the embedder's window, heading path in front.", phase=AHEAD)
def chunk(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableWriter, CHUNK_ROWS],
    bars: ProgressBars,
    metadata: Metadata,
    window: int,
    generation: int = 1,
    give_up: GiveUp = refuse,
    seconds: float | None = None,
    splitting: Splitting | None = None,
    hold: Collection[str] = frozenset(),
) -> Chunked:
    """Split every live document version that the chunks table has not processed; `window` is in word pieces.

    Tenants take turns by the time that their documents take, and a long document is split a slice at a time. After so many
    `seconds` the rest is left for another pass. `splitting`, which the caller keeps for that pass, knows whose turn it is and
    what is split by then. Nothing of the tenants to `hold` is split: enough of theirs waits to be embedded.

    A document that cannot be split is given up before the property moves past it, so that no kill in between loses the reason.

    Each generation of the index has its own rows, and its own snapshot property for what is processed.
    """
    name_of_offsets, name_of_revision = _property(PROCESSED_OFFSETS, generation), _property(_READ_TO, generation)
    lookup, splits = DocumentLookup(metadata, documents), ChunkLookup(metadata, chunks)
    splits.follow()
    properties = splits.state.properties
    recorded, since = properties.get(name_of_offsets), properties.get(name_of_revision)
    forgettings = properties.get(FORGETTINGS)
    processed = ProcessedOffsets(recorded)
    revision = lookup.follow()
    parsed = ProcessedOffsets(lookup.state.properties.get(PROCESSED_OFFSETS)).floors
    unsplit = UnsplitVersions(documents, lookup.state, processed, since, every=seconds is None)
    new = unsplit.rows
    answering = lookup.live(row["document_id"] for row in new)
    # A version put back after another one, or put twice, has its chunks already.
    split_before = set(splits.split(generation, (row["document_id"] for row in new)))
    rows: list[dict[str, Any]] = []
    count = {"documents": 0, "chunks": 0}
    failed: list[Unfit] = []
    unnoted: list[Unfit] = []
    by_tenant: dict[str, list[dict[str, Any]]] = {}
    for document in new:
        by_tenant.setdefault(document["tenant"], []).append(document)
    waiting = {tenant: EventQueue(ordered) for tenant, ordered in by_tenant.items()}
    half: dict[str, dict[str, Any]] = {}  # the document of a tenant that is split in part
    last: dict[str, dict[str, Any]] = {}  # of each partition, by offset
    splitting = splitting or Splitting()
    splitting.keep({_key(document, window, generation) for document in new})
    started = time.monotonic()

    def commit() -> None:
        nonlocal recorded
        if unnoted:
            give_up(tuple(unnoted))
            failed.extend(unnoted)
            unnoted.clear()
        first = [*unsplit.next, *half.values(), *(event for queue in waiting.values() for event in queue.first())]
        # Above what is parsed of all tenants, rows of others may still come in front of these.
        processed.settle(last.values(), first, parsed)
        if (offsets := processed.as_property()) != (recorded or {}):
            chunks.append(
                batch(CHUNK_ROWS.columns, rows),
                # With nothing waiting, the next pass need not read again what this one read.
                properties={name_of_offsets: offsets, name_of_revision: since if first else revision},
                # What was forgotten meanwhile must not come back.
                expected={name_of_offsets: recorded, FORGETTINGS: forgettings},
            )
        recorded = offsets
        rows.clear()

    def split_in_turn() -> Iterator[dict[str, Any]]:
        """Each document once it is done, those of a tenant in their order, until time is up."""
        while waiting:
            turn = [tenant for tenant in whose_turn(waiting, processed.ahead()) if tenant not in hold]
            if not turn:
                return
            while turn:
                tenant = splitting.turns.next(turn)
                document = half.pop(tenant, None) or next(iter(waiting[tenant]))
                began = time.monotonic()
                if not to_split(document) or split_some(document):
                    yield document
                else:
                    half[tenant] = document
                splitting.turns.took(tenant, time.monotonic() - began)
                if tenant not in half and not waiting[tenant]:
                    del waiting[tenant]
                    turn.remove(tenant)
                if seconds is not None and time.monotonic() - started > seconds:
                    return
            commit()  # it says who is ahead, and so how many more may be

    def to_split(document: dict[str, Any]) -> bool:
        live = document["status"] == "parsed" and answering.get(document["document_id"]) == document["version"]
        return live and (document["document_id"], document["version"]) not in split_before

    def split_some(document: dict[str, Any]) -> bool:
        """Split a slice of a document; whether that was the last of it."""
        name = document["document_id"], document["version"]
        try:
            begin = partial(_rows, document, unsplit, window)
            made = splitting.go_on(_key(document, window, generation), begin, _SLICE_S)
        except HeadraceError:
            raise
        except Exception as error:  # it is this document's fault
            log.exception("%s could not be split into chunks", document["document_id"])
            reason = f"it could not be split into chunks ({type(error).__name__})"
            split_before.add(name)
            unnoted.append(Unfit(*name, document["uri"], reason))
            return True
        if made is None:
            return False
        split_before.add(name)
        rows.extend({**row, "generation": generation} for row in made)
        count["documents"] += 1
        count["chunks"] += len(made)
        return True

    unsplit.keep(row for row in new if to_split(row) and not splitting.begun(_key(row, window, generation)))
    for document in bars.track(split_in_turn(), "chunk", total=len(new), of="documents"):
        partition = partition_name(document)
        if partition not in last or last[partition]["offset"] < document["offset"]:
            last[partition] = document
        if document["status"] == "parsed":  # a document that was left out has a row before the tenant's events in front of it
            processed.add(document)
        if len(rows) >= _COMMIT_ROWS:
            commit()
    commit()
    left = [*half.values(), *(document for queue in waiting.values() for document in queue)]
    unfinished = unsplit.rest.union(document["document_id"] for document in left if to_split(document))
    return Chunked(count["documents"], count["chunks"], tuple(failed), unfinished)


def _key(document: dict[str, Any], window: int, generation: int) -> Key:
    return document["document_id"], document["version"], generation, window


def _property(name: str, generation: int) -> str:
    """The snapshot property of a generation."""
    return name if generation == 1 else f"{name}-g{generation}"


def _rows(document: dict[str, Any], unsplit: UnsplitVersions, window: int) -> Iterator[dict[str, Any] | None]:
    """The rows of a document, and `None` for each stretch of it without words, which took time too."""
    position = -1
    for piece, where in _placed(document | unsplit.take(document), window):
        if piece is None:
            yield None
            continue
        position += 1
        text = f"{piece.heading}\n{piece.body}" if piece.heading else piece.body
        identity = f"{document['document_id']}\0{document['version']}\0{position}\0{text}"
        yield {
            "chunk_id": hashlib.sha256(identity.encode()).hexdigest()[:24],
            "document_id": document["document_id"],
            "version": document["version"],
            "tenant": document["tenant"],
            "uri": document["uri"],
            "heading": piece.heading or document["title"],
            "position": position,
            "text": text,
            "readers": document.get("readers") or [],
            "topic": document["topic"],
            "partition": document["partition"],
            "offset": document["offset"],
            "place": where,
        }


def _placed(document: dict[str, Any], window: int) -> Iterator[tuple[Piece | None, str | None]]:
    """As `steps`, each piece with its page, slide or sheet."""
    text, parts, of = document["text"], document["parts"] or [], by_media(document["media"])
    ends = [] if of.runs_on else [part["start"] for part in parts[1:]]
    starts = [part["start"] for part in parts]
    for begin, end in zip([0, *ends], [*ends, len(text)], strict=True):
        for piece in steps(text[begin:end], window, code=of.fenced):
            if piece is None:
                yield None, None
                continue
            first = bisect_right(starts, begin + piece.start) - 1
            last = bisect_right(starts, begin + piece.start + len(piece.body) - 1) - 1
            yield piece, _range([part["place"] for part in parts[max(0, first) : last + 1]])


def _range(places: Sequence[str]) -> str | None:
    """The place, or a range like "pages 3–4"."""
    if len(places) < 2:
        return places[0] if places else None
    (kind, _, first), (other, _, last) = places[0].partition(" "), places[-1].partition(" ")
    return f"{kind}s {first}–{last}" if last and kind == other else f"{places[0]} – {places[-1]}"
