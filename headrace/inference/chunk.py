"""chunk: each document's text to chunks within the embedder's window, by structure, with the heading path in front."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import pyarrow as pa
from semantic_text_splitter import MarkdownSplitter

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.inference.parse import IN_ORDER, TAKEN, live, place
from headrace.inference.put import AHEAD
from headrace.models import tokens
from headrace.pipeline.progress import Bars
from headrace.pipeline.stage import stage
from headrace.storage.records import batch
from headrace.storage.tables import TableReader, TableWriter

_COMMIT_ROWS = 5000
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_SEPARATOR = " › "
# Each splitter copies the tokenizer, so rooms are rounded down and a few splitters serve all headings.
_ROOM_STEP = 8
_PATH_SHARE = 0.25  # of the window, at most, for the heading path


@dataclass(frozen=True)
class Chunked:
    """How many documents were split, into how many chunks."""

    documents: int
    chunks: int


@stage("Splits each document into chunks within the embedder's window, heading path in front.", phase=AHEAD)
def chunk(
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableWriter, CHUNK_ROWS],
    bars: Bars,
    window: int,
) -> Chunked:
    """Split every live document version that the chunks table has not taken in; `window` is in word pieces."""
    standing = chunks.mark(TAKEN)
    position = dict(standing or {})
    answering = live(documents)
    # A version put back after another one, or put twice, has its chunks already.
    held = chunks.read(("document_id", "version"))
    split_before = set(zip(held["document_id"].to_pylist(), held["version"].to_pylist(), strict=True))
    rows: list[dict[str, Any]] = []
    count = {"documents": 0, "chunks": 0}

    def commit() -> None:
        nonlocal standing
        if position != (standing or {}):
            chunks.append(batch(CHUNK_ROWS.columns, rows), marks={TAKEN: dict(position)}, expected={TAKEN: standing})
        standing = dict(position)
        rows.clear()

    for document in bars.track(_new(documents, position), "chunk", of="documents"):
        position[place(document)] = document["offset"] + 1
        if document["status"] != "parsed" or answering.get(document["document_id"]) != document["version"]:
            continue
        if (name := (document["document_id"], document["version"])) in split_before:
            continue
        split_before.add(name)
        made = list(_rows(document, window))
        rows.extend(made)
        count["documents"] += 1
        count["chunks"] += len(made)
        if len(rows) >= _COMMIT_ROWS:
            commit()
    commit()
    return Chunked(count["documents"], count["chunks"])


def split(text: str, window: int) -> Iterator[tuple[str, str]]:
    """(heading path, body) of each chunk of a Markdown text; path and body together fit `window` word pieces."""
    for path, body in sections(text):
        heading = _fitting(path, int(window * _PATH_SHARE))
        room = window - tokens.count(heading) - 1 if heading else window
        room -= room % _ROOM_STEP
        for piece in _splitter(room).chunks(body):
            if any(c.isalnum() for c in piece):
                yield heading, piece


def sections(text: str) -> Iterator[tuple[list[str], str]]:
    """(heading path, body) of each section of a Markdown text, in order; headings inside code fences are not headings."""
    path: list[tuple[int, str]] = []
    body: list[str] = []
    fence = ""
    for line in text.splitlines():
        stripped = line.lstrip()
        if stripped.startswith(("```", "~~~")):
            mark = stripped[:3]
            fence = "" if fence == mark else fence or mark
        match = None if fence else _HEADING.match(line)
        if match is None:
            body.append(line)
            continue
        if any(part.strip() for part in body):
            yield [title for _, title in path], "\n".join(body).strip("\n")
        body = []
        level = len(match[1])
        path = [(depth, title) for depth, title in path if depth < level] + [(level, match[2])]
    if any(part.strip() for part in body):
        yield [title for _, title in path], "\n".join(body).strip("\n")


def _new(documents: TableReader, position: Mapping[str, int]) -> list[dict[str, Any]]:
    origin = tuple(name for name, _ in IN_ORDER)
    columns = ("document_id", "version", "tenant", "uri", "status", "title", "text", *origin)
    found = []
    for rows in documents.scan(columns):
        new = [row["offset"] >= position.get(place(row), 0) for row in rows.select(origin).to_pylist()]
        found += rows.filter(pa.array(new)).to_pylist()
    return sorted(found, key=lambda row: tuple(row[name] for name in origin))


def _rows(document: dict[str, Any], window: int) -> Iterator[dict[str, Any]]:
    for position, (heading, body) in enumerate(split(document["text"], window)):
        text = f"{heading}\n{body}" if heading else body
        identity = f"{document['document_id']}\0{document['version']}\0{position}\0{text}"
        yield {
            "chunk_id": hashlib.sha256(identity.encode()).hexdigest()[:24],
            "document_id": document["document_id"],
            "version": document["version"],
            "tenant": document["tenant"],
            "uri": document["uri"],
            "heading": heading or document["title"],
            "position": position,
            "text": text,
            "readers": [],
            "topic": document["topic"],
            "partition": document["partition"],
            "offset": document["offset"],
        }


def _fitting(path: list[str], room: int) -> str:
    """The heading path, shortened from the front until it takes at most `room` word pieces."""
    while path:
        joined = _SEPARATOR.join(path)
        if tokens.count(joined) <= room:
            return joined
        path = path[1:]
    return ""


@lru_cache(maxsize=512)
def _splitter(room: int) -> MarkdownSplitter:
    return MarkdownSplitter.from_huggingface_tokenizer(tokens.tokenizer(), room)
