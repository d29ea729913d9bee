"""What a row of the documents table says happened, by the rows before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headrace.scheduler.triggers.events import change_of, cloud_event


def row(
    status: str, version: str = "", *, readers: tuple[str, ...] = (), attributes: tuple[str, ...] | None = ()
) -> dict[str, Any]:
    return {"status": status, "version": version, "readers": list(readers), "attributes": attributes and list(attributes)}


def told(*rows: dict[str, Any]) -> list[str | None]:
    return [change_of(rows[:place], one) for place, one in enumerate(rows)]


def test_a_life_of_a_document() -> None:
    assert told(
        row("parsed", "1"),
        row("parsed", "1"),  # put again, as it was
        row("parsed", "1", readers=("hr",)),
        row("parsed", "1", readers=("hr",), attributes=("a=b",)),
        row("parsed", "2", readers=("hr",), attributes=("a=b",)),
        row("failed"),
        row("parsed", "2"),
        row("deleted"),
        row("deleted"),
        row("parsed", "2"),
    ) == [
        "document.created",
        None,
        "document.tagged",
        "document.tagged",
        "document.changed",
        "document.failed",
        "document.tagged",
        "document.deleted",
        None,
        "document.created",
    ]
    assert told(row("failed"), row("parsed", "1"), row("deleted")) == ["document.failed", "document.created", "document.deleted"]
    assert told(row("deleted")) == [None]
    assert told(row("parsed", "1", attributes=None), row("parsed", "1")) == ["document.created", None]


def test_an_event_has_what_the_specification_requires() -> None:
    at = datetime(2026, 11, 30, 18, 0, tzinfo=UTC)
    event = cloud_event("document.created", "a/0/1/parsed", "/headrace/documents", "a.md", at, {"uri": "a.md"})
    assert event == {
        "specversion": "1.0",
        "id": "a/0/1/parsed",
        "source": "/headrace/documents",
        "type": "io.headrace.document.created",
        "subject": "a.md",
        "time": "2026-11-30T18:00:00Z",
        "datacontenttype": "application/json",
        "data": {"uri": "a.md"},
    }
