"""One client of a live replay, in a process of its own: `python -m headrace.explain.kv.live_client`.

It reads a `ClientTask` as a line of JSON from standard input, waits for a second line, and writes lines of JSON: `{"done": 1}`
after each request and `{"figures": …}` at the end. It ends when standard input closes, as it does when the first process is
killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from headrace.catalog import Store, Tier
from headrace.errors import HeadraceError
from headrace.models.kv.backends import BACKENDS
from headrace.models.kv.blocks import BlockStore
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

TENANT = "replay"
_HEAD = 32 + 4
_WHOLE_EACH = 16
"""One block in so many is compared as a whole; of the others the length, the name and the end."""
_ROOM_EACH = 8
"""Blocks that are written before a client asks again how many bytes there are."""
_EVICTED = 256
_PROBES = 8


class ClientTask(BaseModel):
    """What a client does: requests (block ids, tokens of the prompt) against one store, until `seconds` are over."""

    model_config = ConfigDict(frozen=True)

    endpoints: Endpoints
    store: str
    tier: Tier
    block_bytes: int
    block_tokens: int
    capacity_bytes: int
    seconds: float
    drop_pages: bool
    requests: tuple[tuple[tuple[int, ...], int], ...]


class ClientFigures(BaseModel):
    """What a client did: seconds of each read and write, bytes, tokens, blocks, and how reads began (`cached`, `dropped`)."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    requests: int
    tokens: int
    tokens_found: int
    blocks: int
    blocks_found: int
    reads_s: tuple[float, ...]
    writes_s: tuple[float, ...]
    restores_s: tuple[float, ...]
    """Of each request that found a block: its reads together."""
    bytes_read: int
    bytes_written: int
    not_stored: int
    evicted: int
    damaged: int
    failed: int
    fault: str
    """The first error of storage; empty if there was none."""
    pages_cached: int
    pages_dropped: int
    processor_s: float
    ledger: tuple[dict[str, Any], ...]


def block_name(block: int) -> str:
    """The name of a trace's block, spread over directories like that of a real one."""
    digest = hashlib.sha256(str(block).encode()).hexdigest()
    return f"{TENANT}/{digest[:2]}/{digest}.0.safetensors"


def content(name: str, size: int) -> bytes:
    """The bytes of a block: its name, a checksum, and noise of its own, which storage cannot compress or share."""
    digest = hashlib.sha256(name.encode()).digest()
    body = np.random.default_rng(int.from_bytes(digest[:8])).bytes(max(0, size - _HEAD))
    return digest + zlib.crc32(body).to_bytes(4) + body


def is_intact(name: str, data: bytes, size: int, *, whole: bool) -> bool:
    """Whether these are the bytes that `content` made; with `whole`, every byte of them."""
    if len(data) != max(size, _HEAD) or data[:32] != hashlib.sha256(name.encode()).digest():
        return False
    return not whole or zlib.crc32(data[_HEAD:]) == int.from_bytes(data[32:_HEAD])


class ReplayClient:
    """Looks up each request's prefix, reads what is there, writes what is not, and evicts to stay within the capacity."""

    def __init__(self, task: ClientTask) -> None:
        self.task = task
        self.ledger = Ledger()
        store = Store(task.store, task.tier, "blocks of a replayed trace", "until the replay ends")
        self._blocks: BlockStore = BACKENDS[task.endpoints.kv_backend]().open(
            store, task.endpoints, Meter(self.ledger, "kv-replay", TENANT), wait=True
        )
        self._root = task.endpoints.files_dir / task.store if task.tier is Tier.FILE else None
        self._room = self._since = 0
        self._reads: list[float] = []
        self._writes: list[float] = []
        self._restores: list[float] = []
        self._found = self._found_tokens = self._asked = self._tokens = self._done = 0
        self._read = self._written = self._not_stored = self._evicted = self._damaged = self._failed = 0
        self._cached = self._dropped = 0
        self._fault = ""

    def run(self) -> Iterator[None]:
        """Handle the requests, one item for each, until the time is up."""
        end = time.monotonic() + self.task.seconds
        for blocks, tokens in self.task.requests:
            if time.monotonic() >= end:
                return
            names = [block_name(block) for block in blocks]
            found = self._restore(names, end)
            written = self._store(names[found:], end)
            self._use(names[: found + written])
            self._asked += len(names)
            self._found += found
            self._tokens += tokens
            self._found_tokens += min(found * self.task.block_tokens, tokens)
            self._done += 1
            yield

    def _restore(self, names: Sequence[str], end: float) -> int:
        spent, found = 0.0, 0
        for name in names:
            if time.monotonic() >= end:
                break
            if self._root is not None and self.task.drop_pages:
                self._drop_pages(self._root / name)
            began = time.perf_counter()
            try:
                data = self._blocks.get(name)
            except HeadraceError as error:
                self._fail(error)
                break
            took = time.perf_counter() - began
            if data is None:
                break
            self._reads.append(took)
            self._read += len(data)
            spent += took
            if not is_intact(name, data, self.task.block_bytes, whole=len(self._reads) % _WHOLE_EACH == 1):
                self._damaged += 1
                self._blocks.delete(name)
                break
            found += 1
        if found:
            self._restores.append(spent)
        return found

    def _store(self, names: Sequence[str], end: float) -> int:
        for number, name in enumerate(names):
            if time.monotonic() >= end:
                return number
            try:
                if not self._has_room():  # what follows would be of no use without this block
                    self._not_stored += len(names) - number
                    return number
                data = content(name, self.task.block_bytes)
                began = time.perf_counter()
                self._blocks.put(name, data)
            except HeadraceError as error:
                self._fail(error)
                return number
            self._writes.append(time.perf_counter() - began)
            self._written += len(data)
            self._room -= len(data)
        return len(names)

    def _use(self, names: Sequence[str]) -> None:
        """Record a use, the last block first, as the cache does: the beginning of a prefix is evicted last."""
        for name in reversed(names):
            try:
                self._blocks.touch(name)
            except HeadraceError:  # evicted meanwhile
                return

    def _has_room(self) -> bool:
        size, capacity = self.task.block_bytes, self.task.capacity_bytes
        if self._room < size or self._since >= _ROOM_EACH:
            every, _ = self._blocks.bytes(TENANT)
            if every + size > capacity:
                spare = capacity // 20
                for block in sorted(self._blocks.oldest(_EVICTED), key=lambda block: block.used):
                    if every + size <= capacity - spare:
                        break
                    if self._blocks.evict(block):
                        every -= block.bytes
                        self._evicted += 1
            self._room, self._since = capacity - every, 0
        self._since += 1
        return self._room >= size

    def _drop_pages(self, path: Path) -> None:
        """Ask the kernel to drop a file's pages, and look at the first few files whether it did."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # not there, which the read then says
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if self._cached + self._dropped < _PROBES:
                try:
                    os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
                    self._cached += 1
                except BlockingIOError:
                    self._dropped += 1
        except OSError:  # a file system that cannot say
            pass
        finally:
            os.close(descriptor)

    def _fail(self, error: HeadraceError) -> None:
        self._failed += 1
        self._fault = self._fault or error.message

    def figures(self, seconds: float, processor_s: float) -> ClientFigures:
        """What was done in so many seconds of wall time and of this process's processor time."""
        return ClientFigures(
            seconds=seconds,
            requests=self._done,
            tokens=self._tokens,
            tokens_found=self._found_tokens,
            blocks=self._asked,
            blocks_found=self._found,
            reads_s=tuple(self._reads),
            writes_s=tuple(self._writes),
            restores_s=tuple(self._restores),
            bytes_read=self._read,
            bytes_written=self._written,
            not_stored=self._not_stored,
            evicted=self._evicted,
            damaged=self._damaged,
            failed=self._failed,
            fault=self._fault,
            pages_cached=self._cached,
            pages_dropped=self._dropped,
            processor_s=processor_s,
            ledger=tuple(self.ledger.export()),
        )


def main() -> None:
    """Do the task of standard input; end with the process that wrote it."""
    task = ClientTask.model_validate_json(sys.stdin.readline())
    client = ReplayClient(task)
    _say({"ready": True})
    if not sys.stdin.readline():
        return

    def until_closed() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=until_closed, daemon=True).start()
    began, used = time.perf_counter(), time.process_time()
    for _ in client.run():
        _say({"done": 1})
    figures = client.figures(time.perf_counter() - began, time.process_time() - used)
    _say({"figures": figures.model_dump(mode="json")})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
