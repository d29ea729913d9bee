"""Documents that a stage cannot take in: they fail alone, with a reason, and the others go on.

That a document failed is one more row of the documents table, of the same event as the row that says it was parsed, and it counts
before that one (`ROWS_IN_ORDER`). Its version before goes on answering; put again, it is tried again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import DOCUMENT_EVENT_ROWS, DOCUMENT_ROWS
from headrace.core.stage import stage
from headrace.documents import AHEAD
from headrace.documents.names import composed, document_id
from headrace.documents.versions import IN_ORDER, ORIGIN, ROWS_IN_ORDER, row_of
from headrace.errors import BadDocument, NotFound
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter, quoted

_AT_ONCE = 200  # documents named in one filter


@dataclass(frozen=True)
class Unfit:
    """A version of a document that a stage cannot take in, and why, in a clause."""

    document_id: str
    version: str
    uri: str
    reason: str


GiveUp = Callable[[Sequence[Unfit]], object]
"""What a stage does with documents that it cannot take in."""


def refuse(unfit: Sequence[Unfit]) -> None:
    """Give up on the whole instead: an index that is built beside another must not take from that what it cannot hold itself."""
    first = unfit[0]
    error = BadDocument(first.uri, first.reason)
    error.hint = "The index that answers is as it was. To leave the document out: headrace index --skip URI."
    raise error


@stage("Notes which documents a stage could not take in, and why.", phase=AHEAD)
def give_up(documents: Annotated[TableWriter, DOCUMENT_ROWS], unfit: Sequence[Unfit]) -> int:
    """Mark those versions as failed that are parsed as yet; returns how many rows that took."""
    count = 0
    for start in range(0, len(unfit), _AT_ONCE):
        reasons = {(one.document_id, one.version): one.reason for one in unfit[start : start + _AT_ONCE]}
        names = ", ".join(quoted(name) for name in sorted({name for name, _ in reasons}))
        newest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in documents.read(where=f"document_id in ({names})").sort_by(ROWS_IN_ORDER).to_pylist():
            newest[tuple(row[name] for name in ORIGIN)] = row
        failed = [
            {**row, "status": "failed", "reason": reason, "text": "", "parts": None, "at": datetime.now(UTC)}
            for row in newest.values()
            if row["status"] == "parsed" and (reason := reasons.get((row["document_id"], row["version"]))) is not None
        ]
        if failed:
            documents.append(batch(documents.store.columns, failed))
            count += len(failed)
    return count


@stage("Leaves out a document that holds others up.", phase=AHEAD)
def leave_out(
    events: Annotated[TableReader, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableWriter, DOCUMENT_ROWS],
    tenant: str,
    uri: str,
    reason: str,
) -> str:
    """Mark a document's newest version as failed, whatever stage it holds up; returns that version. Raises `NotFound`.

    It is left out until it is put again. A version before it goes on answering.
    """
    # An event has the name as it was typed, the document in form NFC.
    names = sorted({uri, *(unicodedata.normalize(form, uri) for form in ("NFC", "NFD"))})
    where = f"tenant = {quoted(tenant)} AND uri in ({', '.join(map(quoted, names))})"
    recorded = events.read(where=where).sort_by(IN_ORDER).to_pylist()
    if not recorded or recorded[-1]["kind"] != "put":
        raise NotFound(f"No document {uri!r} of tenant {tenant} is waiting or indexed.", hint="GET /v1/documents lists them.")
    event = {**recorded[-1], "uri": composed(uri)}
    before = documents.read(("readers", *ORIGIN, "status"), f"document_id = {quoted(document_id(tenant, event['uri']))}")
    rows = before.sort_by(ROWS_IN_ORDER).to_pylist()
    if event["readers"] is None:  # as parse has it: it leaves them as they were
        event["readers"] = rows[-1]["readers"] if rows else []
    documents.append(batch(documents.store.columns, [{**row_of(event), "status": "failed", "reason": reason}]))
    return str(event["sha256"])
