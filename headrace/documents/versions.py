"""The documents table: the newest row of each document, which version of it answers, and to whom.

Each row is one version of a document as one event announced it. If a stage behind `parse` cannot take a version in, the event has
a second row that says so (`failed.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from headrace.documents.names import document_id
from headrace.storage.tables.handles import TableReader, quoted

ORIGIN = ("topic", "partition", "offset")
"""The columns that say which event a row is of."""
IN_ORDER = [(name, "ascending") for name in ORIGIN]
ROWS_IN_ORDER = [*IN_ORDER, ("status", "descending")]
"""The order of rows of the documents table: of two rows of one event the failed one comes last and counts."""


@dataclass(frozen=True)
class StoredVersion:
    """What the newest row of a document says."""

    status: str
    version: str
    reason: str
    readers: tuple[str, ...]
    source: str | None


def newest_versions(documents: TableReader, tenant: str) -> dict[str, StoredVersion]:
    """uri → the newest row of each of the tenant's documents."""
    columns = ("uri", "status", "version", "reason", "readers", "source")
    return {
        row["uri"]: StoredVersion(row["status"], row["version"], row["reason"], tuple(row["readers"] or ()), row["source"])
        for row in _rows(documents, columns, f"tenant = {quoted(tenant)}")
    }


def newest_rows(documents: TableReader) -> dict[str, dict[str, Any]]:
    """document id → its newest row, without its text."""
    columns = ("document_id", "version", "status", "reason", "readers", "source")
    return {row["document_id"]: row for row in _rows(documents, columns)}


def audience(documents: TableReader) -> dict[str, tuple[str, ...]]:
    """document id → who of its tenant may read it (nobody named: everybody), as its newest row says, whatever its status.

    A document that becomes unreadable by the event that closes it is closed too: its older version answers to fewer.
    """
    return {row["document_id"]: tuple(row["readers"] or ()) for row in _rows(documents, ("document_id", "readers"))}


def live(documents: TableReader) -> dict[str, str]:
    """document id → the version that answers: the newest parsed one, unless a later event deleted the document.

    Where a newer version failed, in parsing or behind it, the older one goes on answering.
    """
    rows = documents.read(("document_id", "version", "status", *ORIGIN))
    failed = {tuple(row.values()) for row in rows.filter(pc.equal(rows["status"], "failed")).select(ORIGIN).to_pylist()}
    newest: dict[str, dict[str, Any]] = {}
    for row in rows.sort_by(IN_ORDER).to_pylist():
        if row["status"] != "failed" and tuple(row[name] for name in ORIGIN) not in failed:
            newest[row["document_id"]] = row
    return {name: row["version"] for name, row in newest.items() if row["status"] == "parsed"}


def row_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of the documents table takes from its event, for the caller to add `status` and what it found."""
    return {
        "document_id": document_id(event["tenant"], event["uri"]),
        "version": event["sha256"],
        **{name: event[name] for name in ("tenant", "uri", "bytes", "readers", "source", *ORIGIN)},
        **{"reason": "", "media": "", "title": "", "text": "", "parts": None},
        "at": datetime.now(UTC),
    }


def _rows(documents: TableReader, columns: tuple[str, ...], where: str = "") -> list[dict[str, Any]]:
    """These columns of the rows, in their order."""
    wanted = tuple(dict.fromkeys((*columns, "status", *ORIGIN)))
    table = documents.read(wanted, where) if where else documents.read(wanted)
    rows: list[dict[str, Any]] = table.sort_by(ROWS_IN_ORDER).to_pylist()
    return rows
