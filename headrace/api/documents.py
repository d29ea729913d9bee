"""The documents of every tenant as the API shows them, and the thread that indexes what was put.

What a document is and where it stands is in the tables; kept here is a view of them, made anew when their snapshot changes,
and over it what was put or deleted since. Nothing of it needs to survive: what is on the head is indexed by the next process.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from headrace.api.admission import Rate
from headrace.api.auth import Caller
from headrace.catalog import CHUNK_ROWS, CHUNKS, DOCUMENT_EVENTS, DOCUMENT_ROWS, INDEXES
from headrace.core.runner import Runner
from headrace.documents import source
from headrace.documents.chunk import of_generation
from headrace.documents.generations import active_reader
from headrace.documents.index import bring_up, take_in
from headrace.documents.names import composed, document_id
from headrace.documents.processed import PROCESSED_OFFSETS, ProcessedOffsets
from headrace.documents.versions import ORIGIN, ROWS_IN_ORDER
from headrace.errors import BadDocument, Forbidden, NotFound, QuotaReached, Transient, kind_of
from headrace.readiness import Trouble
from headrace.settings import Settings, TenantLimits
from headrace.storage.tables.handles import TableReader, quoted
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader
from headrace.terminal import printable

PUT, PARSED, INDEXED, FAILED, DELETING = "put", "parsed", "indexed", "failed", "deleting"
_COLUMNS = (
    *("tenant", "uri", "version", "status", "reason", "media", "title", "bytes", "readers", "at"),
    *ORIGIN,
)
_LOOK_S = 1.0
_ASK_S = 2.0  # at most so often is the index asked about documents that another process indexes
_ASKED_FEW = 200  # documents by name, more by a look at all
_RETRY_S = (1.0, 30.0)

_DAY_S = 86_400.0
_PARSE_S = 10.0
"""Seconds of parsing in a pass; what is parsed by then need not wait for the rest."""

_Held = tuple[str, str, frozenset[str]]  # document id, version, readers
_Versions = dict[str, int]  # version → its bytes

log = logging.getLogger("headrace.api")


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
    """Who of the tenant may read it; none is everybody."""
    partition: int = -1
    offset: int = -1

    @property
    def id(self) -> str:
        """The document across its versions."""
        return document_id(self.tenant, self.uri)

    @property
    def expected_in_index(self) -> _Held:
        """What of it has to be in the index."""
        return self.id, self.version, frozenset(self.readers)

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
            "at": self.at.isoformat(),
        }


class Documents:
    """Puts, deletes and shows documents, and indexes them one pass at a time; safe to share between threads."""

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._settings = settings
        self._table = runner.open(TableReader, DOCUMENT_ROWS, stage="documents")
        self._shelves: dict[str, dict[str, Document]] = {}
        self._kept: dict[str, dict[str, _Versions]] = {}  # tenant → uri → what of its sources is stored, by the tables
        self._since: dict[tuple[str, str], Sequence[Document]] = {}  # what was put or deleted since, in its order
        self._chunks = runner.open(TableReader, CHUNK_ROWS, stage="documents")
        self._vectors = runner.open(VectorReader, CHUNKS, stage="documents")
        self._indexes = runner.open(IndexReader, INDEXES, stage="documents")
        self._indexed: set[_Held] = set()  # in the index
        self._passing = False
        self._asked = (-_ASK_S, "")  # when the index was asked last, and its version then
        self._churn = Rate(seconds=_DAY_S)
        self._reserved: Counter[str] = Counter()  # bytes of puts that are not announced yet
        self._reserving: Counter[str] = Counter()
        self._reached = ProcessedOffsets()  # the events that are parsed
        self._settled = ProcessedOffsets()  # and those that the index follows: what was deleted answers until then
        self._snapshot: int | None = None
        self._looked = -_LOOK_S
        self._lock = threading.RLock()
        self._sources = threading.Condition(self._lock)
        self._putting: Counter[tuple[str, str]] = Counter()  # sources that are being stored, by tenant and version
        self._removing: Counter[tuple[str, str]] = Counter()  # and those that are being deleted
        self._arrived: set[str] = set()  # tenants that put or deleted something since the pass under way began
        self._looking = threading.Lock()
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self.stopping = False
        self.passes = 0
        """Passes from the head to the index that were completed."""
        self._failing: Trouble | None = None

    def start(self) -> None:
        """Begin to index, first what an earlier process left."""
        self._work.set()
        self._thread = threading.Thread(target=self._index, name="index", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 0.0) -> None:
        """End after the stage that is under way; wait for it at most `seconds`."""
        self.stopping = True
        self._work.set()
        if self._thread is not None and seconds:
            self._thread.join(seconds)

    def trouble(self) -> Trouble | None:
        """What holds indexing up, and since when; `None` where nothing does."""
        return self._failing

    def put(
        self, tenant: str, uri: str, data: bytes, limits: TenantLimits, readers: Sequence[str] | None = None
    ) -> tuple[Document, bool]:
        """Put a document; returns it, and whether it is new or changed.

        `readers` may read it from now on: nobody named is everybody of the tenant. `None` leaves it to whoever might read it,
        and opens a new one to everybody of the tenant. Raises `BadDocument` where it is empty, `QuotaReached`, and what the
        stores raise.
        """
        if not data:
            raise BadDocument(uri, "the file is empty")
        version = sha256(data).hexdigest()
        existing = self._find(tenant, uri)
        named = None if readers is None else tuple(dict.fromkeys(readers))
        # As far as it is known here: parse knows of every event before this one.
        wanted = named if named is not None else existing.readers if existing else ()
        if (
            existing is not None
            and existing.version == version
            and existing.status in (PUT, PARSED, INDEXED)
            and set(existing.readers) == set(wanted)
        ):
            return existing, False
        with self._reserve(tenant, uri, version, len(data), limits), self._storing(tenant, version):
            # Behind all other refusals: what is refused is not counted.
            if self._churn.wait_s(tenant, limits.put_bytes_per_day, len(data)):
                raise QuotaReached(
                    f"This tenant may put {limits.put_bytes_per_day:,} bytes in a day and has done so.",
                    hint="Every version counts, also one that was replaced or deleted. Go on tomorrow, or ask for more.",
                )
            place = self._runner.run(source.put, tenant=tenant, uri=uri, data=data, readers=named)
            document = Document(
                tenant,
                uri,
                version,
                PUT,
                len(data),
                datetime.now(UTC),
                readers=wanted,
                partition=place.partition,
                offset=place.offset,
            )
            self._put_over(document)
        return document, True

    def delete(self, tenant: str, uri: str) -> Document:
        """Take a document back, and delete the sources of all its versions that no other has. Raises `NotFound`."""
        document = self.one(tenant, uri)
        if document.status == DELETING:
            return document
        uri = document.uri
        where = f"tenant = {quoted(tenant)} AND uri = {quoted(uri)}"
        versions = set(self._table.read(("version",), where)["version"].to_pylist())
        with self._freeing(tenant, uri, versions) as free:
            place = self._runner.run(source.delete, tenant=tenant, uri=uri, versions=free)
            gone = replace(document, status=DELETING, partition=place.partition, offset=place.offset)
            self._put_over(gone)
        return gone

    def visible(self, caller: Caller, tenant: str, uri: str) -> Document:
        """A document that the caller may know of. Raises `NotFound`, in the same words for one that there is not."""
        document = self.one(tenant, uri)
        if not caller.may_read(document.readers):
            raise _no_document()
        return document

    def check_writer(self, caller: Caller, tenant: str, uri: str, readers: Sequence[str] | None) -> None:
        """Raise `Forbidden` where a key that is bound to readers would change a document of others, or open one to them."""
        caller.principals_for(readers or ())
        existing = self._find(tenant, uri)
        if existing is not None and not caller.may_read(existing.readers):
            raise Forbidden("This key may not change that document: it is for other readers.", hint="Choose another name.")

    def one(self, tenant: str, uri: str) -> Document:
        """A tenant's document. Raises `NotFound`, also where another tenant has one of that name."""
        document = self._find(tenant, composed(uri)) or self._find(tenant, uri)
        if document is None:
            raise _no_document()
        return document

    def list(self, caller: Caller, tenant: str, *, after: str, most: int, status: str | None) -> tuple[list[Document], bool]:
        """A tenant's documents that the caller may know of by uri, those behind `after`, and whether there are more."""
        self._refresh()
        with self._lock:
            matching = [d for d in self._of_tenant(tenant).values() if status in (None, d.status) and caller.may_read(d.readers)]
        matching.sort(key=lambda document: document.uri)
        first = bisect_right([document.uri for document in matching], after) if after else 0
        return matching[first : first + most], len(matching) > first + most

    def usage(self, tenant: str) -> tuple[int, int]:
        """How many documents a tenant has stored, and the bytes of their sources: of every version, the same bytes once."""
        self._refresh()
        with self._lock:
            count = sum(document.status != DELETING for document in self._of_tenant(tenant).values())
            stored = {version: size for versions in self._stored(tenant).values() for version, size in versions.items()}
            return count, sum(stored.values())

    def visible_usage(self, caller: Caller, tenant: str) -> tuple[int, int]:
        """As `used`, for a caller that may know only of some documents: how many, and the bytes of their newest versions."""
        if caller.readers is None:
            return self.usage(tenant)
        self._refresh()
        with self._lock:
            visible = [d for d in self._of_tenant(tenant).values() if d.status != DELETING and caller.may_read(d.readers)]
            return len(visible), sum(document.bytes for document in visible)

    def _find(self, tenant: str, uri: str) -> Document | None:
        self._refresh()
        with self._lock:
            since = self._since.get((tenant, uri))
            return since[-1] if since else self._shelves.get(tenant, {}).get(uri)

    def _of_tenant(self, tenant: str) -> dict[str, Document]:
        over = {uri: documents[-1] for (whose, uri), documents in self._since.items() if whose == tenant}
        return {**self._shelves.get(tenant, {}), **over}

    def _stored(self, tenant: str) -> dict[str, _Versions]:
        """uri → the versions whose sources are stored."""
        stored = dict(self._kept.get(tenant, {}))
        for (whose, uri), documents in self._since.items():
            if whose != tenant:
                continue
            versions = stored[uri] = dict(stored.get(uri, {}))
            for document in documents:
                if document.is_processed(self._reached):
                    continue  # the tables know of it
                if document.status == DELETING:
                    versions.clear()
                else:
                    versions[document.version] = document.bytes
        return stored

    def _put_over(self, document: Document) -> None:
        with self._lock:
            name = (document.tenant, document.uri)
            # Of two at once the head says which was first.
            self._since[name] = sorted([*self._since.get(name, ()), document], key=lambda one: one.offset)
            self._arrived.add(document.tenant)
        self._work.set()

    @contextmanager
    def _storing(self, tenant: str, version: str) -> Iterator[None]:
        """Keep a source from being deleted while a document with it is put; wait where that is under way."""
        name = (tenant, version)
        with self._sources:
            while self._removing[name]:
                self._sources.wait()
            self._putting[name] += 1
        try:
            yield
        finally:
            with self._sources:
                self._putting[name] -= 1
                self._putting += Counter()  # forgets those at zero

    @contextmanager
    def _freeing(self, tenant: str, uri: str, versions: set[str]) -> Iterator[set[str]]:
        """Those sources of a document that no other document has and nobody is putting now; nobody may until the block ends."""
        with self._sources:
            stored = self._stored(tenant)
            own = versions | stored.pop(uri, {}).keys()
            others = {version for versions_of_one in stored.values() for version in versions_of_one}
            free = {version for version in own - others if version and not self._putting[tenant, version]}
            names = [(tenant, version) for version in free]
            self._removing.update(names)
        try:
            yield free
        finally:
            with self._sources:
                self._removing.subtract(names)
                self._removing += Counter()
                self._sources.notify_all()

    @contextmanager
    def _reserve(self, tenant: str, uri: str, version: str, size: int, limits: TenantLimits) -> Iterator[None]:
        """Keep room for a document while it is put: many that come at once must not exceed the quota together."""
        count, used_bytes = self.usage(tenant)
        with self._lock:
            existing = self._of_tenant(tenant).get(uri)
            if existing is not None and existing.status != DELETING:
                count -= 1
            if any(version in versions for versions in self._stored(tenant).values()):
                size = 0  # these bytes are stored already
            count, used_bytes = count + self._reserving[tenant], used_bytes + self._reserved[tenant]
            if count + 1 > limits.documents:
                raise QuotaReached(
                    f"This tenant may store {limits.documents:,} documents and has them.", hint="Delete some, or ask for more."
                )
            if used_bytes + size > limits.stored_bytes:
                raise QuotaReached(
                    f"This tenant may store {limits.stored_bytes:,} bytes, has {used_bytes:,} and this document has {size:,}.",
                    hint="Earlier versions count too. Delete some documents, which deletes all of theirs, or ask for more.",
                )
            self._reserving[tenant] += 1
            self._reserved[tenant] += size
        try:
            yield
        finally:
            with self._lock:
                self._reserving[tenant] -= 1
                self._reserved[tenant] -= size

    def _refresh(self, *, now: bool = False) -> None:
        """Make the view anew if the table has changed; looked at most once a second."""
        with self._looking:
            if not now and time.monotonic() - self._looked < _LOOK_S:
                return
            snapshot = self._table.format.snapshot()
            if snapshot != self._snapshot or now:
                self._read()
                self._snapshot = snapshot
            if not self._passing:
                self._check_index()
            self._looked = time.monotonic()

    def _read(self) -> None:
        reached = ProcessedOffsets(self._table.snapshot_property(PROCESSED_OFFSETS)).newest_epoch(DOCUMENT_EVENTS.name)
        shelves: dict[str, dict[str, Document]] = {}
        kept_of: dict[str, dict[str, _Versions]] = {}
        for row in self._table.read(_COLUMNS).sort_by(ROWS_IN_ORDER).to_pylist():
            shelf = shelves.setdefault(row["tenant"], {})
            versions = kept_of.setdefault(row["tenant"], {})
            if row["status"] == "deleted":
                shelf.pop(row["uri"], None)
                versions.pop(row["uri"], None)
                continue
            if row["version"]:
                versions.setdefault(row["uri"], {})[row["version"]] = row["bytes"]
            record = {
                name: row[name] for name in ("tenant", "uri", "version", "status", "bytes", "at", "reason", "media", "title")
            }
            document = Document(**record, readers=tuple(row["readers"] or ()))
            if document.status == PARSED and document.expected_in_index in self._indexed:
                document = replace(document, status=INDEXED)
            shelf[row["uri"]] = document
        with self._lock:
            self._reached = reached
            self._shelves, self._kept = shelves, kept_of
            self._since = {name: left for name, documents in self._since.items() if (left := self._unprocessed(documents))}

    def _unprocessed(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Those of a document's changes that the tables do not show yet; a last deletion until the index has followed."""
        left = [document for document in documents if not document.is_processed(self._reached)]
        last = documents[-1]
        return left or ([last] if last.status == DELETING and not last.is_processed(self._settled) else [])

    def _check_index(self) -> None:
        """Which of the parsed documents another process has indexed: those with all their chunks in it, for their readers."""
        parsed = {d.id: d for shelf in self._shelves.values() for d in shelf.values() if d.status == PARSED}
        if not parsed or time.monotonic() - self._asked[0] < _ASK_S:
            return
        try:
            generations = self._indexes.recent()
            served = active_reader(generations, self._vectors)
            version = f"{served.version()} {self._snapshot}"
            if version != self._asked[1]:
                indexed = self._indexed_of(parsed, served, generations.serving.number if generations.serving else 1)
                self._indexed = {pending for pending in self._indexed if pending[0] not in parsed} | indexed
        except Transient:
            return  # they go on being shown as parsed
        with self._lock:
            for document in parsed.values():
                if document.expected_in_index in self._indexed:
                    self._shelves[document.tenant][document.uri] = replace(document, status=INDEXED)
        self._asked = time.monotonic(), version

    def _indexed_of(self, parsed: Collection[str], served: VectorReader, generation: int) -> set[_Held]:
        """What a generation of the index holds whole of some documents, by their ids; of all of them where they are many."""
        few = sorted(parsed) if len(parsed) <= _ASKED_FEW else None
        columns = ("document_id", "version", "generation")
        where = f"document_id in ({', '.join(map(quoted, few or ()))})"
        cut: Counter[tuple[str, str]] = Counter()
        for rows in self._chunks.scan(columns) if few is None else self._chunks.scan(columns, where):
            own = of_generation(rows, generation)
            cut.update(zip(own["document_id"].to_pylist(), own["version"].to_pylist(), strict=True))
        visible_rows = served.indexed(few).select(["document_id", "version", "readers"]).to_pylist()
        counts = Counter((row["document_id"], row["version"], frozenset(row["readers"])) for row in visible_rows)
        return {name for name, count in counts.items() if count == cut[name[:2]]}

    def _index(self) -> None:
        """Index what is announced, one pass after another; what storage refuses for now is tried again."""
        wait_s = _RETRY_S[0]
        while True:
            self._work.wait()
            if self.stopping:
                return
            self._work.clear()
            try:
                self._pass()
                self._failing, wait_s = None, _RETRY_S[0]
            except _Stopped:
                return
            except Exception as error:  # a thread that ends would leave everything that is put later unindexed
                since = time.monotonic() if self._failing is None else self._failing.since
                self._failing = Trouble(f"is held up and tried again ({kind_of(error)})", since)
                log.error("indexing is held up and tried again: %s", printable(str(error)))
                log.debug("", exc_info=True)
                self._work.set()
                if self._sleep(wait_s):
                    return
                wait_s = min(2 * wait_s, _RETRY_S[1])

    def _sleep(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping:
            time.sleep(0.1)
        return self.stopping

    def _pass(self) -> None:
        self._passing = True
        try:
            self._catch_up()
        finally:
            self._passing = False

    def _catch_up(self) -> None:
        with self._lock:
            self._arrived.clear()
        settings = self._settings.inference
        _, parsing = take_in(self._runner, settings, parse_s=_PARSE_S, after=self._go_on)
        self._refresh(now=True)
        reached = self._reached
        unfinished: frozenset[str] = frozenset()
        if self._snapshot is not None:  # else nobody has put anything in this home
            with self._lock:
                parsed = {d.expected_in_index for shelf in self._shelves.values() for d in shelf.values() if d.status != FAILED}
            filled = bring_up(self._runner, settings, gives_way=self._gives_way, after=self._go_on)
            unfinished = filled.embedded.unfinished
            self._indexed = {entry for entry in parsed if entry[0] not in unfinished}
            self._settled = reached
            self._refresh(now=True)
        if parsing.left or unfinished:
            self._work.set()
        self.passes += 1

    def _gives_way(self, waiting: Collection[str]) -> bool:
        """Whether somebody has put or deleted something for whom this pass does nothing."""
        with self._lock:
            return not self._arrived <= set(waiting)

    def _go_on(self, _stage: str) -> None:
        if self.stopping:
            raise _Stopped


def _no_document() -> NotFound:
    return NotFound("There is no such document.", hint="GET /v1/documents lists those there are.")


class _Stopped(Exception):
    """The service ends."""
