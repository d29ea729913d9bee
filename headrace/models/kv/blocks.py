"""Block stores, which hold KV blocks: the protocols of a store and of a backend, and the file tier.

Names, format and eviction of blocks are the same for all backends: `cache.py`. How to add a backend:
docs/how-to/add-a-kv-backend.md.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.catalog import KV_CACHE, Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter, Mount, ReadBuffer, TimedFiles
from headrace.storage.listing import FileInfo, FolderListing
from headrace.storage.meter import Meter

_NO_TENANT = "_"


def tenant_prefix(tenant: str) -> str:
    """The prefix of the names of a tenant's blocks, or of blocks without a tenant."""
    return f"{tenant or _NO_TENANT}/"


@dataclass(frozen=True)
class BlockInfo:
    """A stored block: its name, its size in bytes, its last use in seconds since the epoch."""

    name: str
    bytes: int
    used: float


class BlockStore(Protocol):
    """Stores blocks under names that begin with `tenant_prefix`. Any method may raise `HeadraceError` if storage fails."""

    def get(self, name: str) -> bytes | None:
        """A block's bytes, or `None` if there is none."""

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        """Read one block after another until `use` returns false.

        `use` gets a block's bytes, at least the first `most` if it has more, or `None` if there is none. They are good until it
        returns: the store may use their memory again. It may be called in another thread, while this one waits.
        """

    def put(self, name: str, data: bytes) -> None:
        """Store a block atomically."""

    def has(self, name: str) -> bool:
        """Whether there is such a block, without reading it."""

    def touch(self, name: str) -> None:
        """Record a use. Raises `HeadraceError` if there is no such block."""

    def bytes(self, tenant: str) -> tuple[int, int]:
        """Bytes of all tenants' blocks, and of this one's. Each save asks, so its cost may not follow the number of blocks."""

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        """The `most` blocks that were used least recently, of all tenants or of one, in any order; more where some are as old.

        Half-written blocks are none. `used` may be older than the last use: see `evict`.
        """

    def evict(self, block: BlockInfo) -> bool:
        """Delete a block unless it was used since it was listed; returns whether it is gone."""

    def delete(self, name: str) -> None:
        """Delete a block; a missing block is not an error."""

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """Delete all blocks of a tenant, including half-written ones; returns their number.

        `note` is called with the blocks before the first is deleted; only those are deleted.
        """


_LEFT_S = 3600.0
"""A half-written block that is so old was left by a writer that was killed, and goes."""


_BUFFERS = 2
"""Reads at a time whose memory is kept for the next ones."""
_MOST_BYTES = 256 << 20
"""That are read of a file, several times a block of the largest models: somebody may leave one that says it has terabytes."""


class FileBlocks:
    """Blocks in the file tier: one file per block, one directory per tenant. What is `listed` is kept between uses."""

    def __init__(self, files: FileWriter, listed: FolderListing | None = None, buffers: deque[ReadBuffer] | None = None) -> None:
        self._files = files
        self._listed = listed or files.listing()
        self._buffers = deque[ReadBuffer](maxlen=_BUFFERS) if buffers is None else buffers

    def get(self, name: str) -> bytes | None:
        """See `BlockStore.get`."""
        return self._files.read(name, _MOST_BYTES)

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        """See `BlockStore.read_each`."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = ReadBuffer()
        # A read that takes too long ends in an error here and may still write to its buffer, which is not used again then.
        self._files.read_each(buffer, names, most, use)
        self._buffers.append(buffer)

    def put(self, name: str, data: bytes) -> None:
        """See `BlockStore.put`."""
        self._files.write(name, data)

    def has(self, name: str) -> bool:
        """See `BlockStore.has`."""
        return self._files.used(name) is not None

    def touch(self, name: str) -> None:
        """See `BlockStore.touch`."""
        self._files.touch(name)

    def bytes(self, tenant: str) -> tuple[int, int]:
        """See `BlockStore.bytes`. It costs a look at each directory, of which a tenant has 256, and at what changed in them."""
        self._files.look(self._listed)
        for key in self._listed.left(time.time() - _LEFT_S):
            self._files.delete(key)
        return self._listed.bytes(), self._listed.bytes(tenant_prefix(tenant).rstrip("/"))

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        """See `BlockStore.oldest`."""
        self._files.look(self._listed)
        found = list(self._listed.files("" if tenant is None else tenant_prefix(tenant).rstrip("/")))
        if len(found) > most:
            bound = max(heapq.nsmallest(most, (file.used for file in found)), default=-math.inf)
            found = [file for file in found if file.used <= bound]
        return [_info(file) for file in found]

    def evict(self, block: BlockInfo) -> bool:
        """See `BlockStore.evict`."""
        used = self._files.used(block.name)
        if used not in (None, block.used):
            self._listed.note(block.name, used)
            return False
        self._files.delete(block.name)
        return True

    def delete(self, name: str) -> None:
        """See `BlockStore.delete`."""
        self._files.delete(name)

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """See `BlockStore.drop`."""
        found = [_info(file) for file in self._files.list(tenant_prefix(tenant), partial=True)]
        note(found)
        for block in found:
            self._files.delete(block.name)
        return len(found)


class BlockBackend(Protocol):
    """Opens block stores of one kind and owns what they share. `store` is their place in the catalog."""

    @property
    def store(self) -> Store:
        """The catalog's store that they hold."""

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """The block store, counted by this meter. Without `wait`, calls end within seconds even if storage does not answer."""


class FileBackend:
    """The file tier. Stores opened without `wait` share a circuit breaker for a mount that does not answer, and a listing.

    All share memory to read into.
    """

    store = KV_CACHE

    def __init__(self) -> None:
        self._mount = Mount()
        self._listings: dict[Path, FolderListing] = {}
        self._buffers = deque[ReadBuffer](maxlen=_BUFFERS)

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """See `BlockBackend.open`."""
        if wait:
            return FileBlocks(FileWriter(store, endpoints, meter), buffers=self._buffers)
        files = TimedFiles(store, endpoints, meter, self._mount)
        return FileBlocks(files, self._listings.setdefault(files.root, files.listing()), self._buffers)


def _info(file: FileInfo) -> BlockInfo:
    return BlockInfo(file.key, file.bytes, file.used)
