"""The contract of a block store, held against files and against memory; and a cache on either."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.catalog import KV_CACHE
from headrace.errors import HeadraceError, NotFound
from headrace.models.kv.blocks import BACKENDS, BlockInfo, BlockStore, BlockWriter, FileBlocks, tenant_prefix
from headrace.models.kv.cache import BLOCK, KvCache, Shape
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

SHAPE = Shape(1, 1, 2)


class MemoryBlocks:
    """Blocks in this process's memory: all that a backend takes."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[bytes, BlockInfo]] = {}
        self._clock = itertools.count(1.0)

    def get(self, name: str) -> bytes | None:
        return self._held[name][0] if name in self._held else None

    def put(self, name: str, data: bytes) -> None:
        self._held[name] = data, BlockInfo(name, len(data), next(self._clock))

    def touch(self, name: str) -> None:
        if name not in self._held:
            raise NotFound(f"There is no block {name}.", hint="It was evicted.")
        data, info = self._held[name]
        self._held[name] = data, replace(info, used=next(self._clock))

    def list(self) -> list[BlockInfo]:
        return [info for _, info in self._held.values()]

    def delete(self, name: str) -> None:
        self._held.pop(name, None)

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        found = [info for info in self.list() if info.name.startswith(tenant_prefix(tenant))]
        note(found)
        for info in found:
            self.delete(info.name)
        return len(found)


def files(folder: Path) -> FileWriter:
    return FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=folder), Meter(Ledger(), "test"))


@pytest.fixture(params=[*BACKENDS, "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlockStore:
    """Each backend, and one of the tests' own: the cache must not depend on files."""
    if request.param == "memory":
        return MemoryBlocks()
    endpoints = Endpoints.model_construct(files_dir=tmp_path, kv_backend=request.param)
    return BACKENDS[request.param]().open(KV_CACHE, endpoints, Meter(Ledger(), "test"), wait=True)


def test_a_block_is_put_listed_read_and_deleted(store: BlockStore) -> None:
    assert store.get("acme/a") is None
    store.put("acme/a", b"12")
    store.put("acme/a", b"123")
    assert store.get("acme/a") == b"123"
    assert [(info.name, info.bytes) for info in store.list()] == [("acme/a", 3)]
    store.delete("acme/a")
    store.delete("acme/a")
    assert (store.get("acme/a"), store.list()) == (None, [])
    with pytest.raises(HeadraceError):
        store.touch("acme/a")


def test_a_tenant_is_dropped_alone_and_noted_before_it_goes(store: BlockStore) -> None:
    for name in ("acme/a", "acme/b", "acme2/a", f"{tenant_prefix('')}a"):
        store.put(name, b"12345")
    noted: list[str] = []

    def note(blocks: Sequence[BlockInfo]) -> None:
        noted.extend(sorted(block.name for block in blocks))
        assert all(store.get(block.name) == b"12345" for block in blocks)
        store.put("acme/late", b"1")

    assert store.drop("acme", note) == 2
    assert noted == ["acme/a", "acme/b"]
    assert sorted(info.name for info in store.list()) == sorted(["acme/late", "acme2/a", f"{tenant_prefix('')}a"])
    assert store.drop("", lambda blocks: None) == 1


def test_what_cannot_be_noted_is_not_dropped(store: BlockStore) -> None:
    store.put("acme/a", b"1")

    def note(blocks: Sequence[BlockInfo]) -> None:
        raise ValueError("the journal is full")

    with pytest.raises(ValueError, match="full"):
        store.drop("acme", note)
    assert store.get("acme/a") == b"1"


def test_a_half_written_file_is_no_block_and_is_dropped_with_its_tenant(tmp_path: Path) -> None:
    store = FileBlocks(files(tmp_path))
    store.put("acme/ab/a", b"1")
    (tmp_path / KV_CACHE.name / "acme" / "ab" / ".part-1-b").write_bytes(b"half")
    assert len(store.list()) == 1
    assert store.drop("acme", lambda blocks: None) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_restores_and_evicts_on_any_store(store: BlockStore) -> None:
    def cache(limit: int = 1 << 20) -> KvCache:
        return KvCache(store, identity="m", tenant="acme", shape=SHAPE, secret=b"s", limit_bytes=limit)

    tokens, other = list(range(2 * BLOCK)), [7] * BLOCK
    values = SHAPE.rounded(np.random.default_rng(1).standard_normal(SHAPE.array(2 * BLOCK), dtype=np.float32)).astype(np.float32)
    assert cache().save(tokens, values, restored=0) == 2
    into = np.zeros_like(values)
    assert cache().restore(tokens, into) == 2 * BLOCK
    assert np.array_equal(into, values)
    size = store.list()[0].bytes
    assert cache(2 * size).save(other, values, restored=0) == 1
    assert cache().restore(tokens, into) == BLOCK, "the prefix's last block went first"


def test_every_backend_opens(tmp_path: Path) -> None:
    for name, backend in BACKENDS.items():
        endpoints, ledger = Endpoints.model_construct(files_dir=tmp_path, kv_backend=name), Ledger()
        patient = BlockWriter(KV_CACHE, endpoints, Meter(ledger, "forget")).with_meter(Meter(ledger, "drop"))
        quick = backend().open(KV_CACHE, endpoints, Meter(ledger, "models"), wait=False)
        quick.put("acme/a", b"1")
        assert patient.blocks.get("acme/a") == b"1"
        assert {row["stage"] for row in ledger.export()} == {"models", "drop"}
