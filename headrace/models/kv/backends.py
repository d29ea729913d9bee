"""The backends of the KV cache, and the handle through which stages use its blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Self

from headrace.catalog import Store
from headrace.models.kv.blocks import BlockBackend, BlockStore, FileBackend
from headrace.models.kv.memory import FrontedBackend
from headrace.models.kv.objects import ObjectBackend
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter, ReportedWriter

BACKENDS: dict[str, Callable[[], BlockBackend]] = {"files": FileBackend, "objects": ObjectBackend}
"""Backends by `Endpoints.kv_backend`."""


def backend_of(endpoints: Endpoints) -> BlockBackend:
    """The backend that the endpoints name, behind as much memory as they give it."""
    backend = BACKENDS[endpoints.kv_backend]()
    return FrontedBackend(backend, endpoints.kv_memory_bytes) if endpoints.kv_memory_bytes else backend


class BlockWriter(ReportedWriter):
    """The KV cache for a stage that accesses its blocks itself; the model server reports what it does for other stages.

    The store that a stage names is that of a backend: `KV_CACHE` for files, `KV_OBJECTS` for objects. There is no memory in
    front: what it deletes, the model server no longer finds (`memory.py`).
    """

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._endpoints = endpoints
        self._backend = next(backend for make in BACKENDS.values() if (backend := make()).store == store)
        self.blocks = self._backend.open(store, endpoints, meter, wait=True)

    @property
    def in_use(self) -> bool:
        """Whether model servers store blocks there now."""
        return BACKENDS[self._endpoints.kv_backend]().store == self.store

    @cached_property
    def timely(self) -> BlockStore:
        """The same blocks; calls end within seconds even if storage does not answer."""
        return self._backend.open(self.store, self._endpoints, self.meter, wait=False)

    def with_meter(self, meter: Meter) -> Self:
        """The same handle with another meter."""
        return type(self)(self.store, self._endpoints, meter)
