"""Documents that a stage cannot take in: each fails alone, with a reason, and the others go on.

The failure is a second row of the document's event in the documents table and overrides the first, which says it was parsed
(`ROWS_IN_ORDER`). The version before goes on answering; a document that is put again is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import DOCUMENT_EVENT_ROWS, DOCUMENT_ROWS
from headrace.core.stage import stage
from headrace.documents.names import composed, document_id
from headrace.documents.versions import IN_ORDER, KEPT, ORIGIN, ROWS_IN_ORDER, keep_unnamed, row_of
from headrace.errors import BadDocument, NotFound
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableReader, TableWriter, quoted
from headrace.storage.timeline import AHEAD
from headrace.unicode import normalized

_AT_ONCE = 200  # documents named in one filter


@dataclass(frozen=True)
class Unfit:
    """A version of a document that a stage cannot take in, and why, in one clause."""

    document_id: str
    version: str
    uri: str
    reason: str


GiveUp = Callable[[Sequence[Unfit]], object]
"""Called by a stage with documents that it cannot take in."""


def refuse(unfit: Sequence[Unfit]) -> None:
    """Raise `BadDocument` instead: an index built beside another must not fail documents that the other one holds."""
    first = unfit[0]
    error = BadDocument(first.uri, first.reason)
    error.hint = "The served index is unchanged. To leave the document out: headrace index --skip URI."
    raise error


@stage("Notes which documents a stage could not take in, and why.", phase=AHEAD)
def give_up(documents: Annotated[TableWriter, DOCUMENT_ROWS], unfit: Sequence[Unfit]) -> int:
    """Mark these versions as failed, unless they already are; returns the number of rows written."""
    count = 0
    for start in range(0, len(unfit), _AT_ONCE):
        reasons = {(one.document_id, one.version): one.reason for one in unfit[start : start + _AT_ONCE]}
        names = ", ".join(quoted(name) for name in sorted({name for name, _ in reasons}))
        newest: dict[tuple[Any, ...], dict[str, Any]] = {}
        columns = tuple(name for name in documents.store.columns.names if name not in ("text", "parts"))
        for row in documents.read(columns, f"document_id in ({names})").sort_by(ROWS_IN_ORDER).to_pylist():
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


@stage("Leaves out a document that blocks others.", phase=AHEAD)
def leave_out(
    events: Annotated[TableReader, DOCUMENT_EVENT_ROWS],
    documents: Annotated[TableWriter, DOCUMENT_ROWS],
    tenant: str,
    uri: str,
    reason: str,
) -> str:
    """Mark a document's newest version as failed, whichever stage it holds up; returns that version. Raises `NotFound`.

    It is left out until it is put again. The version before goes on answering.
    """
    # An event has the name as typed, a document has it in form NFC.
    names = sorted({uri, normalized("NFC", uri), normalized("NFD", uri)})
    where = f"tenant = {quoted(tenant)} AND uri in ({', '.join(map(quoted, names))})"
    recorded = events.read(where=where).sort_by(IN_ORDER).to_pylist()
    if not recorded or recorded[-1]["kind"] != "put":
        raise NotFound(
            f"No document {uri!r} of tenant {tenant} is waiting or indexed.", hint="headrace documents list shows them."
        )
    event = {**recorded[-1], "uri": composed(uri)}
    before = documents.read((*KEPT, *ORIGIN, "status"), f"document_id = {quoted(document_id(tenant, event['uri']))}")
    rows = before.sort_by(ROWS_IN_ORDER).to_pylist()
    keep_unnamed(event, rows[-1] if rows else None)
    documents.append(batch(documents.store.columns, [{**row_of(event), "status": "failed", "reason": reason}]))
    return str(event["sha256"])
