"""Sources of documents that are put and not parsed yet: who deletes another document with the same bytes leaves them.

Documents with the same bytes share a source. The documents table shows which have it, but not before `parse`; until then only
this does, to all processes that share a metadata store. It also has the deletions that are not parsed yet, which claim no source.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.documents.names import composed
from headrace.storage.metadata import Metadata

CLAIMED = timedelta(days=30)
"""After which an event that nobody parses claims nothing more: its writer died before it announced it."""
_AT_ONCE = 500
_SOME = 100


class SourceClaims:
    """A claim is made before a source is looked for, and dropped once the documents table has the event it was made for."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def add(self, event: Mapping[str, Any]) -> None:
        """Claim the source of a put that is to be announced, or note a deletion that is."""
        row = {**{name: event[name] for name in ("event_id", "tenant", "sha256")}, "uri": composed(event["uri"])}
        with self._metadata.transaction(writing=True) as run:
            run(
                "INSERT INTO source_claims (event_id, tenant, sha256, uri, at) VALUES (:event_id, :tenant, :sha256, :uri, :at)"
                " ON CONFLICT (event_id) DO NOTHING",
                {**row, "at": event["at"].isoformat()},
            )

    def drop(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Drop the claims of events that the documents table has, and those that are too old."""
        names = [{"event_id": event["event_id"]} for event in events]
        if names:
            with self._metadata.transaction(writing=True) as run:
                run.many("DELETE FROM source_claims WHERE event_id = :event_id", names)
                run("DELETE FROM source_claims WHERE at < :oldest", {"oldest": _oldest()})

    def drop_announced(self, names: Iterable[str]) -> None:
        """Drop those of a document whose deletion is announced, by the ids of events announced before it."""
        with self._metadata.transaction(writing=True) as run:
            run.many("DELETE FROM source_claims WHERE event_id = :event_id", [{"event_id": name} for name in names])

    def drop_document(self, tenant: str, uri: str) -> None:
        """Drop those of a document that is forgotten."""
        with self._metadata.transaction(writing=True) as run:
            statement = "DELETE FROM source_claims WHERE tenant = :tenant AND uri = :uri"
            run(statement, {"tenant": tenant, "uri": composed(uri)})

    def some(self) -> list[dict[str, Any]]:
        """Some of the claims, others each time, as the events that they were made for: those of puts, and of deletions by hand.

        A pass that ends between its commit and `drop` leaves claims behind. Each pass looks at few, however many there are.
        """
        columns, start = "event_id, tenant, sha256, uri, at", secrets.token_hex(16)
        with self._metadata.transaction() as run:
            behind = f"SELECT {columns} FROM source_claims WHERE event_id >= :start ORDER BY event_id LIMIT {_SOME}"
            before = f"SELECT {columns} FROM source_claims WHERE event_id < :start ORDER BY event_id LIMIT {_SOME}"
            rows = run(behind, {"start": start})
            rows = rows if len(rows) == _SOME else [*rows, *run(before, {"start": start})]
        found = []
        for name, tenant, sha256, uri, at in rows:
            kind = "put" if sha256 else "delete"
            event = {"event_id": name, "kind": kind, "tenant": tenant, "sha256": sha256, "uri": uri}
            found.append({**event, "at": datetime.fromisoformat(at)})
        return found

    def events_of(self, tenant: str, uri: str, *, lately: timedelta = CLAIMED) -> set[str]:
        """The ids of events of a document that the documents table does not have yet, of those announced `lately`."""
        oldest = (datetime.now(UTC) - lately).isoformat()
        with self._metadata.transaction() as run:
            statement = "SELECT event_id FROM source_claims WHERE tenant = :tenant AND uri = :uri AND at >= :oldest"
            return {name for (name,) in run(statement, {"tenant": tenant, "uri": composed(uri), "oldest": oldest})}

    def documents(self, tenant: str) -> set[str]:
        """The uris of a tenant's documents that are claimed for."""
        with self._metadata.transaction() as run:
            statement = "SELECT DISTINCT uri FROM source_claims WHERE tenant = :tenant AND sha256 <> '' AND at >= :oldest"
            return {uri for (uri,) in run(statement, {"tenant": tenant, "oldest": _oldest()})}

    def claimed(self, tenant: str, versions: Collection[str], *, beside: Collection[str]) -> set[str]:
        """Those of a tenant's `versions` that are claimed for a document other than those `beside`."""
        own, wanted = set(map(composed, beside)), sorted(versions)
        found: set[str] = set()
        for start in range(0, len(wanted), _AT_ONCE):
            named = {f"v{index}": version for index, version in enumerate(wanted[start : start + _AT_ONCE])}
            among = ", ".join(f":{name}" for name in named)
            statement = f"SELECT sha256, uri FROM source_claims WHERE tenant = :tenant AND at >= :oldest AND sha256 IN ({among})"
            with self._metadata.transaction() as run:
                rows = run(statement, {"tenant": tenant, "oldest": _oldest(), **named})
            found |= {version for version, uri in rows if uri not in own}
        return found


def _oldest() -> str:
    return (datetime.now(UTC) - CLAIMED).isoformat()
