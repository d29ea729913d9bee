"""The documents table: the newest row of each document, which version of it answers, to whom, and what it is filtered by.

Each row is one version of a document as one event announced it. If a stage after `parse` cannot take a version in, the event has
a second row that says so (`failed.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.catalog import ORIGIN_COLUMNS
from headrace.documents.formats.registry import kinds_of
from headrace.documents.names import document_id
from headrace.storage.tables.handles import quoted
from headrace.storage.vectors.labels import Description, labels_of

ORIGIN = tuple(column.name for column in ORIGIN_COLUMNS)
"""The columns that say which event a row is of."""
IN_ORDER = [(name, "ascending") for name in ORIGIN]
SOURCE_GONE = "its source file is gone from the object store"
"""The reason of a document that failed because somebody deleted its source: it is put again with the next look at its file."""
EXPIRED = "older than its tenant keeps documents"
"""The reason of a deletion by retention: the file in a followed source stays deleted until it changes."""
ROWS_IN_ORDER = [*IN_ORDER, ("status", "descending")]
"""The order of rows of the documents table: of two rows of one event the failed one comes last and counts."""


@dataclass(frozen=True)
class StoredVersion:
    """What the newest row of a document says."""

    status: str
    version: str
    reason: str
    readers: tuple[str, ...]
    attributes: tuple[str, ...]
    source: str | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredVersion:
        """What that row says."""
        readers, attributes = tuple(row["readers"] or ()), tuple(row["attributes"] or ())
        return cls(row["status"], row["version"], row["reason"], readers, attributes, row["source"])


def describe(rows: Sequence[Mapping[str, Any]]) -> dict[str, Description]:
    """document id → how the index describes a document, from rows of the documents table in their order.

    Readers and attributes are those of its newest row, whatever its status: a document that becomes unreadable by the event that
    closes it is closed too. Kind and time are those of the version that answers; the time is that of the event that put it.
    """
    live_rows = answering(rows)
    described = {}
    for name, row in {row["document_id"]: row for row in rows}.items():
        live_row = live_rows.get(name, row)
        kinds = kinds_of(live_row["media"]) if live_row["media"] else ()
        labels = labels_of(row["uri"], kinds, row["attributes"] or ())
        changed = live_row.get("changed_at") or row["at"]
        described[name] = Description(tuple(row["readers"] or ()), labels, int(changed.timestamp()))
    return described


def answering(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """document id → the newest row of the version that answers, with `changed_at`, when that version was put.

    That is the newest parsed version, unless a later event deleted the document. Where a newer version failed, in parsing or
    behind it, the older one goes on answering.
    """
    failed = {tuple(row[name] for name in ORIGIN) for row in rows if row["status"] == "failed"}
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["status"] == "failed" or tuple(row[name] for name in ORIGIN) in failed:
            continue
        before = newest.get(row["document_id"], {})
        same = (before.get("status"), before.get("version")) == ("parsed", row["version"])
        newest[row["document_id"]] = {**row, "changed_at": before["changed_at"] if same else row.get("put_at") or row.get("at")}
    return {name: row for name, row in newest.items() if row["status"] == "parsed"}


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as `ROWS_IN_ORDER` has them."""
    by_status = sorted(rows, key=lambda row: str(row["status"]), reverse=True)
    return sorted(by_status, key=lambda row: tuple(row[name] for name in ORIGIN))


def stored_versions(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """version → its bytes, of the versions of a document whose sources are stored, from all its rows in their order."""
    versions: dict[str, int] = {}
    for row in rows:
        if row["status"] == "deleted":
            versions.clear()
        elif row["version"]:
            versions[row["version"]] = row["bytes"]
    return versions


_RECENT = 100  # rows of a document; a stage may still fail the event of one


def needed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those rows of a document, of all in their order, by which `answering`, `describe` and its stored versions are as by all.

    Also once more rows follow, some of which may fail an event of the newest rows. These are the newest, one of each version
    that is stored, those of the version that answers, and what was deleted last: a document may be put any number of times.
    """
    deleted = max((place for place, row in enumerate(rows) if row["status"] == "deleted"), default=0)
    rows = list(rows[max(0, deleted - 1) :])  # one before it: a renamed document's embeddings are found by that
    older, recent = rows[:-_RECENT], rows[-_RECENT:]
    if not older:
        return rows
    failed = {origin_of(row) for row in rows if row["status"] == "failed"}
    # With the deletion itself: without it, the version before it would count as stored.
    deletions = (row for row in older if row["status"] == "deleted")
    kept = {origin_of(row) for row in (*recent, *deletions, *{row["version"]: row for row in older}.values())}
    begins = live = None
    for row in older:
        if row["status"] != "failed" and origin_of(row) not in failed:
            if live is None or (live["status"], live["version"]) != (row["status"], row["version"]):
                begins = row
            live = row
    kept |= {origin_of(row) for row in (begins, live) if row is not None}
    return [row for row in rows if origin_of(row) in kept]


def origin_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which event a row is of, or an event is: topic, partition and offset."""
    return tuple(row[name] for name in ORIGIN)


def event_address(row: Mapping[str, Any]) -> str:
    """The address of a landed row's event: topic/partition/offset."""
    return f"{row['topic']}/{row['partition']}/{row['offset']}"


def at_address(address: str) -> str:
    """The condition that a row is of the event with this address."""
    head, _, offset = address.rpartition("/")
    topic, _, partition = head.rpartition("/")
    return f"topic = {quoted(topic)} AND partition = {int(partition)} AND offset = {int(offset)}"


KEPT = ("readers", "attributes")
"""What stays as it was where an event does not name it."""


def keep_unnamed(event: dict[str, Any], before: Mapping[str, Any] | None) -> None:
    """Complete an event from the document's newest row."""
    for name in KEPT:
        if event[name] is None:
            event[name] = before[name] if before else []


def is_hidden(event: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Whether the key that wrote an event may not read the document that it would change, given that document's newest row.

    Such an event does not count. The service refuses it as well, but what another process announces meanwhile it cannot know.
    """
    if event["bound_to"] is None or before is None or before["status"] == "deleted" or not before["readers"]:
        return False
    return set(event["bound_to"]).isdisjoint(before["readers"])


def text_of_before(event: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an event's row takes from the document's newest row where that has the text of the same bytes; `None` where not.

    The text itself stays in the row that has it.
    """
    if event["kind"] != "put" or before is None or before["status"] != "parsed":
        return None
    if (before["version"], before["uri"]) != (event["sha256"], event["uri"]):
        return None
    if "text_at" not in before:
        return None  # an older version of this program copied the row, and left out where its text is
    return {
        **{name: before.get(name) for name in ("reason", "media", "title", "ocr_confidence")},
        "text_at": before["text_at"] or event_address(before),
    }


def row_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of the documents table takes from its event, for the caller to add `status` and what it found."""
    return {
        "document_id": document_id(event["tenant"], event["uri"]),
        "version": event["sha256"],
        **{name: event[name] for name in ("tenant", "uri", "bytes", "readers", "attributes", "source", *ORIGIN)},
        **{"reason": "", "media": "", "title": "", "text": "", "parts": None, "text_at": None, "ocr_confidence": None},
        "put_at": event["at"],
        "at": datetime.now(UTC),
    }
