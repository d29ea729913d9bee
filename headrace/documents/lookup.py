"""What the tables say of each document, by key: a copy in the metadata store that follows the tables.

A table has no index by key: to ask it for one document is to read it. So each copy here takes in the rows that were committed
since it last looked, which costs what is new, and answers from there. The tables stay the truth. A copy is made again from
nothing where rows were removed from its table, the table was made anew, or the metadata store is new. Several processes may
follow at once.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar

from headrace.documents.names import document_id
from headrace.documents.versions import ORIGIN, answering, describe, in_order, needed, stored_versions
from headrace.storage.database import Statements
from headrace.storage.metadata import Metadata
from headrace.storage.tables.handles import TableReader, TableState
from headrace.storage.vectors.labels import Description

_AT_ONCE = 500  # keys in one statement
_SLICE = 2_000  # rows in one transaction
_TRIES = 3  # where the copy is made anew meanwhile
_SAME_BYTES = 20  # documents that are named of each version
_TIMES = ("at", "put_at")
_ALL = "SELECT document_id FROM document_states WHERE scope = :scope"
_UNFILLED = "SELECT document_id, fields, description FROM document_states WHERE scope = :scope AND status = '' LIMIT :most"
_WHOLE = (
    "SELECT revision FROM table_copies WHERE scope = :scope"
    " AND EXISTS (SELECT 1 FROM document_states WHERE document_states.scope = table_copies.scope)"
)
_TENANT = "SELECT tenant FROM document_states WHERE scope = :scope"


class _TableCopy(ABC):
    """A copy of some columns of a table, in these tables of the metadata store."""

    columns: ClassVar[tuple[str, ...]]
    tables: ClassVar[tuple[str, ...]]

    def __init__(self, metadata: Metadata, table: TableReader) -> None:
        self._metadata, self._table = metadata, table
        self._state: TableState | None = None
        self._scope = 0

    @property
    def state(self) -> TableState:
        """The table as it was when `follow` last looked."""
        if self._state is None:
            raise RuntimeError("follow the table first")
        return self._state

    def follow(self) -> str | None:
        """Take in what was committed since, and return the table's revision; `None` if it has no rows.

        Where nothing was committed, this is one request to the table.
        """
        self._state = self._table.state()
        revision = self._state.revision
        if revision is None:
            self._scope = 0
            return None
        identity = f"{self._table.store.table}:{revision.rpartition('/')[0]}"
        self._scope = scope = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:7])
        with self._metadata.transaction() as run:
            found = run("SELECT revision FROM table_copies WHERE scope = :scope", {"scope": scope})
        known = found[0][0] if found else None
        if known == revision:
            return revision
        # `alone`: a process that is late must not write what it has read over what another one has read since.
        slices = self._slices(known)
        last: Sequence[Any] = next(slices, ())
        for following in slices:
            with self._metadata.transaction(alone=True) as run:
                self._take_in(run, scope, last)
            last = following
        with self._metadata.transaction(alone=True) as run:
            self._take_in(run, scope, last)
            # Another process that followed further meanwhile must not be set back.
            run(
                "INSERT INTO table_copies (scope, revision) VALUES (:scope, :revision) ON CONFLICT (scope)"
                " DO UPDATE SET revision = excluded.revision WHERE table_copies.revision = :known",
                {"scope": scope, "revision": revision, "known": known or ""},
            )
            if known is None:
                self._drop_others(run, scope)
        return revision

    def rebuild(self) -> str | None:
        """Make the copy again from nothing."""
        self.follow()
        with self._metadata.transaction(alone=True) as run:
            run("DELETE FROM table_copies WHERE scope = :scope", {"scope": self._scope})
            for table in self.tables:
                run(f"DELETE FROM {table} WHERE scope = :scope", {"scope": self._scope})
        return self.follow()

    def _drop_others(self, run: Statements, scope: int) -> None:
        """Drop what was copied from the table before it had this identity."""
        for table in self.tables:
            run(f"DELETE FROM {table} WHERE scope <> :scope", {"scope": scope})

    def _slices(self, known: str | None) -> Iterator[Sequence[Any]]:
        """What to take in, in slices for one transaction each."""
        rows = (row for batch in self.state.scan(self.columns, since=known) for row in batch.to_pylist())
        while some := list(islice(rows, _SLICE)):
            yield some

    @abstractmethod
    def _take_in(self, run: Statements, scope: int, some: Sequence[Any]) -> None:
        """Copy some rows of the table."""

    def _select(
        self, columns: str, table: str, key: str, values: Iterable[str], more: str = "", **also: Any
    ) -> list[tuple[Any, ...]]:
        """Rows of this copy whose key is one of some values."""
        rows: list[tuple[Any, ...]] = []
        wanted = iter(dict.fromkeys(values))
        while some := list(islice(wanted, _AT_ONCE)):
            named = {f"v{index}": value for index, value in enumerate(some)}
            among = ", ".join(f":{name}" for name in named)
            statement = f"SELECT {columns} FROM {table} WHERE scope = :scope{more} AND {key} IN ({among})"
            with self._metadata.transaction() as run:
                rows += run(statement, {"scope": self._scope, **also, **named})
        return rows


class DocumentLookup(_TableCopy):
    """The documents table, by document: its newest row, the version that answers, and the rows needed to tell these."""

    columns = (
        *("document_id", "version", "tenant", "uri", "status", "reason", "media", "title", "bytes", "at", "put_at"),
        *("readers", "attributes", "source", "text_at", "ocr_confidence", *ORIGIN),
    )
    tables = ("document_rows", "document_states")

    def newest(self, documents: Iterable[str]) -> dict[str, dict[str, Any]]:
        """document id → its newest row, without its text."""
        rows = self._select("document_id, fields", "document_states", "document_id", documents)
        return {name: _read(fields) for name, fields in rows}

    def of_uris(self, tenant: str, uris: Iterable[str]) -> dict[str, dict[str, Any]]:
        """uri → the newest row of each of these documents of a tenant."""
        return {row["uri"]: row for row in self.newest(document_id(tenant, uri) for uri in uris).values()}

    def follow(self) -> str | None:
        revision = super().follow()
        self._fill()
        return revision

    def after(self, tenant: str, uri: str, most: int, *, status: str | None = None) -> list[tuple[dict[str, Any], Description]]:
        """The newest rows, with descriptions, of a tenant's documents whose names come after `uri`: the first `most` by name.

        Deleted documents are left out; `status` is that of the rows.
        """
        which = "status <> 'deleted'" if status is None else "status = :status"
        with self._metadata.transaction() as run:
            rows = run(
                "SELECT fields, description FROM document_states WHERE scope = :scope AND tenant = :tenant"
                f" AND uri COLLATE BINARY > :uri AND {which} ORDER BY uri COLLATE BINARY LIMIT :most",
                {"scope": self._scope, "tenant": tenant, "uri": _plain(uri), "most": most}
                | ({} if status is None else {"status": status}),
            )
        return [(_read(fields), _description(described)) for fields, described in rows]

    def of_sources(self, tenant: str, sources: Iterable[str]) -> dict[str, dict[str, Any]]:
        """uri → the newest row of each of a tenant's documents that were found in these folders."""
        rows = self._select("fields", "document_states", "source", sources, " AND tenant = :tenant", tenant=tenant)
        return {row["uri"]: row for row in (_read(fields) for (fields,) in rows)}

    def current(self, documents: Iterable[str] | None = None) -> tuple[dict[str, str], dict[str, Description]]:
        """document id → the version that answers, and document id → how the index describes it; of all documents by default."""
        columns = "document_id, live, description"
        if documents is None:
            with self._metadata.transaction() as run:
                rows = run(f"SELECT {columns} FROM document_states WHERE scope = :scope", {"scope": self._scope})
        else:
            rows = self._select(columns, "document_states", "document_id", documents)
        live = {name: version for name, version, _ in rows if version is not None}
        return live, {name: _description(described) for name, _, described in rows}

    def live(self, documents: Iterable[str] | None = None) -> dict[str, str]:
        """document id → the version that answers, of those that have one."""
        return self.current(documents)[0]

    def tenants(self) -> list[str]:
        """The tenants that have documents, or had some."""
        found: list[str] = []
        with self._metadata.transaction() as run:
            # From each to the next by the index: DISTINCT would go through all documents.
            rows = run(f"{_TENANT} ORDER BY tenant LIMIT 1", {"scope": self._scope})
            while rows:
                found.append(rows[0][0])
                values = {"scope": self._scope, "last": found[-1]}
                rows = run(f"{_TENANT} AND tenant > :last ORDER BY tenant LIMIT 1", values)
        return sorted(found)

    def older_than(self, tenant: str, before_s: float, most: int) -> tuple[dict[str, str], float]:
        """uri → the newest version of a tenant's documents whose version is from before a time, the oldest first, at most `most`.

        The second is the time of the oldest of the others, infinite if there are none. Times are in seconds since 1970.
        """
        with self._metadata.transaction() as run:
            rows = run(
                "SELECT fields, description FROM document_states WHERE scope = :scope AND tenant = :tenant"
                " AND status <> 'deleted' ORDER BY changed_s LIMIT :most",
                {"scope": self._scope, "tenant": tenant, "most": most + 1},
            )
        found = []
        for fields, described in rows:
            row = _read(fields)
            found.append((_description(described).changed_s, row["uri"], row["version"]))
        found.sort()
        old = {uri: version for changed_s, uri, version in found[:most] if changed_s < before_s}
        return old, found[len(old)][0] if len(old) < len(found) else float("inf")

    def newest_elsewhere(self, tenant: str, document: str, versions: Iterable[str]) -> set[str]:
        """Those of some versions that are the newest of another document of the tenant, which is not deleted."""

        def is_newest(run: Statements, names: Sequence[str], version: str) -> bool:
            return any(row["version"] == version and row["status"] != "deleted" for row in _newest(run, self._scope, names))

        return self._elsewhere(tenant, document, versions, is_newest)

    def stored_elsewhere(self, tenant: str, document: str, versions: Iterable[str]) -> set[str]:
        """Those of a document's versions whose source another document of the tenant has."""

        def is_stored(run: Statements, names: Sequence[str], version: str) -> bool:
            return any(version in stored_versions(every) for every in _by_document(run, self._scope, names))

        return self._elsewhere(tenant, document, versions, is_stored)

    def _elsewhere(
        self, tenant: str, document: str, versions: Iterable[str], has: Callable[[Statements, Sequence[str], str], bool]
    ) -> set[str]:
        """Those versions that another document `has`, all where that cannot be told; it asks those with the same bytes."""
        wanted = set(versions)
        for _ in range(_TRIES if self._scope else 0):
            # `alone`: nobody makes the copy anew meanwhile, and it is whole.
            with self._metadata.transaction(alone=True) as run:
                if run(_WHOLE, {"scope": self._scope}):
                    found = set()
                    for version in wanted:
                        last: str | None = ""
                        while last is not None:
                            names = _with_version(run, self._scope, tenant, version, beside=document, after=last)
                            last = names[-1] if len(names) == _AT_ONCE else None
                            if names and has(run, names, version):
                                found.add(version)
                                break
                    return found
            # The copy of an empty table is whole, too: the last document was forgotten.
            if self.follow() and not any(rows.num_rows for rows in self.state.scan(("document_id",))):
                return set()
        return wanted if self._scope else set()

    def with_bytes(self, pairs: Iterable[tuple[str, str]]) -> set[str]:
        """Documents of which some version has the same bytes, given tenant and version: a few of each, however many there are."""
        versions: dict[str, list[str]] = {}
        for tenant, version in pairs:
            versions.setdefault(tenant, []).append(version)
        named: dict[tuple[str, str], set[str]] = {}
        for tenant, wanted in versions.items():
            more = " AND tenant = :tenant"
            for name, version in self._select("document_id, version", "document_rows", "version", wanted, more, tenant=tenant):
                some = named.setdefault((tenant, version), set())
                if len(some) < _SAME_BYTES:
                    some.add(name)
        return set().union(*named.values())

    def histories(self, documents: Iterable[str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows of each of some documents, or of all, as `needed`, in their order and without their texts."""
        if documents is None:
            with self._metadata.transaction() as run:
                documents = [name for (name,) in run(_ALL, {"scope": self._scope})]
        wanted = iter(documents)
        while some := list(islice(wanted, _AT_ONCE)):
            with self._metadata.transaction() as run:
                found = _by_document(run, self._scope, some)
            yield from found

    def changed_since(self, revision: str | None) -> set[str]:
        """The documents with rows committed since a revision, up to the table's `state`."""
        batches = self.state.scan(("document_id",), since=revision)
        return {name for rows in batches for name in rows.column("document_id").to_pylist()}

    def _take_in(self, run: Statements, scope: int, some: Sequence[dict[str, Any]]) -> None:
        if not some:
            return
        run.many(
            "INSERT INTO document_rows (scope, document_id, topic, part, position, status, tenant, version, fields)"
            " VALUES (:scope, :document_id, :topic, :part, :position, :status, :tenant, :version, :fields)"
            " ON CONFLICT (scope, document_id, topic, part, position, status)"
            " DO UPDATE SET version = excluded.version, fields = excluded.fields",
            [
                {
                    **{name: row[name] for name in ("document_id", "topic", "status", "version")},
                    **{"scope": scope, "part": row["partition"], "position": row["offset"]},
                    **{"tenant": _plain(row["tenant"]), "fields": json.dumps(row, default=datetime.isoformat)},
                }
                for row in some
            ],
        )
        states, dropped = [], []
        names = sorted({row["document_id"] for row in some})
        for start in range(0, len(names), _AT_ONCE):
            for every in _by_document(run, scope, names[start : start + _AT_ONCE]):
                rows = needed(every)
                states.append(_state(scope, rows))
                kept = set(map(id, rows))
                dropped += [row for row in every if id(row) not in kept]
        run.many(
            "DELETE FROM document_rows WHERE scope = :scope AND document_id = :document_id AND topic = :topic AND part = :part"
            " AND position = :position AND status = :status",
            [
                {
                    **{name: row[name] for name in ("document_id", "topic", "status")},
                    **{"scope": scope, "part": row["partition"], "position": row["offset"]},
                }
                for row in dropped
            ],
        )
        run.many(
            "INSERT INTO document_states"
            " (scope, document_id, tenant, uri, source, fields, live, description, status, changed_s)"
            " VALUES (:scope, :document_id, :tenant, :uri, :source, :fields, :live, :description, :status, :changed_s)"
            " ON CONFLICT (scope, document_id) DO UPDATE SET uri = excluded.uri, source = excluded.source,"
            " fields = excluded.fields, live = excluded.live, description = excluded.description,"
            " status = excluded.status, changed_s = excluded.changed_s",
            states,
        )

    def _fill(self) -> None:
        """Note status and age in rows that an older version wrote."""
        while True:
            with self._metadata.transaction() as run:
                if not run(_UNFILLED, {"scope": self._scope, "most": 1}):
                    return
            with self._metadata.transaction(alone=True) as run:
                rows = run(_UNFILLED, {"scope": self._scope, "most": _SLICE})
                run.many(
                    "UPDATE document_states SET status = :status, changed_s = :changed_s"
                    " WHERE scope = :scope AND document_id = :document_id",
                    [
                        {"scope": self._scope, "document_id": name, **_listed(_read(fields), _description(described))}
                        for name, fields, described in rows
                    ],
                )


def _with_version(run: Statements, scope: int, tenant: str, version: str, *, beside: str, after: str) -> list[str]:
    """The next documents of a tenant, by id, with a row of this version."""
    rows = run(
        "SELECT DISTINCT document_id FROM document_rows WHERE scope = :scope AND tenant = :tenant AND version = :version"
        " AND document_id > :after AND document_id <> :beside ORDER BY document_id LIMIT :most",
        {"scope": scope, "tenant": tenant, "version": version, "beside": beside, "after": after, "most": _AT_ONCE},
    )
    return [name for (name,) in rows]


def _newest(run: Statements, scope: int, names: Sequence[str]) -> list[dict[str, Any]]:
    named = {f"v{index}": name for index, name in enumerate(names)}
    among = ", ".join(f":{name}" for name in named)
    statement = f"SELECT fields FROM document_states WHERE scope = :scope AND document_id IN ({among})"
    return [_read(fields) for (fields,) in run(statement, {"scope": scope, **named})]


def _by_document(run: Statements, scope: int, names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows of some documents that are here, those of each in their order."""
    named = {f"v{index}": name for index, name in enumerate(names)}
    among = ", ".join(f":{name}" for name in named)
    statement = f"SELECT fields FROM document_rows WHERE scope = :scope AND document_id IN ({among})"
    rows: dict[str, list[dict[str, Any]]] = {}
    for (fields,) in run(statement, {"scope": scope, **named}):
        row = _read(fields)
        rows.setdefault(row["document_id"], []).append(row)
    return [in_order(own) for own in rows.values()]


def _state(scope: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    newest = rows[-1]
    name = newest["document_id"]
    live, described = answering(rows).get(name), describe(rows)[name]
    return {
        "scope": scope,
        "document_id": name,
        **{column: None if newest[column] is None else _plain(newest[column]) for column in ("tenant", "uri", "source")},
        "fields": json.dumps(newest, default=datetime.isoformat),
        "live": live["version"] if live else None,
        "description": json.dumps([described.readers, described.labels, described.changed_s]),
        **_listed(newest, described),
    }


def _listed(newest: Mapping[str, Any], described: Description) -> dict[str, Any]:
    """The columns by which a document is listed and expires."""
    return {"status": newest["status"], "changed_s": described.changed_s}


def _read(fields: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(fields)
    return row | {name: datetime.fromisoformat(row[name]) for name in _TIMES if row[name] is not None}


def _description(text: str) -> Description:
    readers, labels, changed_s = json.loads(text)
    return Description(tuple(readers), tuple(labels), changed_s)


def _plain(text: str) -> str:
    """Text for a column: PostgreSQL takes no NUL, which producers may send."""
    return text.replace("\0", "\ufffd")


@dataclass(frozen=True)
class VersionChunks:
    """How many chunks a version of a document was split into, and the offset of the event that it came from."""

    chunks: int
    offset: int


class ChunkLookup(_TableCopy):
    """The chunks table, by generation, document and version."""

    columns = ("document_id", "version", "generation", "offset")
    tables = ("document_chunks",)

    def split(self, generation: int, documents: Iterable[str]) -> dict[tuple[str, str], VersionChunks]:
        """(document id, version) → its chunks, of those of some documents that have any."""
        if not self._scope:
            return {}
        columns = "document_id, version, chunks, position"
        more = " AND generation = :generation"
        rows = self._select(columns, "document_chunks", "document_id", documents, more, generation=generation)
        return {(name, version): VersionChunks(chunks, offset) for name, version, chunks, offset in rows}

    def _slices(self, known: str | None) -> Iterator[Sequence[Any]]:
        # All chunks of a version are committed at once and stay in one file, so a scan that finds one finds all.
        counts: Counter[tuple[int, str, str, int]] = Counter()
        for rows in self.state.scan(self.columns, since=known):
            columns = (rows.column(name).to_pylist() for name in ("generation", "document_id", "version", "offset"))
            counts.update((generation or 1, *others) for generation, *others in zip(*columns, strict=True))
        some = iter(counts.items())
        while slice_ := list(islice(some, _SLICE)):
            yield slice_

    def _take_in(self, run: Statements, scope: int, some: Sequence[tuple[tuple[int, str, str, int], int]]) -> None:
        run.many(
            "INSERT INTO document_chunks (scope, generation, document_id, version, chunks, position)"
            " VALUES (:scope, :generation, :document_id, :version, :chunks, :position)"
            " ON CONFLICT (scope, generation, document_id, version) DO UPDATE SET chunks = excluded.chunks,"
            " position = excluded.position",
            [
                {
                    "scope": scope,
                    "generation": generation,
                    "document_id": name,
                    "version": version,
                    "chunks": n,
                    "position": offset,
                }
                for (generation, name, version, offset), n in some
            ],
        )


class SeenEvents(_TableCopy):
    """The events of documents, by what makes two of them the same."""

    columns = ("event_id", "kind", "tenant", "uri", "sha256", "at", *ORIGIN)
    tables = ("seen_events",)

    def once(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events without exact repetitions: a signed event that is sent again must not undo what came after it."""
        names = [_event_key(event) for event in events]
        first = dict(self._select("event, origin", "seen_events", "event", names)) if events else {}
        return [event for event, name in zip(events, names, strict=True) if first.get(name) == _event_origin(event)]

    def origins(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Those of the events that have landed, with topic, partition and offset."""
        first = dict(self._select("event, origin", "seen_events", "event", map(_event_key, events))) if events else {}
        landed = []
        for event in events:
            if (origin := first.get(_event_key(event))) is not None:
                topic, partition, offset = origin.rsplit("/", 2)
                landed.append({**event, "topic": topic, "partition": int(partition), "offset": int(offset)})
        return landed

    def _take_in(self, run: Statements, scope: int, some: Sequence[dict[str, Any]]) -> None:
        run.many(
            "INSERT INTO seen_events (scope, event, origin) VALUES (:scope, :event, :origin) ON CONFLICT (scope, event)"
            " DO UPDATE SET origin = excluded.origin WHERE seen_events.origin > excluded.origin",
            [{"scope": scope, "event": _event_key(event), "origin": _event_origin(event)} for event in some],
        )


def _event_key(event: Mapping[str, Any]) -> str:
    fields = [event[name] for name in ("event_id", "kind", "tenant", "uri", "sha256")] + [event["at"].isoformat()]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


def _event_origin(event: Mapping[str, Any]) -> str:
    """Sorts as `ORIGIN` does."""
    return f"{event['topic']}/{event['partition']:010}/{event['offset']:020}"


def follows(earlier: str | None, now: str | None) -> bool:
    """Whether a revision of a table is a past one of the same rows: none of them were removed since."""
    if earlier is None or now is None:
        return earlier is None
    (was, _, older), (identity, _, newer) = earlier.rpartition("/"), now.rpartition("/")
    return was == identity and int(older) <= int(newer)


@dataclass(frozen=True)
class Progress:
    """The revisions of the tables that a generation of the index follows, and when it was last compared with them as a whole."""

    documents: str | None
    chunks: str | None
    compared_at: datetime


class IndexProgress:
    """How far one generation of the index follows the tables; `name` and `version` are those of its vector table.

    It is noted after the index has what the tables had, so a pass that dies is repeated from where the one before it began.
    """

    def __init__(self, metadata: Metadata, name: str) -> None:
        self._metadata, self._name = metadata, name

    def read(self, version: int) -> Progress | None:
        """The progress, or `None`: also if the index is older than it, because an old copy was restored."""
        with self._metadata.transaction() as run:
            rows = run(
                "SELECT documents, chunks, compared_at FROM index_progress WHERE name = :name AND version <= :version",
                {"name": self._name, "version": version},
            )
        return next((Progress(d or None, c or None, datetime.fromisoformat(at)) for d, c, at in rows), None)

    def note(self, documents: str | None, chunks: str | None, version: int, *, compared: bool) -> None:
        """Note that the index has what the tables had at these revisions; `compared`: found by comparing all of it."""
        at = "excluded.compared_at" if compared else "index_progress.compared_at"
        with self._metadata.transaction(writing=True) as run:
            run(
                "INSERT INTO index_progress (name, documents, chunks, version, compared_at)"
                " VALUES (:name, :documents, :chunks, :version, :now) ON CONFLICT (name) DO UPDATE SET"
                f" documents = excluded.documents, chunks = excluded.chunks, version = excluded.version, compared_at = {at}",
                {
                    **{"name": self._name, "documents": documents or "", "chunks": chunks or "", "version": version},
                    "now": datetime.now(UTC).isoformat(),
                },
            )
