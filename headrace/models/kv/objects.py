"""KV blocks in the object store: one object per block, and their index in the metadata store.

The order of every change keeps the bound and leaves nothing behind that nobody counts, wherever a process is killed:

- `put` adds the row first, then the object. Killed between, the row counts a block that is not there, until it is evicted.
- Deleting removes the object first, then its row, unless the block was written or used again meanwhile.

Objects without a row, as after the metadata store was lost, and rows without an object are found by a listing that goes on by one
page with each look at the bytes, so that its cost is bounded.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from headrace.catalog import KV_OBJECTS, Store
from headrace.errors import HeadraceError, NotFound
from headrace.models.kv.blocks import BlockInfo, BlockStore, tenant_prefix
from headrace.models.kv.object_index import ObjectIndex
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import Mount
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter

READ_S, WRITE_S = 2.0, 10.0
"""Seconds that a call may take for a block store that serves a question."""
_PAGE = 1_000
_EVERY_S = 1.0
_GRACE_S = 600.0
"""Rows and objects younger than this may belong to a write that is under way."""

T = TypeVar("T")


class ListedPart:
    """How far the listing that compares objects and index has come, for all users of a bucket in a process."""

    def __init__(self, *, page: int = _PAGE, every_s: float = _EVERY_S, grace_s: float = _GRACE_S) -> None:
        self.page, self.every_s, self.grace_s = page, every_s, grace_s
        self.tenants: list[str] = []
        self.after = ""
        """The tenants that are still to be compared in this round, and the last key of the first of them that was."""
        self.lock = threading.Lock()
        self._due = 0.0

    def due(self) -> bool:
        """Whether the next page is due; at most one is in each interval."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self.every_s
        return True


class ObjectBlocks:
    """Blocks in the object store. With a `breaker`, calls end within seconds and storage that does not answer is left alone."""

    def __init__(
        self, objects: ObjectWriter, index: ObjectIndex, listed: ListedPart | None = None, breaker: Mount | None = None
    ) -> None:
        self._objects, self._index = objects, index
        self._listed = listed or ListedPart()
        self._breaker = breaker

    def get(self, name: str) -> bytes | None:
        """See `BlockStore.get`."""
        return self._within(READ_S, partial(self._get, name))

    def _get(self, name: str) -> bytes | None:
        used = self._index.used(name)
        if used is None:
            return None
        try:
            return self._objects.get(name)
        except NotFound:
            if used < time.time() - self._listed.grace_s:
                self._index.remove(name, used)
            return None

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        """See `BlockStore.read_each`."""
        for name in names:
            if not use(self.get(name)):
                return

    def put(self, name: str, data: bytes) -> None:
        """See `BlockStore.put`."""
        self._within(WRITE_S, partial(self._put, name, data))

    def _put(self, name: str, data: bytes) -> None:
        self._index.add(name, len(data))
        try:
            self._objects.put(name, data)
        except HeadraceError:
            with suppress(HeadraceError):  # the listing finds what remains
                self._delete(name)
            raise
        # It was dropped or evicted while it was written: an object without a row would be nobody's.
        if self._index.used(name) is None:
            self._objects.delete(name)

    def has(self, name: str) -> bool:
        """See `BlockStore.has`."""
        return self._within(READ_S, lambda: self._index.used(name) is not None)

    def touch(self, name: str) -> None:
        """See `BlockStore.touch`."""
        if not self._within(READ_S, partial(self._index.touch, name)):
            raise NotFound(f"There is no KV block {name}.", hint="It was evicted.")

    def bytes(self, tenant: str) -> tuple[int, int]:
        """See `BlockStore.bytes`. It costs two statements, and at most once a second the listing of one page."""
        return self._within(WRITE_S, partial(self._bytes, tenant))

    def _bytes(self, tenant: str) -> tuple[int, int]:
        if self._listed.lock.acquire(blocking=False):
            try:
                if self._listed.due():
                    self._compare()
            finally:
                self._listed.lock.release()
        return self._index.bytes(tenant)

    def _compare(self) -> None:
        """Compare the next page of one tenant with the index: add rows that lack, remove those whose object is gone.

        Tenant by tenant, because object stores differ in whether `a-b/` or `a/` is listed first.
        """
        part = self._listed
        if not part.tenants:
            part.tenants, part.after = sorted({*self._objects.folders(), *self._index.tenants()}), ""
            if not part.tenants:
                return
        prefix = f"{part.tenants[0]}/"
        page = list(itertools.islice(self._objects.list(prefix, after=part.after), part.page))
        rows = self._index.behind(part.after or prefix, f"{part.tenants[0]}{chr(ord('/') + 1)}", part.page)
        # Of a side that may have more, only what is not behind its end can be compared.
        ends = [found[-1] for found in ([one.key for one in page], [row.name for row in rows]) if len(found) == part.page]
        last = min(ends, default="")
        settled = time.time() - part.grace_s
        found = {info.key: BlockInfo(info.key, info.bytes, info.modified.timestamp()) for info in page}
        indexed = {row.name: row for row in rows}
        self._index.adopt(
            block for name, block in found.items() if name not in indexed and block.used < settled and (not last or name <= last)
        )
        for name, block in indexed.items():
            if name not in found and block.used < settled and (not last or name <= last):
                self._index.remove(name, block.used)
        part.after = last
        if not last:
            part.tenants = part.tenants[1:]

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        """See `BlockStore.oldest`."""
        return self._within(WRITE_S, partial(self._index.oldest, most, tenant))

    def evict(self, block: BlockInfo) -> bool:
        """See `BlockStore.evict`."""
        return self._within(READ_S, partial(self._evict, block))

    def _evict(self, block: BlockInfo) -> bool:
        if self._index.used(block.name) not in (None, block.used):
            return False
        self._objects.delete(block.name)
        self._index.remove(block.name, block.used)
        return True

    def delete(self, name: str) -> None:
        """See `BlockStore.delete`."""
        self._within(READ_S, partial(self._delete, name))

    def _delete(self, name: str) -> None:
        used = self._index.used(name)
        self._objects.delete(name)
        if used is not None:
            self._index.remove(name, used)

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """See `BlockStore.drop`. It deletes what a listing finds, whether the index knows it or not."""
        indexed = {block.name: block for block in self._index.of(tenant)}
        listed = (
            BlockInfo(info.key, info.bytes, info.modified.timestamp()) for info in self._objects.list(tenant_prefix(tenant))
        )
        found = {block.name: indexed.get(block.name, block) for block in listed}
        note(list(found.values()))
        self._objects.delete_many(list(found))
        for name, block in indexed.items():
            # A row whose object is not there yet belongs to a write that is under way, which then deletes what it wrote.
            self._index.remove(name, block.used)
        return len(found)

    def _within(self, seconds: float, work: Callable[[], T]) -> T:
        return work() if self._breaker is None else self._breaker.call(work, seconds)


class ObjectBackend:
    """The object tier. Stores opened without `wait` share a circuit breaker; all share the index and the listing."""

    store = KV_OBJECTS

    def __init__(self) -> None:
        self._breaker = Mount(what="The object store or the metadata store", hint="Check them with `headrace endpoints`.")
        self._opened: dict[tuple[str, str], tuple[ObjectIndex, ListedPart]] = {}

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """See `BlockBackend.open`."""
        place = f"{endpoints.s3_endpoint}/{endpoints.bucket}/{store.name}"
        database = endpoints.metadata.model_dump_json() if endpoints.metadata else ""
        if (place, database) not in self._opened:
            self._opened[place, database] = ObjectIndex(Metadata(endpoints), place), ListedPart()
        index, listed = self._opened[place, database]
        return ObjectBlocks(ObjectWriter(store, endpoints, meter), index, listed, None if wait else self._breaker)
