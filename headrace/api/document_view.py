"""The documents of every tenant as the tables show them, and on top what was put or deleted here since.

None of it has to survive the process: it is read anew whenever the documents table has a new snapshot.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from heapq import merge
from itertools import islice
from typing import Any

from headrace.catalog import CHUNK_ROWS, CHUNKS, DOCUMENT_EVENTS, DOCUMENT_ROWS, INDEXES
from headrace.core.runner import Runner
from headrace.documents.chunk import of_generation
from headrace.documents.generations import active_reader
from headrace.documents.names import document_id
from headrace.documents.processed import PROCESSED_OFFSETS, ProcessedOffsets
from headrace.documents.versions import DESCRIBING, ORIGIN, ROWS_IN_ORDER, describe
from headrace.errors import Transient
from headrace.storage.tables.handles import TableReader, quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader

STATUSES = PUT, PARSED, INDEXED, FAILED, DELETING = "put", "parsed", "indexed", "failed", "deleting"
_FIELDS = ("tenant", "uri", "version", "status", "reason", "media", "title", "bytes", "at", "partition", "offset")
_COLUMNS = tuple(dict.fromkeys((*_FIELDS, *DESCRIBING, *ORIGIN)))
_LOOK_S = 1.0  # between looks at the table's snapshot
_ASK_S = 2.0  # between looks at the index, for documents that another process indexes
_ASKED_FEW = 200  # documents looked up by id; more are found by reading all

Expected = tuple[str, str, str]
"""What a document needs in the index: its id, its version, and the id of its description."""
_Versions = dict[str, int]  # version → its bytes


@dataclass(frozen=True)
class Document:
    """A document's newest version; `status` is put, parsed, indexed, failed (then `reason` says why) or deleting."""

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
    partition: int = -1
    offset: int = -1

    @property
    def id(self) -> str:
        """The id of the document, the same for all its versions."""
        return document_id(self.tenant, self.uri)

    @cached_property
    def expected_in_index(self) -> Expected:
        """What of it has to be in the index."""
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
            "readers": list(self.readers),
            "attributes": list(self.attributes),
            "at": self.at.isoformat(),
        }


@dataclass(frozen=True)
class Pending:
    """What a pass is about to bring into the index: documents, and the events that this follows."""

    documents: frozenset[Expected]
    processed: ProcessedOffsets


class DocumentView:
    """Finds, lists and counts documents; safe to share between threads."""

    def __init__(self, runner: Runner) -> None:
        self._table = runner.open(TableReader, DOCUMENT_ROWS, stage="documents")
        self._chunks = runner.open(TableReader, CHUNK_ROWS, stage="documents")
        self._vectors = runner.open(VectorReader, CHUNKS, stage="documents")
        self._indexes = runner.open(IndexReader, INDEXES, stage="documents")
        self._documents: dict[str, dict[str, Document]] = {}  # by tenant and uri, as the tables have them
        self._uris: dict[str, list[str]] = {}  # the same uris, sorted
        self._versions: dict[str, dict[str, _Versions]] = {}  # whose sources are stored, as the tables have them
        self._since: dict[str, dict[str, Sequence[Document]]] = {}  # what was put or deleted here since, in its order
        self._usage: dict[str, tuple[int, int]] = {}  # forgotten with each change
        self._processed = ProcessedOffsets()  # events that the tables show
        self._followed = ProcessedOffsets()  # events that the index follows: what was deleted answers until then
        self._indexed: frozenset[Expected] = frozenset()  # in the index
        self._asked = (-_ASK_S, "")  # when the index was looked at last, and its version then
        self._snapshot: int | None = None
        self._looked = -_LOOK_S
        self._passing = False
        self._looking = threading.Lock()
        self.lock = threading.RLock()
        """For callers that need several answers to agree; while they hold it, they must not have the table looked at."""

    def add(self, document: Document) -> None:
        """Show a document that was put or deleted here, until the tables do."""
        with self.lock:
            own = self._since.setdefault(document.tenant, {})
            # Of two at once, the head says which came first.
            own[document.uri] = sorted([*own.get(document.uri, ()), document], key=lambda one: one.offset)
            self._usage.pop(document.tenant, None)

    def find(self, tenant: str, uri: str, *, look: bool = True) -> Document | None:
        """A tenant's document of exactly this name; without `look`, as of the last look at the table."""
        if look:
            self.refresh()
        with self.lock:
            since = self._since.get(tenant, {}).get(uri)
            return since[-1] if since else self._documents.get(tenant, {}).get(uri)

    def list(self, tenant: str, wanted: Callable[[Document], bool], *, after: str, most: int) -> tuple[list[Document], bool]:
        """The `wanted` documents of a tenant whose uri comes after `after`, at most `most` by uri, and whether there are more."""
        self.refresh()
        with self.lock:
            documents, uris = self._documents.get(tenant, {}), self._uris.get(tenant, [])
            over = self._newest_since(tenant)
            known = (uri for uri in islice(uris, bisect_right(uris, after), None) if uri not in over)
            every = (over.get(uri) or documents[uri] for uri in merge(known, sorted(uri for uri in over if uri > after)))
            found = list(islice(filter(wanted, every), most + 1))
        return found[:most], len(found) > most

    def of_tenant(self, tenant: str) -> dict[str, Document]:
        """uri → each document of a tenant."""
        self.refresh()
        with self.lock:
            return self._of_tenant(tenant)

    def usage(self, tenant: str, *, look: bool = True) -> tuple[int, int]:
        """How many documents a tenant has, and the bytes of the sources stored for it: of all versions, the same bytes once.

        Without `look`, as of the last look at the table.
        """
        if look:
            self.refresh()
        with self.lock:
            if tenant not in self._usage:
                count = sum(document.status != DELETING for document in self._of_tenant(tenant).values())
                stored = {version: size for versions in self.stored(tenant).values() for version, size in versions.items()}
                self._usage[tenant] = count, sum(stored.values())
            return self._usage[tenant]

    def stored(self, tenant: str) -> dict[str, _Versions]:
        """uri → the versions whose sources are stored, with their bytes."""
        with self.lock:
            stored = dict(self._versions.get(tenant, {}))
            for uri, documents in self._since.get(tenant, {}).items():
                versions = stored[uri] = dict(stored.get(uri, {}))
                for document in documents:
                    if document.is_processed(self._processed):
                        continue  # the tables have it
                    if document.status == DELETING:
                        versions.clear()
                    else:
                        versions[document.version] = document.bytes
            return stored

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
            if self._snapshot is None:
                return None
            parsed = (d for documents in self._documents.values() for d in documents.values() if d.status != FAILED)
            return Pending(frozenset(d.expected_in_index for d in parsed), self._processed)

    def note_indexed(self, pending: Pending, unfinished: Collection[str]) -> None:
        """Note that the index now has what was pending, except documents with these ids."""
        self.refresh(now=True)
        with self.lock:
            self._indexed = frozenset(entry for entry in pending.documents if entry[0] not in unfinished)
            self._followed = pending.processed
            self._mark_indexed()
            self._forget_shown()

    def refresh(self, *, now: bool = False) -> None:
        """Read the table anew if it has changed; looks once a second at most, unless `now`."""
        with self._looking:
            if not now and time.monotonic() - self._looked < _LOOK_S:
                return
            snapshot = self._table.format.snapshot()
            if snapshot != self._snapshot:
                self._read()
                self._snapshot = snapshot
            if not self._passing:
                self._check_index()
            self._looked = time.monotonic()

    def _read(self) -> None:
        processed = ProcessedOffsets(self._table.snapshot_property(PROCESSED_OFFSETS)).newest_epoch(DOCUMENT_EVENTS.name)
        documents: dict[str, dict[str, Document]] = {}
        versions_of: dict[str, dict[str, _Versions]] = {}
        rows = self._table.read(_COLUMNS).sort_by(ROWS_IN_ORDER).to_pylist()
        described = describe(rows)
        for row in rows:
            own = documents.setdefault(row["tenant"], {})
            versions = versions_of.setdefault(row["tenant"], {})
            if row["status"] == "deleted":
                own.pop(row["uri"], None)
                versions.pop(row["uri"], None)
                continue
            if row["version"]:
                versions.setdefault(row["uri"], {})[row["version"]] = row["bytes"]
            own[row["uri"]] = Document(
                **{name: row[name] for name in _FIELDS},
                readers=tuple(row["readers"] or ()),
                attributes=tuple(row["attributes"] or ()),
                description_id=described[row["document_id"]].id,
            )
        uris = {tenant: sorted(own) for tenant, own in documents.items()}
        with self.lock:
            self._processed, self._documents, self._uris, self._versions = processed, documents, uris, versions_of
            self._mark_indexed()
            self._forget_shown()

    def _mark_indexed(self) -> None:
        """Show those parsed documents as indexed that are in the index, and no others."""
        for documents in self._documents.values():
            for uri, document in documents.items():
                if document.status in (PARSED, INDEXED):
                    status = INDEXED if document.expected_in_index in self._indexed else PARSED
                    if status != document.status:
                        documents[uri] = replace(document, status=status)

    def _forget_shown(self) -> None:
        """Forget those changes made here that the tables show."""
        self._usage.clear()
        left = {
            tenant: {uri: hidden for uri, changes in own.items() if (hidden := self._not_shown(changes))}
            for tenant, own in self._since.items()
        }
        self._since = {tenant: own for tenant, own in left.items() if own}

    def _of_tenant(self, tenant: str) -> dict[str, Document]:
        return {**self._documents.get(tenant, {}), **self._newest_since(tenant)}

    def _newest_since(self, tenant: str) -> dict[str, Document]:
        return {uri: since[-1] for uri, since in self._since.get(tenant, {}).items()}

    def _not_shown(self, changes: Sequence[Document]) -> Sequence[Document]:
        """Those changes of a document that the tables do not show yet; a deletion counts until the index follows."""
        left = [change for change in changes if not change.is_processed(self._processed)]
        last = changes[-1]
        return left or ([last] if last.status == DELETING and not last.is_processed(self._followed) else [])

    def _check_index(self) -> None:
        """Find out which parsed documents another process has indexed: those with all their chunks there, for their readers."""
        parsed = {d.id: d for documents in self._documents.values() for d in documents.values() if d.status == PARSED}
        if not parsed or time.monotonic() - self._asked[0] < _ASK_S:
            return
        try:
            generations = self._indexes.recent()
            served = active_reader(generations, self._vectors)
            version = f"{served.version()} {self._snapshot}"
            if version != self._asked[1]:
                found = self._indexed_of(parsed, served, generations.serving.number if generations.serving else 1)
                self._indexed = frozenset(entry for entry in self._indexed if entry[0] not in parsed) | found
        except Transient:
            return  # they go on being shown as parsed
        with self.lock:
            self._mark_indexed()
        self._asked = time.monotonic(), version

    def _indexed_of(self, parsed: Collection[str], served: VectorReader, generation: int) -> set[Expected]:
        """What a generation of the index holds in full of some documents, by id; of all documents where these are many."""
        few = sorted(parsed) if len(parsed) <= _ASKED_FEW else None
        columns = ("document_id", "version", "generation")
        where = f"document_id in ({', '.join(map(quoted, few or ()))})"
        chunks: Counter[tuple[str, str]] = Counter()
        for rows in self._chunks.scan(columns) if few is None else self._chunks.scan(columns, where):
            own = of_generation(rows, generation)
            chunks.update(zip(own["document_id"].to_pylist(), own["version"].to_pylist(), strict=True))
        visible = served.indexed(few).select(["document_id", "version", "description_id"]).to_pylist()
        counts = Counter((row["document_id"], row["version"], row["description_id"] or "") for row in visible)
        return {entry for entry, count in counts.items() if count == chunks[entry[:2]]}
