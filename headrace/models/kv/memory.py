"""Memory in front of a block store: blocks that this process wrote or read lately are not read again.

The store behind decides which blocks there are: a block in memory is used only while the store behind has it. So a block that
anybody deleted there, on whichever host, is not used again, and capacity, quotas and eviction are those of the store behind.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.catalog import Store
from headrace.models.kv.blocks import BlockBackend, BlockInfo, BlockStore, tenant_prefix
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter

_KEPT_S = 600.0


@dataclass(frozen=True)
class MemoryUse:
    """What memory in front of a store holds and has answered: blocks and bytes, hits and their bytes, lookups that found none."""

    blocks: int
    bytes: int
    hits: int
    hit_bytes: int
    misses: int


class BlockMemory:
    """The blocks that were used last, up to `limit_bytes`; those not used for `kept_s` seconds go with the next change.

    Thread-safe.
    """

    def __init__(self, limit_bytes: int, *, kept_s: float = _KEPT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._kept_s, self._clock = limit_bytes, kept_s, clock
        self._lock = threading.Lock()
        self._blocks: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = self._hits = self._hit_bytes = self._misses = 0

    def get(self, name: str) -> bytes | None:
        """A block's bytes, or `None`. It is not a use until `hit` is called."""
        with self._lock:
            found = self._blocks.get(name)
            if found is None:
                self._misses += 1
                return None
            return found[0]

    def hit(self, name: str) -> None:
        """A block was used."""
        with self._lock:
            if name in self._blocks:
                data, _ = self._blocks[name]
                self._blocks[name] = data, self._clock()
                self._blocks.move_to_end(name)
                self._hits += 1
                self._hit_bytes += len(data)

    def put(self, name: str, data: bytes) -> None:
        """Keep a block if it is not larger than all memory; the least recently used ones make room."""
        with self._lock:
            self._remove(name)
            now = self._clock()
            if len(data) <= self._limit:
                self._blocks[name] = data, now
                self._bytes += len(data)
            while self._blocks:
                oldest = next(iter(self._blocks))
                if self._bytes <= self._limit and self._blocks[oldest][1] >= now - self._kept_s:
                    break
                self._remove(oldest)

    def lost(self, name: str) -> None:
        """A block that was looked up is no longer in the store behind: let it go."""
        with self._lock:
            self._remove(name)
            self._misses += 1

    def remove(self, name: str) -> None:
        """Let a block go."""
        with self._lock:
            self._remove(name)

    def remove_tenant(self, tenant: str) -> None:
        """Let all blocks of a tenant go."""
        prefix = tenant_prefix(tenant)
        with self._lock:
            for name in [name for name in self._blocks if name.startswith(prefix)]:
                self._remove(name)

    def use(self) -> MemoryUse:
        """What it holds and has answered so far."""
        with self._lock:
            return MemoryUse(len(self._blocks), self._bytes, self._hits, self._hit_bytes, self._misses)

    def _remove(self, name: str) -> None:
        data, _ = self._blocks.pop(name, (b"", 0.0))
        self._bytes -= len(data)


class FrontedBlocks:
    """A block store with memory in front of it."""

    def __init__(self, behind: BlockStore, memory: BlockMemory) -> None:
        self._behind, self._memory = behind, memory

    def get(self, name: str) -> bytes | None:
        """See `BlockStore.get`."""
        data = self._memory.get(name)
        if data is not None:
            if self._behind.has(name):
                self._memory.hit(name)
                return data
            self._memory.lost(name)
            return None
        data = self._behind.get(name)
        if data is not None:
            self._memory.put(name, data)
        return data

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        """See `BlockStore.read_each`."""
        for name in names:
            if not use(self.get(name)):
                return

    def put(self, name: str, data: bytes) -> None:
        """See `BlockStore.put`."""
        self._memory.remove(name)  # what it held may be damaged
        self._behind.put(name, data)
        self._memory.put(name, data)

    def has(self, name: str) -> bool:
        """See `BlockStore.has`."""
        return self._behind.has(name)

    def touch(self, name: str) -> None:
        """See `BlockStore.touch`."""
        self._behind.touch(name)

    def bytes(self, tenant: str) -> tuple[int, int]:
        """See `BlockStore.bytes`."""
        return self._behind.bytes(tenant)

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        """See `BlockStore.oldest`."""
        return self._behind.oldest(most, tenant)

    def evict(self, block: BlockInfo) -> bool:
        """See `BlockStore.evict`."""
        gone = self._behind.evict(block)
        if gone:
            self._memory.remove(block.name)
        return gone

    def delete(self, name: str) -> None:
        """See `BlockStore.delete`."""
        self._memory.remove(name)
        self._behind.delete(name)

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        """See `BlockStore.drop`."""
        try:
            return self._behind.drop(tenant, note)
        finally:
            self._memory.remove_tenant(tenant)


class FrontedBackend:
    """Memory in front of another backend, shared by all that this process opens."""

    def __init__(self, behind: BlockBackend, limit_bytes: int) -> None:
        self.store = behind.store
        self.memory = BlockMemory(limit_bytes)
        self._behind = behind

    def open(self, store: Store, endpoints: Endpoints, meter: Meter, *, wait: bool) -> BlockStore:
        """See `BlockBackend.open`."""
        return FrontedBlocks(self._behind.open(store, endpoints, meter, wait=wait), self.memory)
