"""The contract of a block store, held against files and against memory; and a cache on either."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.catalog import KV_CACHE
from headrace.errors import HeadraceError, NotFound
from headrace.models.kv.blocks import BACKENDS, BlockInfo, BlockStore, BlockWriter, FileBlocks, tenant_prefix
from headrace.models.kv.cache import BLOCK, KvCache, Shape, pack
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

    def oldest(self, most: int, tenant: str | None = None) -> list[BlockInfo]:
        prefix = "" if tenant is None else tenant_prefix(tenant)
        found = [info for _, info in self._held.values() if info.name.startswith(prefix)]
        return sorted(found, key=lambda info: info.used)[:most]

    def bytes(self, tenant: str) -> tuple[int, int]:
        every, own = held(self), self.oldest(len(self._held), tenant)
        return sum(info.bytes for info in every), sum(info.bytes for info in own)

    def evict(self, block: BlockInfo) -> bool:
        if block.name in self._held and self._held[block.name][1].used > block.used:
            return False
        self.delete(block.name)
        return True

    def delete(self, name: str) -> None:
        self._held.pop(name, None)

    def drop(self, tenant: str, note: Callable[[Sequence[BlockInfo]], None]) -> int:
        found = self.oldest(len(self._held), tenant)
        note(found)
        for info in found:
            self.delete(info.name)
        return len(found)


def held(store: BlockStore) -> list[BlockInfo]:
    """All blocks, by name."""
    return sorted(store.oldest(10_000), key=lambda info: info.name)


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
    assert [(info.name, info.bytes) for info in held(store)] == [("acme/a", 3)]
    store.delete("acme/a")
    store.delete("acme/a")
    assert (store.get("acme/a"), held(store)) == (None, [])
    with pytest.raises(HeadraceError):
        store.touch("acme/a")


def test_the_blocks_used_least_recently_are_named_of_all_tenants_or_of_one(store: BlockStore) -> None:
    names = ["acme/a", "globex/b", "acme/c", "globex/d", "acme/e"]
    for name in names:
        store.put(name, b"1")
    for name in reversed(names):  # so the first is the newest
        store.touch(name)
        time.sleep(0.02)  # more than a tick of the file system's clock
    assert {info.name for info in store.oldest(2)} == {"acme/e", "globex/d"}
    assert {info.name for info in store.oldest(2, "acme")} == {"acme/e", "acme/c"}
    assert store.oldest(0) == store.oldest(5, "initech") == []


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
    assert sorted(info.name for info in held(store)) == sorted(["acme/late", "acme2/a", f"{tenant_prefix('')}a"])
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
    assert len(held(store)) == 1
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
    size = held(store)[0].bytes
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


def test_a_block_that_was_used_since_it_was_listed_stays(store: BlockStore) -> None:
    for name in ("acme/aa/a", "acme/bb/b"):
        store.put(name, b"1")
    used, unused = held(store)
    time.sleep(0.02)  # more than a tick of the file system's clock
    store.touch(used.name)
    assert (store.evict(used), store.evict(unused)) == (False, True)
    assert [info.name for info in held(store)] == [used.name]


def zeros(tokens: list[int]) -> np.ndarray:
    return np.zeros(SHAPE.array(len(tokens)), np.float32)


def test_the_limit_holds_for_two_servers_on_one_directory_and_a_twentieth_goes_at_once(tmp_path: Path) -> None:
    endpoints = Endpoints.model_construct(files_dir=tmp_path, kv_backend="files")
    stores = [BACKENDS["files"]().open(KV_CACHE, endpoints, Meter(Ledger(), "test"), wait=False) for _ in range(2)]
    size = len(pack("0" * 64, zeros([0] * BLOCK), SHAPE, b"s"))
    counts = []
    for number in range(60):
        cache = KvCache(stores[number % 2], identity="m", tenant="acme", shape=SHAPE, secret=b"s", limit_bytes=40 * size)
        assert cache.save([number] * BLOCK, zeros([0] * BLOCK), restored=0) == 1
        counts.append(sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) // size)
    assert max(counts) == 40
    assert counts[40:] == [38 + number % 3 for number in range(20)]
    lately = KvCache(stores[0], identity="m", tenant="acme", shape=SHAPE, secret=b"s", limit_bytes=40 * size)
    found = [bool(lately.restore([number] * BLOCK, zeros([0] * BLOCK))) for number in range(60)]
    assert found == sorted(found), "the oldest are gone"


def test_a_limit_that_was_lowered_is_reached_over_several_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.models.kv.cache._EVICTED", 10)
    store = FileBlocks(files(tmp_path))
    size = len(pack("0" * 64, zeros([0] * BLOCK), SHAPE, b"s"))
    counts = []
    for number in range(34):
        limit = (30 if number < 30 else 5) * size
        cache = KvCache(store, identity="m", tenant="acme", shape=SHAPE, secret=b"s", limit_bytes=limit)
        cache.save([number] * BLOCK, zeros([0] * BLOCK), restored=0)
        counts.append(len(held(store)))
    assert counts[29:] == [30, 20, 10, 5, 5]


def test_a_save_reads_the_directories_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.storage.listing._SETTLED_S", 0.0)
    writer = files(tmp_path)
    listed = writer.listing()
    store = FileBlocks(writer, listed)
    for number in range(300):
        store.put(f"globex/{number % 100:02x}/{number}", b"1")
    store.bytes("acme")
    store.bytes("acme")
    cache = KvCache(store, identity="m", tenant="acme", shape=SHAPE, secret=b"s", limit_bytes=1 << 30)
    for number in range(5):
        before = listed.read
        cache.save([number] * BLOCK, zeros([0] * BLOCK), restored=0)
        assert listed.read - before <= 4, "the root, its tenant, and what the save before wrote to"
