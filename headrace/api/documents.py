"""Documents over the API: put, deleted and shown, within a tenant's quotas and to those who may know of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Protocol
from uuid import uuid4

from headrace.api.admission import Rate
from headrace.api.auth import Caller
from headrace.core.runner import Runner
from headrace.documents.names import composed
from headrace.documents.put import delete, put_document
from headrace.documents.view import DELETING, INDEXED, PARSED, PUT, Document, DocumentView
from headrace.errors import BadDocument, Forbidden, NotFound, QuotaReached, Unavailable
from headrace.settings import TenantLimits

_DAY_S = 86_400.0
_LATELY = timedelta(minutes=15)


class Announce(Protocol):
    """Says that a tenant changed something; with `withdraws` it deleted it or closed it to some readers."""

    def __call__(self, tenant: str, *, withdraws: bool) -> object: ...


@dataclass
class _Turn:
    """Of those who change one document; `waiting` counts them all."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0


class Documents:
    """Puts, deletes and shows documents; safe to share between threads. `announce` is called with each change."""

    def __init__(self, runner: Runner, view: DocumentView, announce: Announce) -> None:
        self._runner = runner
        self._view = view
        self._announce = announce
        self._bytes_put = Rate(seconds=_DAY_S)
        self._reserved: Counter[str] = Counter()  # bytes of puts that are not announced yet, by tenant
        self._reserving: Counter[str] = Counter()  # how many such puts there are
        self._sources = threading.Condition(view.lock)
        self._putting: Counter[tuple[str, str]] = Counter()  # sources that are being stored, by tenant and version
        self._changing: dict[tuple[str, str], _Turn] = {}  # documents that are being changed, by tenant and name
        self._removing: Counter[tuple[str, str]] = Counter()  # and those that are being deleted

    def waiting(self, tenant: str | None = None) -> tuple[int, float]:
        """As `DocumentView.waiting`."""
        return self._view.waiting(tenant)

    def put(
        self,
        tenant: str,
        uri: str,
        data: bytes,
        limits: TenantLimits,
        readers: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        caller: Caller | None = None,
    ) -> tuple[Document, bool]:
        """Put a document; returns it, and whether it is new or changed.

        For a `caller` it is checked that it may, as by `check_writer`, and nobody changes the document in between: here by
        waiting, and what another process announces meanwhile counts instead of this.
        `readers` and `attributes` are as in `put_document`. Raises `BadDocument` where it is empty, `QuotaReached`, and what the
        stores raise.
        """
        with self._alone(tenant, uri):
            if caller is not None:
                self.check_writer(caller, tenant, uri, readers)
            done = self._put(tenant, uri, data, limits, readers, attributes, caller.readers if caller else None)
            if caller is not None:
                self._check_alone(caller, tenant, uri)
        return done

    def _put(
        self,
        tenant: str,
        uri: str,
        data: bytes,
        limits: TenantLimits,
        readers: Sequence[str] | None,
        attributes: Sequence[str] | None,
        bound_to: Sequence[str] | None,
    ) -> tuple[Document, bool]:
        if not data:
            raise BadDocument(uri, "the file is empty")
        version = sha256(data).hexdigest()
        named = None if readers is None else tuple(dict.fromkeys(readers))
        labelled = None if attributes is None else tuple(sorted(set(attributes)))

        def unchanged(existing: Document | None) -> bool:
            return (
                existing is not None
                and existing.version == version
                and existing.status in (PUT, PARSED, INDEXED)
                and (named is None or set(existing.readers) == set(named))
                and (labelled is None or set(existing.attributes) == set(labelled))
            )

        existing = self._view.find(tenant, uri)
        # What another replica was told meanwhile would otherwise be the last word: that it is deleted, or open to others.
        if unchanged(existing) and not self._view.announced_elsewhere(tenant, uri):
            self._view.refresh(now=True)  # after it: what is no longer announced is there
            existing = self._view.find(tenant, uri, look=False)
            if existing is not None and unchanged(existing):
                return existing, False
        # As far as this process knows; `parse` knows of every event before this one.
        wanted = named if named is not None else existing.readers if existing else ()
        wanted_attributes = labelled if labelled is not None else existing.attributes if existing else ()
        with self._reserve(tenant, uri, version, len(data), limits), self._storing(tenant, version):
            # The last check, so that a document refused by another one does not count.
            if self._bytes_put.wait_s(tenant, limits.put_bytes_per_day, len(data)):
                raise QuotaReached(
                    f"Quota exceeded: limit {limits.put_bytes_per_day:,} bytes put in a day.",
                    hint="Every version counts, even if it was replaced or deleted. Continue tomorrow, or ask for more.",
                )
            event_id = uuid4().hex
            place = self._runner.run(
                put_document,
                tenant=tenant,
                uri=uri,
                data=data,
                readers=named,
                attributes=labelled,
                sha256=version,
                event_id=event_id,
                bound_to=bound_to,
            )
            document = Document(
                tenant,
                uri,
                version,
                PUT,
                len(data),
                datetime.now(UTC),
                readers=wanted,
                attributes=wanted_attributes,
                partition=place.partition,
                offset=place.offset,
                event_id=event_id,
            )
            closed = bool(wanted) and (existing is None or set(existing.readers) != set(wanted))
            self._changed(document, withdraws=closed)
        return document, True

    def delete(self, tenant: str, uri: str, caller: Caller | None = None) -> Document:
        """Delete a document, and the sources of all its versions that no other document has; `caller` is as in `put`.

        Raises `NotFound`, also for a document that the caller may not see.
        """
        with self._alone(tenant, uri):
            if caller is not None:
                self.check_writer(caller, tenant, self.visible(caller, tenant, uri).uri, None)
            document = self.one(tenant, uri)
            if document.status == DELETING:
                return document
            uri = document.uri

            def may_free() -> bool:
                """Whether the deletion counts as far as it can be known: what does not free sources keeps them."""
                if caller is None or caller.readers is None:
                    return True
                with suppress(Forbidden, Unavailable):
                    self.check_writer(caller, tenant, uri, None, own=event_id)
                    return True
                return False

            with self._freeing(tenant, uri, self._view.deletable(tenant, uri)) as free:
                event_id = uuid4().hex
                bound_to = caller.readers if caller else None
                place = self._runner.run(
                    delete, tenant=tenant, uri=uri, versions=free, event_id=event_id, bound_to=bound_to, may_free=may_free
                )
                deleted = replace(document, status=DELETING, partition=place.partition, offset=place.offset, event_id=event_id)
                self._changed(deleted, withdraws=True)
            if caller is not None:
                self._check_alone(caller, tenant, uri)
        return deleted

    def visible(self, caller: Caller, tenant: str, uri: str) -> Document:
        """A document that the caller may see. Raises the same `NotFound` for a hidden document as for a missing one."""
        document = self.one(tenant, uri)
        if not caller.may_read(document.readers):
            raise _no_document()
        return document

    def check_writer(self, caller: Caller, tenant: str, uri: str, readers: Sequence[str] | None, *, own: str = "") -> None:
        """Raise `Forbidden` where a key bound to readers would change a document of other readers, or open one to them.

        Raises `Unavailable` to such a key where another process has changed the document, and it is not known here yet for whom.
        `own` is the event of the caller's that is under way.
        """
        caller.principals_for(readers or ())
        if caller.readers is not None:
            if self._view.announced_elsewhere(tenant, uri, lately=_LATELY, own=own):
                raise Unavailable("This document was changed a moment ago.", hint="Try again once it is indexed.")
            self._view.refresh(now=True)
        existing = self._view.find(tenant, uri)
        if existing is not None and not caller.may_read(existing.readers):
            raise Forbidden("This key may not change that document: it is for other readers.", hint="Choose another name.")

    def one(self, tenant: str, uri: str) -> Document:
        """A tenant's document. Raises `NotFound`, also where only another tenant has one of that name."""
        document = self._view.find(tenant, composed(uri)) or self._view.find(tenant, uri)
        if document is None:
            raise _no_document()
        return document

    def list(self, caller: Caller, tenant: str, *, after: str, most: int, status: str | None) -> tuple[list[Document], bool]:
        """A page of the tenant's documents that the caller may know of, by uri from after `after`, and whether more follow."""

        def wanted(document: Document) -> bool:
            return status in (None, document.status) and caller.may_read(document.readers)

        return self._view.list(tenant, wanted, after=after, most=most)

    def usage(self, caller: Caller, tenant: str) -> tuple[int, int]:
        """How many documents of the tenant the caller may know of, and their bytes.

        These are of all versions, the same bytes once; for a key bound to readers they are of the newest versions.
        """
        if caller.readers is None:
            return self._view.usage(tenant)
        every = self._view.of_tenant(tenant).values()
        visible = [document for document in every if document.status != DELETING and caller.may_read(document.readers)]
        return len(visible), sum(document.bytes for document in visible)

    def _check_alone(self, caller: Caller, tenant: str, uri: str) -> None:
        """Raise `Unavailable` where another process changed the document while a key bound to readers did.

        Which of both came first, the head says: if the other one closed the document before, this change does not count.
        """
        if caller.readers is not None and self._view.announced_elsewhere(tenant, uri, lately=_LATELY):
            raise Unavailable("Another change of this document was under way.", hint="Try again once it is indexed.")

    @contextmanager
    def _alone(self, tenant: str, uri: str) -> Iterator[None]:
        """One change of a document at a time: between a check and the change that it allows there is no other."""
        name = (tenant, composed(uri))
        with self._view.lock:
            turn = self._changing.setdefault(name, _Turn())
            turn.waiting += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._view.lock:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._changing[name]

    def _changed(self, document: Document, *, withdraws: bool) -> None:
        self._view.add(document)
        self._announce(document.tenant, withdraws=withdraws)

    @contextmanager
    def _storing(self, tenant: str, version: str) -> Iterator[None]:
        """Keep a source from being deleted while a document with it is put; waits for a deletion that is under way."""
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
        """Those sources of a document that no other document has and no put is storing; puts wait until the block ends."""
        with self._sources:
            only = self._view.only_of(tenant, uri, versions)
            free = {version for version in only if not self._putting[tenant, version]}
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
        """Keep room for a document while it is put: many puts at once must not exceed the quota together."""
        self._view.refresh()
        with self._view.lock:
            count, used_bytes = self._view.usage(tenant, look=False)  # a put that ends meanwhile is in one of both sums
            existing = self._view.find(tenant, uri, look=False)
            if existing is not None and existing.status != DELETING:
                count -= 1
            stored = self._view.stored_of(tenant, uri)
            if version not in stored and len(stored) >= limits.versions:
                raise QuotaReached(
                    f"This document has {len(stored):,} versions, which is the limit.",
                    hint="Delete it, which deletes all of them, and put it again; or ask for more.",
                )
            if self._view.stores(tenant, version):
                size = 0  # these bytes are stored already
            count, used_bytes = count + self._reserving[tenant], used_bytes + self._reserved[tenant]
            if count + 1 > limits.documents:
                raise QuotaReached(
                    f"Quota exceeded: limit {limits.documents:,} documents, in use {count:,}.",
                    hint="Delete some, or ask for more.",
                )
            if used_bytes + size > limits.stored_bytes:
                raise QuotaReached(
                    f"Quota exceeded: limit {limits.stored_bytes:,} bytes, in use {used_bytes:,}, this document {size:,}.",
                    hint="Earlier versions count too. Delete some documents, which deletes all of theirs, or ask for more.",
                )
            self._reserving[tenant] += 1
            self._reserved[tenant] += size
        try:
            yield
        finally:
            with self._view.lock:
                self._reserving[tenant] -= 1
                self._reserved[tenant] -= size


def _no_document() -> NotFound:
    return NotFound("There is no such document.", hint="GET /v1/documents lists the documents.")
