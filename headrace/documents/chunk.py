"""chunk: the text of each document to chunks that fit the embedder's window, cut by structure, heading path in front."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.core.progress import ProgressBars
from headrace.core.stage import stage
from headrace.documents.failed import GiveUp, Unfit, refuse
from headrace.documents.formats.registry import SOURCE_CODE
from headrace.documents.lookup import ChunkLookup, DocumentLookup
from headrace.documents.processed import (
    PROCESSED_OFFSETS,
    EventQueue,
    ProcessedOffsets,
    not_before,
    partition_name,
    whose_turn,
)
from headrace.documents.splitting import Key, Splitting
from headrace.documents.versions import ORIGIN
from headrace.errors import HeadraceError
from headrace.models import tokens
from headrace.storage.metadata import Metadata
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.timeline import AHEAD

_READ_TO = "documents_read"  # the snapshot property: the revision of the documents table of which every version is processed
_COMMIT_ROWS = 5000
_SLICE_S = 0.5  # of one document, while others may wait
_HEADING = re.compile(r"#{1,6}(?=\s)")
_TITLE_CHARS = 500  # of a heading; a longer one would fit no window
_SEPARATOR = " › "
# Each splitter copies the tokenizer, so the room is rounded down: a few splitters then serve all headings.
_ROOM_STEP = 8
_PATH_SHARE = 0.25  # of the window, at most, for the heading path
_HEADER_SHARE = 0.5  # of a chunk, at most, for the header of a table; a wider table is cut cell by cell
_LEAD_SHARE = 0.25  # of a chunk, at most, for text above a table that goes with it
_NAME_CHARS = 40  # of a column's name in front of every cell
# The splitter's time grows with the square of its input, and to the embedder a word of any length is one word piece.
_BLOCK_CHARS = 10_000
_PIECE_CHARS = 10  # per word piece
_NESTED = re.compile(r"^(?:>[ \t]*|[*+-][ \t]+|\d{1,9}[.)][ \t]+){16}", re.MULTILINE)  # quotes and lists, one in the other
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")
_CELL_END = re.compile(r"(?<!\\)\|")
_PAGE = "page "

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
) -> Chunked:
    """Split every live document version that the chunks table has not processed; `window` is in word pieces.

    Tenants take turns by the time that their documents take, and a long document is split a slice at a time. After so many
    `seconds` the rest is left for another pass. `splitting`, which the caller keeps for that pass, knows whose turn it is and
    what is split by then.

    A document that cannot be split is given up before the property moves past it, so that no kill in between loses the reason.

    Each generation of the index has its own rows, and its own snapshot property for what is processed.
    """
    name_of_offsets, name_of_revision = _property(PROCESSED_OFFSETS, generation), _property(_READ_TO, generation)
    properties = chunks.snapshot_properties()
    recorded, since = properties.get(name_of_offsets), properties.get(name_of_revision)
    processed = ProcessedOffsets(recorded)
    parsed = ProcessedOffsets(documents.snapshot_property(PROCESSED_OFFSETS)).floors  # before the rows are read: those are in
    lookup, splits = DocumentLookup(metadata, documents), ChunkLookup(metadata, chunks)
    revision = lookup.follow()
    new = _new(documents, processed, since)
    answering = lookup.live(row["document_id"] for row in new)
    splits.follow()
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
        first = [*half.values(), *(event for queue in waiting.values() for event in queue.first())]
        # Above what is parsed of all tenants, rows of others may still come in front of these.
        processed.settle(last.values(), first, parsed)
        if (offsets := processed.as_property()) != (recorded or {}):
            chunks.append(
                batch(CHUNK_ROWS.columns, rows),
                # With nothing waiting, the next pass need not read again what this one read.
                properties={name_of_offsets: offsets, name_of_revision: since if first else revision},
                expected={name_of_offsets: recorded},
            )
        recorded = offsets
        rows.clear()

    def split_in_turn() -> Iterator[dict[str, Any]]:
        """Each document once it is done, those of a tenant in their order, until time is up."""
        while waiting:
            turn = whose_turn(waiting, processed.ahead())
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
            made = splitting.go_on(_key(document, window, generation), lambda: _rows(document, window), _SLICE_S)
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
    unfinished = frozenset(document["document_id"] for document in left if to_split(document))
    return Chunked(count["documents"], count["chunks"], tuple(failed), unfinished)


def _key(document: dict[str, Any], window: int, generation: int) -> Key:
    return document["document_id"], document["version"], generation, window


Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def of_generation(rows: Rows, generation: int) -> Rows:
    """Those rows of the chunks table that belong to one generation of the index."""
    return rows.filter(pc.equal(pc.fill_null(rows["generation"], 1), generation))


@dataclass(frozen=True)
class Piece:
    """The text of one chunk, the heading path above it, and the character of the whole text at which it begins."""

    heading: str
    body: str
    start: int


def split(text: str, window: int) -> Iterator[tuple[str, str]]:
    """(heading path, body) of each chunk of a Markdown text; path and body together fit `window` word pieces."""
    for piece in pieces(text, window):
        yield piece.heading, piece.body


def pieces(text: str, window: int, *, code: bool = False) -> Iterator[Piece]:
    """The chunks of a Markdown text in order, or with `code` of a text that is one fence of source code.

    A table that does not fit into one chunk is cut between rows, and each part has the header above it.
    """
    for path, body, start in _sections(text):
        heading = _fitting(tuple(path), int(window * _PATH_SHARE))
        room = window - tokens.count(heading) - 1 if heading else window
        room -= room % _ROOM_STEP
        for at, piece in _cut_code(body, room) if code else _cut(body, room):
            if any(c.isalnum() for c in piece):
                yield Piece(heading, piece, start + at)


def sections(text: str) -> Iterator[tuple[list[str], str]]:
    """(heading path, body) of each section of a Markdown text, in order; headings inside code fences are not headings."""
    for path, body, _ in _sections(text):
        yield path, body


def _sections(text: str) -> Iterator[tuple[list[str], str, int]]:
    """Each section with the character at which its body begins."""
    path: list[tuple[int, str]] = []
    body: list[str] = []
    fence = ""
    at = begun = 0

    def section() -> Iterator[tuple[list[str], str, int]]:
        if any(part.strip() for part in body):
            whole = "\n".join(body)
            yield [title for _, title in path], whole.strip("\n"), begun + len(whole) - len(whole.lstrip("\n"))

    for line in text.splitlines():
        fence = _fence(fence, line)
        match = None if fence else _HEADING.match(line)
        at += len(line) + 1
        if match is None:
            body.append(line)
            continue
        yield from section()
        body, begun = [], at
        level = len(match[0])
        path = [(depth, title) for depth, title in path if depth < level] + [(level, _heading(line[level:]))]
    yield from section()


def _heading(text: str) -> str:
    """A heading's title without closing # signs."""
    title = text.strip()
    bare = title.rstrip("#")
    return (bare.rstrip() if not bare or bare[-1].isspace() else title)[:_TITLE_CHARS]


def _fence(open_: str, line: str) -> str:
    """The fence that is open after a line; one at least as long, of the same kind and with nothing behind it, closes it."""
    match = _FENCE.match(line)
    if match is None:
        return open_
    if not open_:
        return match[1]
    return "" if match[1].startswith(open_) and not match[2].strip() else open_


def _cut(body: str, room: int) -> Iterator[tuple[int, str]]:
    """(start, text) of the pieces of a section; running text and tables are cut differently."""
    blocks = list(_blocks(body))
    if _fits(body, room) or not any(table for table, _, _ in blocks):
        yield from _cut_text(body, room)
        return
    lead: tuple[int, str] | None = None
    for table, start, block in blocks:
        if table:
            above = block if lead is None else f"{lead[1]}\n{block}"
            if _fits(above, room):
                yield start if lead is None else lead[0], above
            else:
                if lead is not None:
                    yield lead
                yield from ((start + at, piece) for at, piece in _cut_table(block, room))
            lead = None
            continue
        if lead is not None:
            yield lead
        cut = [(start + at, piece) for at, piece in _cut_text(block, room)]
        lead = cut.pop() if cut and tokens.count(cut[-1][1]) <= room * _LEAD_SHARE else None
        yield from cut
    if lead is not None:
        yield lead


def _blocks(body: str) -> Iterator[tuple[bool, int, str]]:
    """(whether it is a table, start, text) of each stretch of a section."""
    lines = body.split("\n")
    fence = ""
    kinds: list[bool] = []
    for index, line in enumerate(lines):
        fence = _fence(fence, line)
        row = not fence and line.lstrip().startswith("|")
        kinds.append(row and ((bool(kinds) and kinds[-1]) or _is_rule(lines[index + 1] if index + 1 < len(lines) else "")))
    start = at = 0
    for index, line in enumerate(lines):
        at += len(line) + 1
        if index + 1 == len(lines) or kinds[index + 1] != kinds[index]:
            if (block := body[start : at - 1]).strip():
                yield kinds[index], start, block
            start = at


def _is_rule(line: str) -> bool:
    """Whether this is the line below a table's header: bars, dashes and colons."""
    return "-" in line and set(line) <= set("|-: \t")


def _cut_table(block: str, room: int) -> Iterator[tuple[int, str]]:
    """Groups of rows, each below the header; of a table too wide for that, groups of cells, each behind its column's name."""
    header, _, *rows = block.split("\n")
    names = _cells(header)
    rule = "|" + "-|" * len(names)  # as short as Markdown allows: every dash is a word piece
    above = _width(header) + _width(rule)
    at = block.index("\n", len(header) + 1) + 1 if rows else len(block)
    start, lines, size = at, [header, rule], above
    wide = above > room * _HEADER_SHARE
    for row in rows:
        count = _width(row)
        if lines[2:] and size + count > room:
            yield start, "\n".join(lines)
            lines, size = [header, rule], above
        if wide or above + count > room:
            yield from ((at, piece) for piece in _cut_cells(names, _cells(row), room))
        else:
            start = at if len(lines) == 2 else start
            lines.append(row)
            size += count
        at += len(row) + 1
    if lines[2:]:
        yield start, "\n".join(lines)


def _cut_cells(names: Sequence[str], cells: Sequence[str], room: int) -> Iterator[str]:
    """A row's cells as "name: cell", as many together as fit."""
    pending: list[str] = []
    size = 0
    for index, cell in enumerate(cells):
        if not cell:
            continue
        name = names[index][:_NAME_CHARS] if index < len(names) else ""
        for piece in [cell] if _fits(cell, room // 2) else [text for _, text in _cut_text(cell, room // 2)]:
            sentence = f"{name}: {piece}" if name and tokens.count(name) <= room // 4 else piece
            count = _width(sentence) + 1
            if pending and size + count > room:
                yield "; ".join(pending)
                pending, size = [], 0
            pending.append(sentence)
            size += count
    if pending:
        yield "; ".join(pending)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(row.strip().removeprefix("|").removesuffix("|"))]


def _cut_code(body: str, room: int) -> Iterator[tuple[int, str]]:
    """Source code without its fence, cut where blank lines and indentation suggest it."""
    first, _, rest = body.partition("\n")
    code = rest.rpartition("\n")[0]
    for at, piece in _cut_text(code, room, _code_splitter):
        yield len(first) + 1 + at, piece.strip("\n")


def _cut_text(text: str, room: int, splitter: Callable[[int], _Splitter] | None = None) -> Iterator[tuple[int, str]]:
    """Running text, cut by the splitter: in blocks that it can handle, and into pieces that are not too long.

    Quotes within quotes are cut as plain text: their structure took the splitter ten times as long as prose.
    """
    for start, block in _bounded(text, _BLOCK_CHARS):
        cut = (splitter or (_plain_splitter if _NESTED.search(block) else _splitter))(room)
        for at, piece in cut.chunk_indices(block):
            if len(piece) <= room * _PIECE_CHARS:
                yield start + at, piece
                continue
            for inner, narrow in _bounded(piece, room * _PIECE_CHARS):
                if _fits(narrow, room):
                    yield start + at + inner, narrow
                else:
                    yield from ((start + at + inner + deep, part) for deep, part in cut.chunk_indices(narrow))


def _bounded(text: str, most: int) -> Iterator[tuple[int, str]]:
    """Stretches of at most so many characters that end with a paragraph, else a line, a sentence or a word if there is one."""
    start = 0
    while len(text) - start > most:
        window = text[start : start + most]
        end = next((at + len(mark) for mark in ("\n\n", "\n", ". ", " ") if (at := window.rfind(mark)) > most // 2), most)
        yield start, text[start : start + end]
        start += end
    yield start, text[start:]


def _fits(text: str, room: int) -> bool:
    return len(text) <= room * _PIECE_CHARS and tokens.count(text) <= room


def _width(text: str) -> int:
    """The room that a text takes: its word pieces, or its characters divided by `_PIECE_CHARS` where that is more."""
    return max(tokens.count(text), -(-len(text) // _PIECE_CHARS))


def _property(name: str, generation: int) -> str:
    """The snapshot property of a generation."""
    return name if generation == 1 else f"{name}-g{generation}"


def _new(documents: TableReader, processed: ProcessedOffsets, since: str | None) -> list[dict[str, Any]]:
    columns = ("document_id", "version", "tenant", "uri", "status", "media", "title", "text", "parts", "readers", *ORIGIN)
    waiting = []
    for rows in documents.scan(columns, not_before(processed.floors), since=since):
        new = [not processed.includes(row) for row in rows.select(("tenant", *ORIGIN)).to_pylist()]
        waiting += rows.filter(pa.array(new)).to_pylist()
    return sorted(waiting, key=lambda row: tuple(row[name] for name in ORIGIN))


def _rows(document: dict[str, Any], window: int) -> Iterator[dict[str, Any]]:
    for position, (piece, where) in enumerate(_placed(document, window)):
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


def _placed(document: dict[str, Any], window: int) -> Iterator[tuple[Piece, str | None]]:
    """Each piece with its page, slide or sheet. Text may run on from page to page, not from slide to slide."""
    text, parts = document["text"], document["parts"] or []
    code = document["media"].startswith(SOURCE_CODE.media)
    ends = [part["start"] for part in parts[1:] if not part["place"].startswith(_PAGE)]
    starts = [part["start"] for part in parts]
    for begin, end in zip([0, *ends], [*ends, len(text)], strict=True):
        for piece in pieces(text[begin:end], window, code=code):
            first = bisect_right(starts, begin + piece.start) - 1
            last = bisect_right(starts, begin + piece.start + len(piece.body) - 1) - 1
            yield piece, _range([part["place"] for part in parts[max(0, first) : last + 1]])


def _range(places: Sequence[str]) -> str | None:
    """The place, or a range like "pages 3–4"."""
    if len(places) > 1 and all(name.startswith(_PAGE) for name in places):
        return f"pages {places[0].removeprefix(_PAGE)}–{places[-1].removeprefix(_PAGE)}"
    return places[0] if places else None


@lru_cache(maxsize=64)
def _fitting(path: tuple[str, ...], room: int) -> str:
    """The heading path, shortened from the front until it takes at most `room` word pieces."""
    while path:
        joined = _SEPARATOR.join(path)
        if tokens.count(joined) <= room:
            return joined
        path = path[1:]
    return ""


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


@lru_cache(maxsize=512)
def _splitter(room: int) -> _Splitter:
    return MarkdownSplitter.from_huggingface_tokenizer(tokens.tokenizer(), room)


@lru_cache(maxsize=512)
def _plain_splitter(room: int) -> _Splitter:
    return TextSplitter.from_huggingface_tokenizer(tokens.tokenizer(), room)


@lru_cache(maxsize=512)
def _code_splitter(room: int) -> _Splitter:
    # Untrimmed: the indentation of a line matters.
    return TextSplitter.from_huggingface_tokenizer(tokens.tokenizer(), room, trim=False)
