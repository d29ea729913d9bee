"""Block stores without a server, held against the contract of all (`kv_contract.py`): files, memory in front, a dictionary."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kv_contract import CONTRACT, SHAPE, held, zeros

from headrace.catalog import KV_CACHE
from headrace.errors import NotFound
from headrace.models.kv.backends import BlockWriter, backend_of
from headrace.models.kv.blocks import BlockInfo, BlockStore, FileBackend, FileBlocks, tenant_prefix
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, pack
from headrace.models.kv.memory import BlockMemory, FrontedBlocks
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter


class PlainBlocks:
    """Blocks in a dictionary: all that a block store takes."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[bytes, BlockInfo]] = {}
        self._clock = itertools.count(1.0)

    def get(self, name: str) -> bytes | None:
        return self._held[name][0] if name in self._held else None

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        for name in names:
            if not use(self.get(name)):
                return

    def put(self, name: str, data: bytes) -> None:
        self._held[name] = data, BlockInfo(name, len(data), next(self._clock))

    def has(self, name: str) -> bool:
        return name in self._held

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


def files(folder: Path) -> FileWriter:
    return FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=folder), Meter(Ledger(), "test"))


@pytest.mark.parametrize("backend", ["files", "files that answer in time", "memory in front of files", "plain"])
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_every_store_keeps_the_contract(promise: Callable[[BlockStore], None], backend: str, tmp_path: Path) -> None:
    memory = 1 << 20 if "memory" in backend else 0
    endpoints = Endpoints.model_construct(files_dir=tmp_path, kv_backend="files", kv_memory_bytes=memory)
    if backend == "plain":
        promise(PlainBlocks())
    else:
        opened = backend_of(endpoints)
        promise(opened.open(opened.store, endpoints, Meter(Ledger(), "test"), wait="time" not in backend))


def test_a_half_written_file_is_no_block_and_is_dropped_with_its_tenant(tmp_path: Path) -> None:
    store = FileBlocks(files(tmp_path))
    store.put("acme/ab/a", b"1")
    (tmp_path / KV_CACHE.name / "acme" / "ab" / ".part-1-b").write_bytes(b"half")
    assert len(held(store)) == 1
    assert store.drop("acme", lambda blocks: None) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_killed_writer_left_goes_once_no_writer_can_be_at_it(tmp_path: Path) -> None:
    store = FileBlocks(files(tmp_path))
    store.put("acme/0a/block", b"whole")
    (folder,) = (path.parent for path in tmp_path.rglob("block"))
    left, being_written = folder / ".part-0-other", folder / ".part-1-other"
    for path in (left, being_written):
        path.write_bytes(b"half")
    os.utime(left, (time.time(), time.time() - 2 * 3600))
    assert store.bytes("acme") == (5, 5)
    assert sorted(path.name for path in folder.iterdir()) == [".part-1-other", "block"]


def test_a_stage_and_the_model_server_share_blocks_and_each_is_metered(tmp_path: Path) -> None:
    endpoints, ledger = Endpoints.model_construct(files_dir=tmp_path, kv_backend="files", kv_memory_bytes=0), Ledger()
    patient = BlockWriter(KV_CACHE, endpoints, Meter(ledger, "forget")).with_meter(Meter(ledger, "drop"))
    quick = backend_of(endpoints).open(KV_CACHE, endpoints, Meter(ledger, "models"), wait=False)
    quick.put("acme/a", b"1")
    assert patient.blocks.get("acme/a") == b"1"
    assert {row["stage"] for row in ledger.export()} == {"models", "drop"}


def test_blocks_are_read_into_memory_that_was_used_before(tmp_path: Path) -> None:
    backend = FileBackend()
    endpoints = Endpoints.model_construct(files_dir=tmp_path)
    rooms = set()
    for number in range(6):  # each prompt opens the store anew
        store = backend.open(KV_CACHE, endpoints, Meter(Ledger(), "test"), wait=number % 2 == 0)
        store.put("acme/a", bytes([number]) * 5_000)
        found: list[bytes | None] = []

        def use(data: bytes | memoryview | None, found: list[bytes | None] = found) -> bool:
            found.append(None if data is None else bytes(data))
            if data is not None:
                rooms.add(np.frombuffer(data, np.uint8).ctypes.data)
            return data is not None

        store.read_each(["acme/a", "acme/none", "acme/a"], 4_000, use)
        assert found == [bytes([number]) * 4_000, None], "nothing is read behind what is not there"
    assert len(rooms) == 1
    store.put("acme/b", b"b")
    both: list[bytes] = []

    def one(data: bytes | memoryview | None) -> bool:
        assert data is not None
        store.read_each(["acme/b"], 4_000, lambda other: bool(both.append(bytes(other or b""))))  # two prompts at a time
        both.append(bytes(data))
        return True

    store.read_each(["acme/a"], 4_000, one)
    assert both == [b"b", bytes([5]) * 4_000]


class CountedBlocks(PlainBlocks):
    """Counts reads."""

    reads = 0

    def get(self, name: str) -> bytes | None:
        self.reads += 1
        return super().get(name)


def test_what_memory_holds_is_not_read_again_but_only_while_the_store_behind_has_it() -> None:
    behind, memory = CountedBlocks(), BlockMemory(10)
    store = FrontedBlocks(behind, memory)
    store.put("acme/a", b"12345")
    assert (store.get("acme/a"), store.get("acme/a"), behind.reads) == (b"12345", b"12345", 0)
    behind.delete("acme/a")  # by another host, e.g. because its document was deleted
    assert (store.get("acme/a"), behind.reads, memory.use().bytes) == (None, 0, 0)
    behind.put("acme/b", b"123")
    assert (store.get("acme/b"), store.get("acme/b"), behind.reads) == (b"123", b"123", 1)
    assert (memory.use().hits, memory.use().hit_bytes, memory.use().misses) == (3, 13, 2)


def test_memory_holds_what_was_used_last_up_to_its_size_and_for_a_while() -> None:
    now = [0.0]
    memory = BlockMemory(10, kept_s=60, clock=lambda: now[0])
    for name in ("acme/a", "acme/b"):
        memory.put(name, b"12345")
    memory.hit("acme/a")
    memory.put("globex/c", b"12345")
    assert [memory.get(name) is not None for name in ("acme/a", "acme/b", "globex/c")] == [True, False, True]
    memory.put("acme/large", b"x" * 11)
    assert memory.get("acme/large") is None
    memory.put("globex/c", b"1")
    assert memory.use().bytes == 6
    memory.remove_tenant("acme")
    assert (memory.use().blocks, memory.use().bytes) == (1, 1)
    now[0] = 61.0
    memory.put("acme/new", b"1")
    assert (memory.get("globex/c"), memory.use().bytes) == (None, 1)


def test_the_limit_holds_for_two_servers_on_one_directory_and_a_twentieth_goes_at_once(tmp_path: Path) -> None:
    endpoints = Endpoints.model_construct(files_dir=tmp_path, kv_backend="files")
    stores = [FileBackend().open(KV_CACHE, endpoints, Meter(Ledger(), "test"), wait=False) for _ in range(2)]
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
