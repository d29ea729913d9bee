"""Block stores, which hold KV blocks: the protocol, its backends, and the handle through which stages use them.

Names, format and eviction of blocks are the same for all backends: `cache.py`. How to add a backend:
docs/how-to/add-a-kv-backend.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileInfo, FileWriter, Mount, TimedFiles
from headrace.storage.meter import Meter, ReportedWriter

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

    def put(self, name: str, data: bytes) -> None:
        """Store a block atomically."""

    def touch(self, name: str) -> None:
        """Record a use. Raises `HeadraceError` if there is no such block."""

    def list(self) -> list[BlockInfo]:
        """Every complete block, of all tenants."""

    def delete(self, name: str) -> None:
        """Delete a block; a missing block is not an error."""

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """Delete all blocks of a tenant, including half-written ones; returns their number.

        `note` is called with the blocks before the first is deleted; only those are deleted.
        """


class FileBlocks:
    """Blocks in the file tier: one file per block, one directory per tenant."""

    def __init__(self, files: FileWriter) -> None:
        self._files = files

    def get(self, name: str) -> bytes | None:
        """See `BlockStore.get`."""
        return self._files.read(name)

    def put(self, name: str, data: bytes) -> None:
        """See `BlockStore.put`."""
        self._files.write(name, data)

    def touch(self, name: str) -> None:
        """See `BlockStore.touch`."""
        self._files.touch(name)

    def list(self) -> list[BlockInfo]:
        """See `BlockStore.list`."""
        return [_info(file) for file in self._files.list()]

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
    """Opens block stores of one kind and owns what they share."""

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """The block store, counted by this meter. Without `wait`, calls end within seconds even if storage does not answer."""


class FileBackend:
    """The file tier. All stores opened without `wait` share one circuit breaker for a mount that does not answer."""

    def __init__(self) -> None:
        self._mount = Mount()

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """See `BlockBackend.open`."""
        return FileBlocks(FileWriter(store, endpoints, meter) if wait else TimedFiles(store, endpoints, meter, self._mount))


BACKENDS: dict[str, Callable[[], BlockBackend]] = {"files": FileBackend}
"""Backends by `Endpoints.kv_backend`."""


class BlockWriter(ReportedWriter):
    """The KV cache for a stage that accesses its blocks itself; the model server reports what it does for other stages."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._endpoints = endpoints
        self.blocks = BACKENDS[endpoints.kv_backend]().open(store, endpoints, meter, wait=True)

    def with_meter(self, meter: Meter) -> Self:
        """The same handle with another meter."""
        return type(self)(self.store, self._endpoints, meter)


def _info(file: FileInfo) -> BlockInfo:
    return BlockInfo(file.key, file.bytes, file.used)
