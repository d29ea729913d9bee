"""The text of a document around one of its passages, for a reader who wants to see where an answer's words come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.api.admission import AdmissionQueue
from headrace.api.auth import Caller
from headrace.api.documents import Documents
from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS
from headrace.core.runner import Runner
from headrace.documents.versions import ORIGIN, at_address
from headrace.errors import Forbidden, NotFound
from headrace.storage.filters import NOBODY
from headrace.storage.tables.handles import TableReader, quoted

_WINDOW = 60_000  # characters, of a text that may have ten million
_SHORTEST_LINE = 3  # characters of a line that is looked for
_MISSES = 20  # lines that are looked for in vain; each takes 30 ms in the longest text


@dataclass(frozen=True)
class DocumentText:
    """A part of a document's text, as Markdown, from character `start` of all `length`.

    `spans` are the characters of `text` that the passage was made of, none where no passage was named or it is no longer there
    (`found`). `newest` says whether this is the newest version: a passage may be of an earlier one.
    """

    uri: str
    title: str
    media: str
    version: str
    newest: bool
    length: int
    start: int
    text: str
    heading: str = ""
    place: str = ""
    found: bool = False
    spans: tuple[tuple[int, int], ...] = ()


class DocumentTexts:
    """Reads texts of documents from the tables; safe to share between threads."""

    def __init__(self, runner: Runner, documents: Documents, admission: AdmissionQueue) -> None:
        self._runner = runner
        self._documents = documents
        self._admission = admission

    def text(
        self, caller: Caller, tenant: str, uri: str, *, chunk_id: str | None = None, readers: Sequence[str] = ()
    ) -> DocumentText:
        """A document's text around a passage, or else its beginning.

        A text may have ten million characters, so only some are read at a time. Raises `NotFound` for a document that the caller
        may not know of or that has no text yet, `Forbidden` for one that is closed to all whom the caller asks on behalf of, and
        `Overloaded`.
        """
        ticket = self._admission.enter(tenant, caller.limits.questions, uri)
        try:
            self._admission.wait(ticket, lambda: False)
            return self._text(caller, tenant, uri, chunk_id, caller.principals_for(readers))
        finally:
            self._admission.leave(ticket)

    def _text(self, caller: Caller, tenant: str, uri: str, chunk_id: str | None, principals: Collection[str]) -> DocumentText:
        document = self._documents.visible(caller, tenant, uri)
        _check_open(document.readers, principals)
        event: Mapping[str, Any] = {"partition": document.partition, "offset": document.offset}
        chunk = self._chunk(tenant, document.id, event, chunk_id) if chunk_id else None
        row = self._row(tenant, document.id, chunk or event)
        if row is not None and chunk is not None and row["version"] != document.version:
            # What is open now may have been closed then, and what was deleted is not shown because its name was used again.
            _check_open(row["readers"] or (), principals)
            if self._deleted_since(tenant, document.id, chunk):
                row = None
        if row is None or not row["text"]:
            raise NotFound("This document has no text yet.", hint="Its status says how far it is.")
        text = str(row["text"])
        spans = located(text, chunk["text"]) if chunk else []
        start, part = _around(text, spans[0][0] if spans else 0)
        end = start + len(part)
        return DocumentText(
            uri=document.uri,
            title=row["title"] or "",
            media=row["media"] or "",
            version=row["version"],
            newest=row["version"] == document.version,
            length=len(text),
            start=start,
            text=part,
            heading=(chunk["heading"] or "") if chunk else "",
            place=(chunk["place"] or "") if chunk else "",
            found=bool(spans),
            spans=tuple((one - start, min(other, end) - start) for one, other in spans if one < end),
        )

    def _row(self, tenant: str, document_id: str, event: Mapping[str, Any]) -> dict[str, Any] | None:
        table = self._runner.open(TableReader, DOCUMENT_ROWS, stage="page", tenant=tenant)
        columns = ("version", "title", "media", "text", "text_at", "readers")
        found = table.read(columns, f"{_of(event)} AND document_id = {quoted(document_id)}").to_pylist()
        row: dict[str, Any] | None = next((row for row in reversed(found) if row["text"] or row["text_at"]), None)
        if row is not None and row["text_at"]:
            of_it = table.read(("text",), f"{at_address(row['text_at'])} AND document_id = {quoted(document_id)}").to_pylist()
            row["text"] = next((one["text"] for one in of_it if one["text"]), "")
        return row

    def _chunk(self, tenant: str, document_id: str, event: Mapping[str, Any], chunk_id: str) -> dict[str, Any] | None:
        table = self._runner.open(TableReader, CHUNK_ROWS, stage="page", tenant=tenant)
        columns = ("text", "heading", "place", *ORIGIN)
        where = f"document_id = {quoted(document_id)} AND chunk_id = {quoted(chunk_id)}"
        # Rows lie in the order of the events they came from, so the event's offset leaves few files to read. A passage of another
        # event (of an earlier version, or of the same content put before) is rare.
        rows = table.read(columns, f"{_of(event)} AND {where}").to_pylist() or table.read(columns, where).to_pylist()
        return rows[0] if rows else None

    def _deleted_since(self, tenant: str, document_id: str, chunk: Mapping[str, Any]) -> bool:
        table = self._runner.open(TableReader, DOCUMENT_ROWS, stage="page", tenant=tenant)
        deletions = table.read(ORIGIN, f"document_id = {quoted(document_id)} AND status = 'deleted'").to_pylist()
        return any(tuple(one[name] for name in ORIGIN) > tuple(chunk[name] for name in ORIGIN) for one in deletions)


def _check_open(readers: Collection[str], principals: Collection[str]) -> None:
    if readers and set(readers).isdisjoint(set(principals) - {NOBODY}):
        raise Forbidden("This document is for some readers only.", hint="Name one of them as reader.")


def _of(event: Mapping[str, Any]) -> str:
    return f"partition = {event['partition']} AND offset = {event['offset']}"


def located(text: str, passage: str | None) -> list[tuple[int, int]]:
    """Where a passage is in its document: in one piece, or line by line where lines were left out or repeated in it.

    A chunk of a long table repeats the table's head, and cells of a wide one are written with their column's name.
    """
    if not passage:
        return []
    if (at := text.find(passage)) >= 0:
        return [(at, at + len(passage))]
    found: list[tuple[int, int]] = []
    after = misses = 0
    for line in passage.splitlines():
        words = line.strip()
        if len(words) < _SHORTEST_LINE:
            continue
        if (at := text.find(words, after)) < 0:
            misses += 1
            if misses == _MISSES:
                break
            continue
        after = at + len(words)
        if found and not text[found[-1][1] : at].strip():
            found[-1] = (found[-1][0], after)
        else:
            found.append((at, after))
    return found


def _around(text: str, at: int) -> tuple[int, str]:
    """The part of a text around a character, from the beginning of a line, and where it begins."""
    if len(text) <= _WINDOW:
        return 0, text
    start = max(0, min(at - _WINDOW // 3, len(text) - _WINDOW))
    start = text.rfind("\n", 0, start) + 1 if start else 0
    return start, text[start : start + _WINDOW]
