"""The documents of every tenant as the tables show them, and on top what was put or deleted here since.

None of it has to survive the process. Whenever the documents table has a new snapshot, the documents that it changed are read
again from the metadata store's copy of the table (`documents/lookup.py`).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from heapq import merge
from itertools import islice
from typing import Any

from headrace.catalog import CHUNK_ROWS, CHUNKS, DOCUMENT_EVENTS, DOCUMENT_ROWS, INDEXES
from headrace.core.runner import Runner
from headrace.documents.claims import CLAIMED, SourceClaims
from headrace.documents.generations import active_reader
from headrace.documents.lookup import ChunkLookup, DocumentLookup, IndexProgress, follows
from headrace.documents.names import document_id
from headrace.documents.queue import PROCESSED_OFFSETS, ProcessedOffsets
from headrace.documents.versions import describe, stored_versions
from headrace.errors import Transient
from headrace.storage.filters import NOBODY
from headrace.storage.tables.handles import TableReader, quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader

PUT, PARSED, INDEXED, DELETING = "put", "parsed", "indexed", "deleting"
STATUSES = (PUT, PARSED, INDEXED, "failed", DELETING)
_FIELDS = ("tenant", "uri", "version", "status", "reason", "media", "title", "bytes", "at", "partition", "offset")
_LOOK_S = 1.0  # between looks at the table's snapshot
_ASK_S = 2.0  # between looks at the index, for documents that another process indexes
_PAGE = 500  # documents read at once where one page is listed
_NOTHING: Mapping[str, int] = {}

Expected = tuple[str, str, str]
"""What a document needs in the index: its id, its version, and the id of its description."""
_Versions = dict[str, int]  # version → its bytes


@dataclass(frozen=True)
class Document:
    """A document's newest version; `status` is put, parsed, indexed, failed or deleting.

    `reason` says why it failed, or what its text lacks.
    """

    tenant: str
    uri: str
    version: str
    status: str
    bytes: int
    at: datetime
    reason: str = ""
    media: str = ""
    title: str = ""
    readers: tuple[str, ...] = ()
    """Who of the tenant may read it; empty means everybody."""
    attributes: tuple[str, ...] = ()
    """`key=value` each, for filters."""
    description_id: str = ""
    """Of how the index describes it; empty where the tables do not have it yet."""
    ocr_confidence: float | None = None
    """Of the letters that were read from scanned pages, from 0 to 1; `None` where none were."""
    partition: int = -1
    offset: int = -1
    put_at: datetime | None = None
    """When this was put; `None` where `at` says so."""
    event_id: str = ""
    """Of the event by which it was put or deleted here; empty where the tables have it."""

    @property
    def id(self) -> str:
        """The id of the document, the same for all its versions."""
        return document_id(self.tenant, self.uri)

    @cached_property
    def expected_in_index(self) -> Expected:
        """The part of it that must be in the index."""
        return self.id, self.version, self.description_id

    def is_processed(self, offsets: ProcessedOffsets) -> bool:
        """Whether the event of a document that was put or deleted here is among the processed ones."""
        return self.offset < offsets.reached(DOCUMENT_EVENTS.name, self.partition, self.tenant)

    def as_dict(self) -> dict[str, Any]:
        """The document as JSON-ready keys."""
        return {
            "object": "document",
            "uri": self.uri,
            "document_id": self.id,
            "version": self.version,
            "status": self.status,
            "reason": self.reason,
            "media": self.media,
            "title": self.title,
            "bytes": self.bytes,
            "ocr_confidence": self.ocr_confidence,
            "readers": list(self.readers),
            "attributes": list(self.attributes),
            "at": self.at.isoformat(),
        }


@dataclass(frozen=True)
class Pending:
    """What a pass is about to bring into the index: documents, and the events that this follows."""

    documents: frozenset[Expected]
    processed: ProcessedOffsets


@dataclass
class _TenantDocuments:
    """A tenant's documents as the tables have them, and the versions whose sources are stored."""

    documents: dict[str, Document] = field(default_factory=dict)  # by uri
    uris: list[str] = field(default_factory=list)  # the same, sorted
    versions: dict[str, _Versions] = field(default_factory=dict)  # by uri
    holders: Counter[str] = field(default_factory=Counter)  # how many documents have each version
    bytes: int = 0  # of all versions, each once

    def put(self, uri: str, document: Document | None, versions: _Versions) -> None:
        """Replace what is known of a document, `None` if it is deleted."""
        for version, size in self.versions.pop(uri, {}).items():
            self.holders[version] -= 1
            if not self.holders[version]:
                del self.holders[version]
                self.bytes -= size
        for version, size in versions.items():
            self.bytes += 0 if self.holders[version] else size
            self.holders[version] += 1
        if versions:
            self.versions[uri] = versions
        if document is None:
            if self.documents.pop(uri, None) is not None:
                del self.uris[bisect_left(self.uris, uri)]
            return
        if uri not in self.documents:
            insort(self.uris, uri)
        self.documents[uri] = document


_NO_DOCUMENTS = _TenantDocuments()


class DocumentView:
    """Finds, lists and counts documents; safe to share between threads."""

    def __init__(self, runner: Runner) -> None:
        self._table = runner.open(TableReader, DOCUMENT_ROWS, stage="documents")
        self._vectors = runner.open(VectorReader, CHUNKS, stage="documents")
        self._indexes = runner.open(IndexReader, INDEXES, stage="documents")
        self._metadata = runner.metadata
        self._lookup = DocumentLookup(runner.metadata, self._table)
        self._splits = ChunkLookup(runner.metadata, runner.open(TableReader, CHUNK_ROWS, stage="documents"))
        self._tenants: dict[str, _TenantDocuments] = {}
        self._parsed: dict[str, tuple[str, str]] = {}  # id → tenant and uri, of those not known to be in the index
        self._since: dict[str, dict[str, Sequence[Document]]] = {}  # what was put or deleted here since, in its order
        self._changing: dict[tuple[str, str], set[str]] = {}  # tenant and version → documents of `_since` that it may be of
        self._usage: dict[str, tuple[int, int]] = {}  # forgotten with each look at a changed table
        self._processed = ProcessedOffsets()  # events that the tables show
        self._followed = ProcessedOffsets()  # events that the index follows: what was deleted answers until then
        self._asked = (-_ASK_S, "")  # when the index was looked at last, and its version then
        self._revision: str | None = None
        self._looked = -_LOOK_S
        self._passing = False
        self._looking = threading.Lock()
        self.lock = threading.RLock()
        """For callers that need several answers to agree; while they hold it, they must not have the table looked at."""

    def add(self, document: Document) -> None:
        """Show a document that was put or deleted here, until the tables do."""
        with self.lock:
            tenant, uri = document.tenant, document.uri
            counted = self._usage.pop(tenant, None)
            before = self._counted(tenant, uri) if counted else (0, {})
            own = self._since.setdefault(tenant, {})
            # Of two at once, the head says which came first.
            own[uri] = sorted([*own.get(uri, ()), document], key=lambda one: one.offset)
            self._note_versions(tenant, uri)
            if counted:
                count, stored = self._counted(tenant, uri)
                # What other documents store, too, was counted before and still is.
                added = sum(stored[v] for v in stored.keys() - before[1].keys() if not self.stores(tenant, v, beside=uri))
                freed = sum(before[1][v] for v in before[1].keys() - stored.keys() if not self.stores(tenant, v, beside=uri))
                self._usage[tenant] = counted[0] + count - before[0], counted[1] + added - freed

    def _counted(self, tenant: str, uri: str) -> tuple[int, _Versions]:
        """What a document counts in `usage`: 1 or 0, and the versions that are stored for it."""
        document = self.find(tenant, uri, look=False)
        return int(document is not None and document.status != DELETING), self.stored_of(tenant, uri)

    def _note_versions(self, tenant: str, uri: str) -> None:
        """Note which versions a document that was put or deleted here may store, or may have stored."""
        changes = self._since[tenant][uri]
        for version in {*self._of(tenant).versions.get(uri, _NOTHING), *(change.version for change in changes)}:
            self._changing.setdefault((tenant, version), set()).add(uri)

    def find(self, tenant: str, uri: str, *, look: bool = True) -> Document | None:
        """A tenant's document of exactly this name; without `look`, as of the last look at the table."""
        if look:
            self.refresh()
        with self.lock:
            since = self._since.get(tenant, {}).get(uri)
            return since[-1] if since else self._of(tenant).documents.get(uri)

    def announced_elsewhere(self, tenant: str, uri: str, *, lately: timedelta = CLAIMED, own: str = "") -> bool:
        """Whether another process has put or deleted a document since: which, the documents table says once that is parsed.

        What was to be announced by a process that died then counts for weeks, unless only what was announced `lately` is asked.
        `own` is an event that this process is about to add.
        """
        events = SourceClaims(self._metadata).events_of(tenant, uri, lately=lately) - {own}
        with self.lock:
            return bool(events.difference(change.event_id for change in self._since.get(tenant, {}).get(uri, ())))

    def withheld(self, tenant: str, uris: Iterable[str], readers: Collection[str]) -> set[str]:
        """Those of the documents that were deleted, or closed to these readers, and which the index may still show them.

        That is of what was put or deleted here, and of what the tables had when they were last looked at: a pass over much
        takes long, and events are taken in one after another.
        """
        found = set[str]()
        with self.lock:
            documents, over = self._of(tenant).documents, self._since.get(tenant, {})
            asking = set(readers) - {NOBODY}
            for uri in uris:
                changes, known = over.get(uri, ()), documents.get(uri)
                if known is not None and known.id in self._parsed:
                    changes = [known, *changes]
                # Of a document that was deleted and put again, the index has what was deleted.
                if any(change.status == DELETING for change in changes) or (
                    changes and changes[-1].readers and asking.isdisjoint(changes[-1].readers)
                ):
                    found.add(uri)
        return found

    def list(self, tenant: str, wanted: Callable[[Document], bool], *, after: str, most: int) -> tuple[list[Document], bool]:
        """The `wanted` documents of a tenant whose uri comes after `after`, at most `most` by uri, and whether there are more."""
        self.refresh()
        with self.lock:
            documents, uris = self._of(tenant).documents, self._of(tenant).uris
            over = self._newest_since(tenant)
            known = (uri for uri in islice(uris, bisect_right(uris, after), None) if uri not in over)
            every = (over.get(uri) or documents[uri] for uri in merge(known, sorted(uri for uri in over if uri > after)))
            found = list(islice(filter(wanted, every), most + 1))
        return found[:most], len(found) > most

    def page(
        self,
        tenant: str,
        wanted: Callable[[Document], bool] = lambda document: True,
        *,
        after: str,
        most: int,
        status: str | None = None,
    ) -> tuple[Sequence[Document], bool]:
        """As `list`, without reading any other document, and without what was put or deleted here since.

        It is for a command, which asks once: what it reads follows the page, and those before the page's end that are not wanted.
        """
        self._lookup.follow()
        found: list[Document] = []
        # What is in the index has been parsed; whether it is, only the index knows.
        rows_status = PARSED if status == INDEXED else status
        while len(found) <= most:
            rows = self._lookup.after(tenant, after, max(_PAGE, most + 1 - len(found)), status=rows_status)
            if not rows:
                break
            after = rows[-1][0]["uri"]
            documents = self._with_status([_document(row, described.id) for row, described in rows])
            found += (one for one in documents if status in (None, one.status) and wanted(one))
        return found[:most], len(found) > most

    def stored(self, tenant: str, uri: str) -> Document | None:
        """As `find`, without reading any other document, and without what was put or deleted here since."""
        self._lookup.follow()
        (name,) = names = [document_id(tenant, uri)]
        rows = self._lookup.newest(names)
        if name not in rows:
            return None
        described = self._lookup.current(names)[1][name]
        return next(iter(self._with_status([_document(rows[name], described.id)])), None)

    def _with_status(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Those of some documents that are not deleted, with what the index has of them."""
        parsed = {document.id: document for document in documents if document.status == PARSED}
        indexed = set[Expected]()
        if parsed:
            with suppress(Transient):  # they are shown as parsed
                generations = self._indexes.recent()
                served = active_reader(generations, self._vectors)
                number = generations.serving.number if generations.serving else 1
                indexed = self._in_index(parsed, served, number, self._lookup.state.revision)
        return [
            replace(document, status=INDEXED) if document.status == PARSED and document.expected_in_index in indexed else document
            for document in documents
            if document.status != "deleted"
        ]

    def of_tenant(self, tenant: str) -> dict[str, Document]:
        """uri → each document of a tenant."""
        self.refresh()
        with self.lock:
            return {**self._of(tenant).documents, **self._newest_since(tenant)}

    def usage(self, tenant: str, *, look: bool = True) -> tuple[int, int]:
        """How many documents a tenant has, and the bytes of the sources stored for it: of all versions, the same bytes once.

        Without `look`, as of the last look at the table.
        """
        if look:
            self.refresh()
        with self.lock:
            if tenant not in self._usage:
                own, over = self._of(tenant), self._newest_since(tenant)
                count = len(own.documents) + sum(
                    (document.status != DELETING) - (uri in own.documents) for uri, document in over.items()
                )
                change, sizes = self._stored_since(tenant)
                there = {version: own.holders[version] > 0 for version in change}
                size = sum(sizes[v] * ((own.holders[v] + change[v] > 0) - there[v]) for v in change)
                self._usage[tenant] = count, own.bytes + size
            return self._usage[tenant]

    def waiting(self, tenant: str | None = None) -> tuple[int, float]:
        """How many documents (of a tenant) were put or deleted and are not in the index so yet, and the age of the oldest in s.

        As of the last look at the table, and of what was put or deleted here since.
        """
        with self.lock:
            waiting = {(whose, uri): self._tenants[whose].documents[uri] for whose, uri in self._parsed.values()}
            for whose, own in self._since.items():
                waiting.update({(whose, uri): waiting.get((whose, uri), changes[0]) for uri, changes in own.items()})
            put = [document.put_at or document.at for (whose, _), document in waiting.items() if tenant in (None, whose)]
        return len(put), (datetime.now(UTC) - min(put)).total_seconds() if put else 0.0

    def stores(self, tenant: str, version: str, *, beside: str | None = None) -> bool:
        """Whether a version's source is stored for a document of the tenant (another one than `beside`)."""
        with self.lock:
            own = self._of(tenant)
            count = own.holders[version]
            for uri in self._changing.get((tenant, version), ()):
                count += (version in self.stored_of(tenant, uri)) - (version in own.versions.get(uri, _NOTHING))
            return count > (beside is not None and version in self.stored_of(tenant, beside))

    def stored_of(self, tenant: str, uri: str) -> _Versions:
        """The versions of a document whose sources are stored, with their bytes."""
        with self.lock:
            versions = dict(self._of(tenant).versions.get(uri, _NOTHING))
            for document in self._since.get(tenant, {}).get(uri, ()):
                if document.is_processed(self._processed):
                    continue  # the tables have it
                if document.status == DELETING:
                    versions.clear()
                else:
                    versions[document.version] = document.bytes
            return versions

    def only_of(self, tenant: str, uri: str, versions: Collection[str]) -> set[str]:
        """Those of a document's `versions` whose source no other document has."""
        with self.lock:
            return {version for version in versions if not self.stores(tenant, version, beside=uri)}

    def _stored_since(self, tenant: str) -> tuple[Counter[str], _Versions]:
        """By how many documents more or fewer each version is stored than the tables have it, and the bytes of these versions."""
        change, sizes = Counter[str](), _Versions()
        for uri in self._since.get(tenant, {}):
            before, after = self._of(tenant).versions.get(uri, _NOTHING), self.stored_of(tenant, uri)
            sizes |= {**before, **after}
            change.update(after.keys() - before.keys())
            change.subtract(before.keys() - after.keys())
        return change, sizes

    def deletable(self, tenant: str, uri: str) -> set[str]:
        """Every version of a document, also from before a deletion, whose source no other put has claimed.

        Then looks at the table: what is no longer claimed is there.
        """
        versions = {*self.versions_of(tenant, uri), *self.stored_of(tenant, uri)} - {""}
        free = versions - SourceClaims(self._metadata).claimed(tenant, versions, beside=(uri,))
        self.refresh(now=True)
        return free

    def freed_by_deletion(self, tenant: str, uri: str) -> set[str]:
        """As `only_of` of all that is `deletable`, without reading any other document than those with the same bytes."""
        versions = self.versions_of(tenant, uri) - {""}
        free = versions - SourceClaims(self._metadata).claimed(tenant, versions, beside=(uri,))
        self._lookup.follow()  # after it: what is no longer claimed is there
        return free - self._lookup.stored_elsewhere(tenant, document_id(tenant, uri), free)

    def versions_of(self, tenant: str, uri: str) -> set[str]:
        """Every version of a document in the documents table, also from before a deletion."""
        where = f"tenant = {quoted(tenant)} AND uri = {quoted(uri)}"
        return set(self._table.read(("version",), where)["version"].to_pylist())

    def passages_of(self, document: Document) -> int:
        """How many passages of a document the served index has."""
        return active_reader(self._indexes.recent(), self._vectors).count(f"document_id = {quoted(document.id)}")

    @contextmanager
    def during_pass(self) -> Iterator[None]:
        """Do not look at the index during the block: the pass reports what it holds."""
        self._passing = True
        try:
            yield
        finally:
            self._passing = False

    def pending(self) -> Pending | None:
        """What is parsed and belongs into the index; `None` where nothing was ever put in this home."""
        self.refresh(now=True)
        with self.lock:
            if self._revision is None:
                return None
            parsed = (self._tenants[tenant].documents[uri] for tenant, uri in self._parsed.values())
            return Pending(frozenset(document.expected_in_index for document in parsed), self._processed)

    def note_indexed(self, pending: Pending, unfinished: Collection[str]) -> None:
        """Note that the index now has what was pending, except documents with these ids."""
        self.refresh(now=True)
        with self.lock:
            self._followed = pending.processed
            self._mark_indexed({entry for entry in pending.documents if entry[0] not in unfinished})
            self._forget_shown()

    def refresh(self, *, now: bool = False) -> None:
        """Read what has changed in the table; looks once a second at most, unless `now`."""
        with self._looking:
            if not now and time.monotonic() - self._looked < _LOOK_S:
                return
            if self._table.revision() != self._revision:
                self._read()
            if not self._passing:
                self._check_index()
            self._looked = time.monotonic()

    def _read(self) -> None:
        properties = self._table.snapshot_property(PROCESSED_OFFSETS)  # first: what it says is processed is among the rows then
        processed = ProcessedOffsets(properties).newest_epoch(DOCUMENT_EVENTS.name)
        revision = self._lookup.follow()
        known = self._revision is not None and follows(self._revision, revision)
        changed = self._lookup.changed_since(self._revision) if known else None
        found = [_shown(rows) for rows in self._lookup.histories(changed)]
        with self.lock:
            self._processed, self._revision = processed, revision
            if changed is None:
                self._tenants, self._parsed = {}, {}
            for tenant, uri, name, document, versions in found:
                own = self._tenants.setdefault(tenant, _TenantDocuments())
                before = own.documents.get(uri)
                self._parsed.pop(name, None)
                if document is not None and document.status == PARSED:
                    if before is not None and (before.status, before.expected_in_index) == (INDEXED, document.expected_in_index):
                        document = replace(document, status=INDEXED)
                    else:
                        self._parsed[name] = tenant, uri
                own.put(uri, document, versions)
            self._forget_shown()

    def _of(self, tenant: str) -> _TenantDocuments:
        return self._tenants.get(tenant, _NO_DOCUMENTS)

    def _mark_indexed(self, indexed: Collection[Expected]) -> None:
        """Show those parsed documents as indexed that are in the index."""
        for name, version, description in indexed:
            tenant, uri = self._parsed.get(name, ("", ""))
            document = self._of(tenant).documents.get(uri)
            if document is not None and document.expected_in_index == (name, version, description):
                del self._parsed[name]
                self._tenants[tenant].documents[uri] = replace(document, status=INDEXED)

    def _forget_shown(self) -> None:
        """Forget those changes made here that the tables show."""
        self._usage.clear()
        left = {
            tenant: {uri: hidden for uri, changes in own.items() if (hidden := self._not_shown(changes))}
            for tenant, own in self._since.items()
        }
        self._since = {tenant: own for tenant, own in left.items() if own}
        self._changing = {}
        for tenant, own in self._since.items():
            for uri in own:
                self._note_versions(tenant, uri)

    def _newest_since(self, tenant: str) -> dict[str, Document]:
        return {uri: since[-1] for uri, since in self._since.get(tenant, {}).items()}

    def _not_shown(self, changes: Sequence[Document]) -> Sequence[Document]:
        """Those changes of a document that the tables do not show yet; a deletion counts until the index follows."""
        left = [change for change in changes if not change.is_processed(self._processed)]
        last = changes[-1]
        return left or ([last] if last.status == DELETING and not last.is_processed(self._followed) else [])

    def _check_index(self) -> None:
        """Find out which parsed documents another process has indexed: by its notes, else by looking for them in the index."""
        if not self._parsed or time.monotonic() - self._asked[0] < _ASK_S:
            return
        with self.lock:
            parsed = {name: self._tenants[tenant].documents[uri] for name, (tenant, uri) in self._parsed.items()}
        try:
            generations = self._indexes.recent()
            served = active_reader(generations, self._vectors)
            version = f"{served.version()} {self._revision}"
            if version == self._asked[1]:
                return
            found = self._in_index(parsed, served, generations.serving.number if generations.serving else 1, self._revision)
        except Transient:
            return  # they go on being shown as parsed
        with self.lock:
            self._mark_indexed(found)
        self._asked = time.monotonic(), version

    def _in_index(
        self, parsed: Mapping[str, Document], served: VectorReader, generation: int, revision: str | None
    ) -> set[Expected]:
        """What a generation of the index holds in full of some documents, by id, as the table has them at a revision."""
        progress = IndexProgress(self._metadata, served.name).read(served.table_version())
        found: set[Expected] = set()
        if progress is not None and follows(progress.documents, revision):
            behind = self._lookup.changed_since(progress.documents)
            found = {document.expected_in_index for name, document in parsed.items() if name not in behind}
            parsed = {name: document for name, document in parsed.items() if name in behind}
        if parsed:
            found |= self._indexed_of(parsed, served, generation)
        return found

    def _indexed_of(self, parsed: Collection[str], served: VectorReader, generation: int) -> set[Expected]:
        """What a generation of the index holds in full of some documents, by id."""
        self._splits.follow()
        chunks = self._splits.split(generation, parsed)
        visible = served.indexed(parsed).select(["document_id", "version", "description_id"]).to_pylist()
        counts = Counter((row["document_id"], row["version"], row["description_id"] or "") for row in visible)
        return {entry for entry, count in counts.items() if entry[:2] in chunks and count == chunks[entry[:2]].chunks}


def _shown(rows: Sequence[dict[str, Any]]) -> tuple[str, str, str, Document | None, _Versions]:
    """Tenant, uri, id, what is shown and the stored versions of a document, from all its rows in their order."""
    newest = rows[-1]
    name = newest["document_id"]
    document = None if newest["status"] == "deleted" else _document(newest, describe(rows)[name].id)
    return newest["tenant"], newest["uri"], name, document, stored_versions(rows)


def _document(row: Mapping[str, Any], description_id: str) -> Document:
    """The document of a newest row."""
    return Document(
        **{column: row[column] for column in _FIELDS},
        readers=tuple(row["readers"] or ()),
        attributes=tuple(row["attributes"] or ()),
        description_id=description_id,
        put_at=row["put_at"],
        ocr_confidence=row.get("ocr_confidence"),
    )
