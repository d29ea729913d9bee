"""Where KV blocks are kept: the protocol of a block store, its backends, and the one that is used.

Naming, packing and checking blocks, and which of them are evicted, are the cache's (`cache.py`), the same for all. What to
touch for another backend: docs/how-to/add-a-kv-backend.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.catalog import KV_CACHE
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileInfo, FileWriter, Mount, TimedFiles
from headrace.storage.meter import Meter

_NO_TENANT = "_"


def tenant_prefix(tenant: str) -> str:
    """What the names of a tenant's blocks begin with; of blocks without a tenant, too."""
    return f"{tenant or _NO_TENANT}/"


@dataclass(frozen=True)
class BlockInfo:
    """A stored block: its name, its size in bytes, its last use in seconds since the epoch."""

    name: str
    bytes: int
    used: float


class BlockStore(Protocol):
    """Keeps blocks under names that begin with `tenant_prefix`. Any method may raise `HeadraceError` where storage fails."""

    def get(self, name: str) -> bytes | None:
        """A block's bytes, or `None` where there is none."""

    def put(self, name: str, data: bytes) -> None:
        """Store a block, whole or not at all."""

    def touch(self, name: str) -> None:
        """Note a use. Raises `HeadraceError` where there is no such block."""

    def list(self) -> list[BlockInfo]:
        """Every whole block, of all tenants."""

    def delete(self, name: str) -> None:
        """Delete a block; deleting what is not there is no error."""

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """Delete all that is stored of a tenant, half-written blocks too, and return how many that were.

        `note` gets them before the first is deleted, and none that it did not get is deleted.
        """


class FileBlocks:
    """Blocks in the file tier, one file each, in a directory per tenant."""

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
    """Opens the block store for one request, and holds what outlives requests."""

    def open(self, endpoints: Endpoints, meter: Meter) -> BlockStore:
        """The store, counted by this meter."""


class FileBackend:
    """The file tier. A mount that does not answer is left alone for a while by all requests."""

    def __init__(self) -> None:
        self._mount = Mount()

    def open(self, endpoints: Endpoints, meter: Meter) -> BlockStore:
        """See `BlockBackend.open`."""
        return FileBlocks(TimedFiles(KV_CACHE, endpoints, meter, self._mount))


BACKENDS: dict[str, Callable[[], BlockBackend]] = {"files": FileBackend}
"""By name; `HostedModels` takes "files"."""


def _info(file: FileInfo) -> BlockInfo:
    return BlockInfo(file.key, file.bytes, file.used)
