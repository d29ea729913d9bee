"""The KV cache in a directory that others may write to, and on a mount that hangs: never a wrong answer, never a long wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.catalog import KV_CACHE
from headrace.models.kv.blocks import FileBlocks
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape, pack
from headrace.storage import files as files_module
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.files import READ_S, FileWriter, Mount, ReadBuffer, TimedFiles, WatchedWork
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

SHAPE = Shape(1, 1, 2)
TOKENS = list(range(2 * BLOCK))
VALUES = SHAPE.rounded(np.random.default_rng(1).standard_normal(SHAPE.array(2 * BLOCK), dtype=np.float32))


def endpoints(folder: Path) -> Endpoints:
    nobody = ModelEndpoint(url="http://127.0.0.1:1/v1", model="m")
    names = (
        "s3_endpoint",
        "s3_access_key",
        "s3_secret_key",
        "s3_region",
        "bucket",
        "catalog_uri",
        "warehouse",
        "kafka_bootstrap",
    )
    texts = dict.fromkeys((*names, "vectors_uri"), "")
    return Endpoints(**texts, files_dir=folder, kv_cache_bytes=0, embedder=nobody, reranker=nobody, generator=nobody)


def cache(files: FileWriter, secret: bytes = b"ours") -> KvCache:
    return KvCache(FileBlocks(files), identity="m", tenant="acme", shape=SHAPE, secret=secret, limit_bytes=1 << 30)


def plain(folder: Path) -> FileWriter:
    return FileWriter(KV_CACHE, endpoints(folder), Meter(Ledger(), "test"))


def timed(folder: Path, mount: Mount | None = None) -> TimedFiles:
    return TimedFiles(KV_CACHE, endpoints(folder), Meter(Ledger(), "test"), mount or Mount())


def restored(of: KvCache) -> tuple[int, np.ndarray]:
    into = np.zeros(SHAPE.array(2 * BLOCK), np.float32)
    return of.restore(TOKENS, into), into


def blocks(folder: Path) -> list[Path]:
    return sorted((folder / "kv-cache").rglob("*.safetensors"), key=lambda path: int(path.name.split(".")[-2]))


def test_a_block_that_somebody_planted_is_not_read(tmp_path: Path) -> None:
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    first = blocks(tmp_path)[0]
    key = first.name.split(".")[0]
    first.write_bytes(pack(key, np.full(SHAPE.array(BLOCK), 7.0, np.float32), SHAPE, b"a guess"))  # the format is no secret
    count, into = restored(cache(plain(tmp_path)))
    assert count == 0
    assert not into.any()
    assert not first.exists()


def test_homes_that_share_a_directory_neither_read_nor_delete_one_anothers_blocks(tmp_path: Path) -> None:
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    assert restored(cache(plain(tmp_path), b"another home's"))[0] == 0
    count, into = restored(cache(plain(tmp_path)))
    assert count == 2 * BLOCK
    assert np.array_equal(into, VALUES)


def test_a_pipe_in_the_place_of_a_block_is_a_miss_at_once_and_is_written_over(tmp_path: Path) -> None:
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    second = blocks(tmp_path)[1]
    second.unlink()
    os.mkfifo(second)
    started = time.monotonic()
    assert restored(cache(plain(tmp_path)))[0] == BLOCK
    assert time.monotonic() - started < READ_S, "nobody writes to that pipe"
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=BLOCK)
    assert restored(cache(plain(tmp_path)))[0] == 2 * BLOCK


def test_a_file_of_terabytes_in_the_place_of_a_block_is_a_miss(tmp_path: Path) -> None:
    """It takes no space on the disk; read as a whole, it took all memory, for longer than the deadline."""
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    second = blocks(tmp_path)[1]
    os.truncate(second, 1 << 42)
    assert restored(cache(plain(tmp_path)))[0] == BLOCK
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=BLOCK)
    assert restored(cache(plain(tmp_path)))[0] == 2 * BLOCK


def test_of_an_oversized_file_no_more_is_read_than_a_block_may_have(tmp_path: Path) -> None:
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    os.truncate(blocks(tmp_path)[0], 1 << 30)
    files = plain(tmp_path)
    assert restored(cache(files))[0] == 0
    (read,) = (row.bytes for row in files.meter.ledger.rows() if row.direction == "read" and row.bytes)
    assert read <= SHAPE.stored_bytes + 1


@pytest.mark.parametrize("cached", [0, None], ids=["not cached", "a file system that does not say"])
@pytest.mark.parametrize("planted", ["nothing", "a pipe", "a folder", "a file of terabytes"])
def test_what_is_asked_for_ahead_may_be_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, cached: int | None
) -> None:
    """Where a block is not in the page cache, the kernel is asked for the next one, too."""
    monkeypatch.setattr("headrace.storage.files._read_cached", lambda descriptor, room: cached)
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    count, into = restored(cache(plain(tmp_path)))
    assert (count, np.array_equal(into, VALUES)) == (2 * BLOCK, True)
    second = blocks(tmp_path)[1]
    second.unlink()
    if planted == "a pipe":
        os.mkfifo(second)
    elif planted == "a folder":
        second.mkdir()
    elif planted != "nothing":
        second.touch()
        os.truncate(second, 1 << 42)
    count, into = restored(cache(plain(tmp_path)))
    assert count == BLOCK
    assert np.array_equal(into[..., :BLOCK, :], VALUES[..., :BLOCK, :])


def test_blocks_that_come_from_a_disk_are_asked_for_one_after_the_other_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were asked for are there when they are read; the next one is then asked for all the same."""
    asked: list[str] = []

    class Asking(FileWriter):
        def _ask_for(self, buffer: ReadBuffer, key: str, most: int) -> None:
            asked.append(key.rpartition("/")[2].split(".")[1])
            super()._ask_for(buffer, key, most)

    tokens = list(range(4 * BLOCK))
    values = np.zeros(SHAPE.array(4 * BLOCK), np.float32)
    files = Asking(KV_CACHE, endpoints(tmp_path), Meter(Ledger(), "test"))
    cache(files).save(tokens, values, restored=0)
    read = files_module._read_cached
    assert cache(files).restore(tokens, values) == 4 * BLOCK
    cold = ["0"]

    def read_cached(descriptor: int, room: memoryview) -> int | None:
        """The first look finds nothing in the page cache."""
        return 0 if cold and cold.pop() else read(descriptor, room)

    in_cache = list(asked)
    monkeypatch.setattr(files_module, "_read_cached", read_cached)
    assert cache(files).restore(tokens, values) == 4 * BLOCK
    assert asked[len(in_cache) :] == ["1", "2", "3"]
    assert in_cache in ([], ["1", "2", "3"]), "all of them or none: it depends on whether the file system says"


class Late(TimedFiles):
    """Files of which the first read that is begun waits, after it has opened its file, until it is `freed`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(KV_CACHE, endpoints(folder), Meter(Ledger(), "test"), Mount())
        self.freed, self.done = threading.Event(), threading.Event()
        self._first = True

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[int, int]]:
        first, self._first = self._first, False
        with super()._opened(path) as opened:
            if first:
                self.freed.wait(60)
            yield opened
        if first:
            self.done.set()


def test_a_read_that_ends_too_late_writes_into_no_block_that_is_read_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is used for one read after the other, but not while a read that was given up may still write to it."""
    monkeypatch.setattr("headrace.storage.files.READ_S", 0.2)
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    other = [9] * BLOCK
    cache(plain(tmp_path)).save(other, VALUES[..., BLOCK:, :], restored=0)
    files = Late(tmp_path)
    store = FileBlocks(files)
    ours = KvCache(store, identity="m", tenant="acme", shape=SHAPE, secret=b"ours", limit_bytes=1 << 30)
    assert restored(ours)[0] == 0, "it took too long"
    into = np.zeros(SHAPE.array(BLOCK), np.float32)

    def fill(part: np.ndarray, values: np.ndarray) -> None:
        files.freed.set()
        assert files.done.wait(60)
        np.copyto(part, values)

    assert ours.restore(other, into, fill=fill) == BLOCK
    assert np.array_equal(into, VALUES[..., BLOCK:, :])


def test_a_read_that_ends_too_late_changes_nothing_that_was_restored_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.storage.files.READ_S", 0.2)
    cache(plain(tmp_path)).save(TOKENS, VALUES, restored=0)
    files = Late(tmp_path)
    into = np.zeros(SHAPE.array(len(TOKENS)), np.float32)
    before = set(threading.enumerate())
    assert cache(files).restore(TOKENS, into) == 0
    files.freed.set()
    assert files.done.wait(60)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert not into.any()


def test_a_deadline_is_that_of_each_part_and_nothing_is_done_once_it_has_passed() -> None:
    progress = WatchedWork()
    progress.at -= 100.0
    assert progress.part(lambda: True)
    assert not progress.give_up(50.0), "a part has just ended"
    progress.at -= 100.0
    assert progress.give_up(50.0)
    done: list[int] = []
    assert not progress.part(lambda: not done.append(1))
    assert done == []


def test_a_prefix_is_read_by_one_thread_with_a_deadline(tmp_path: Path) -> None:
    files = TimedFiles(KV_CACHE, endpoints(tmp_path), Meter(Ledger(), "test"), Mount())
    cache(files).save(TOKENS, VALUES, restored=0)
    threads: list[int] = []
    into = np.zeros(SHAPE.array(len(TOKENS)), np.float32)

    def fill(part: np.ndarray, values: np.ndarray) -> None:
        threads.append(threading.get_ident())
        np.copyto(part, values)

    assert cache(files).restore(TOKENS, into, fill=fill) == 2 * BLOCK
    assert len(threads) == 2
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


class Hanging(TimedFiles):
    """Files whose disk stops to answer once `hangs` is set."""

    hangs = threading.Event()
    freed = threading.Event()
    calls = 0

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[int, int]]:
        if self.hangs.is_set():
            type(self).calls += 1
            self.freed.wait(60)
        with super()._opened(path) as opened:
            yield opened


@pytest.mark.parametrize("questions", [6])
def test_a_mount_that_hangs_costs_a_deadline_or_two_and_is_then_left_alone(tmp_path: Path, questions: int) -> None:
    mount = Mount()
    meter = Meter(Ledger(), "test")
    files = Hanging(KV_CACHE, endpoints(tmp_path), meter, mount)
    cache(files).save(TOKENS, VALUES, restored=0)
    assert restored(cache(files))[0] == 2 * BLOCK
    Hanging.hangs.set()
    try:
        took: Sequence[float] = []
        for _ in range(questions):
            started = time.monotonic()
            assert restored(cache(files))[0] == 0
            took = [*took, time.monotonic() - started]
        assert all(seconds < 2 * READ_S for seconds in took)
        assert all(seconds < 0.5 for seconds in took[2:])
        assert Hanging.calls == 2, "threads do not pile up"
    finally:
        Hanging.freed.set()
