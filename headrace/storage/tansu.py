"""Direct access to the objects in which Tansu, the embedded head, stores its batches: deletes and rewrites them.

Tansu 0.6.0 has no DeleteRecords, and each fetch lists every batch of the partition: with 3,000 batches it returns 170 records per
second, with 1,000 it returned 1,600. The layout is not documented and was found by inspection:
`clusters/CLUSTER/topics/TOPIC/partitions/NUMBER/` has `watermark.json`, in which `low` is the partition's first offset (null: 0)
and `high` the next one, replaced by compare-and-swap on its etag, by Tansu too; and `records/OFFSET.batch`, named by its first
offset: the record batch as it was sent.

Tansu stores a batch from any program that knows its port, without reading it, even if no client can read it. Those are rewritten
here.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore
from obstore import exceptions as faults

from headrace.catalog import Store
from headrace.errors import LostRace, Unavailable
from headrace.storage import record_batch
from headrace.storage.endpoints import RecordStore
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.objects import shared
from headrace.storage.reason import reason

_AT_ONCE = 1_000  # batches inspected when one blocks readers
_READS_AT_ONCE = 8
_DELETED_AT_ONCE = 1_000  # keys per S3 request
_KEPT_BYTES = 64 << 10  # bytes kept of a rewritten batch
_TRIES = 50
_AGAIN_S = 0.02  # Tansu replaces the watermark with each batch it accepts


class TansuRecords:
    """The stored records of one topic of the embedded head, metered as that topic.

    Its methods raise `Unavailable` if the object store does not answer.
    """

    def __init__(self, store: RecordStore, cluster: str, topic: Store, meter: Meter) -> None:
        self._meter, self._store = meter, topic
        self._where = f"{store.endpoint}/{store.bucket}"
        self._topic = f"clusters/{cluster}/topics/{topic.name}/partitions"
        self._client = shared(store.endpoint, store.access_key, store.secret_key, store.region, store.bucket)

    def begins(self, partition: int) -> int:
        """The first offset of a partition.

        Tansu's own answer may be higher, because it depends on when a batch was last written.
        """
        try:
            watermark, _ = self._read(self._watermark(partition))
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return int(watermark["low"] or 0)

    def holds(self, partition: int, offset: int) -> bool:
        """Whether a batch has this offset or a later one.

        The reported end does not tell: Tansu counts a batch before it stores it. Killed, or without space, in between, it leaves
        offsets that no record will ever have.
        """
        try:
            batches = self._batches(partition)
            if not batches or batches[-1][0] >= offset:
                return bool(batches)
            first, path, size = batches[-1]
            head = self._beginning(path, min(size, record_batch.HEAD_BYTES))
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return len(head) < record_batch.HEAD_BYTES or first + record_batch.offsets(head) > offset

    def forget(self, partition: int, before: int) -> int:
        """Delete the batches that end at or below offset `before`; returns the partition's new first offset.

        That offset is raised first: if killed in between, the next call deletes the batches left below it.
        """
        try:
            paths = {first: path for first, path, _ in self._batches(partition)}
            wanted = max((offset for offset in paths if offset <= before), default=0)
            low = self._raise(self._watermark(partition), wanted)
            if gone := [path for offset, path in paths.items() if offset < low]:
                with self._meter.operation(self._store, Direction.WRITE) as operation:
                    operation.ops = -(-len(gone) // _DELETED_AT_ONCE)
                    obstore.delete(self._client, gone)
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return low

    def rewrite_foreign(self, partition: int, offset: int, *, compressed: bool = False) -> int:
        """Rewrite the unreadable batches from an offset on; returns how many.

        Each is replaced by one whose last record holds the beginning of the old batch and lands as a dead letter. With
        `compressed`, all compressed batches are inspected, otherwise the next thousand of any kind.
        """
        count = 0
        try:
            listed = self._batches(partition)
            firsts = [first for first, _, _ in listed]
            begin = max(0, bisect_right(firsts, offset) - 1)  # the batch that contains the offset, if any
            end = len(listed) if compressed else begin + _AT_ONCE

            def look(one: tuple[int, str, int]) -> bytes | None:
                """The batch if it has to be rewritten, else `None`."""
                _, path, size = one
                if compressed and not record_batch.compressed(self._beginning(path, min(size, record_batch.HEAD_BYTES))):
                    return None
                return None if record_batch.readable(data := self._beginning(path, size)) else data

            with ThreadPoolExecutor(_READS_AT_ONCE, "look") as pool:
                for index, data in enumerate(pool.map(look, listed[begin:end]), begin):
                    if data is None:
                        continue
                    first, path, _ = listed[index]
                    if index + 1 < len(firsts):
                        behind = firsts[index + 1]
                    else:
                        watermark, _ = self._read(self._watermark(partition))
                        behind = int(watermark["high"] or 0)
                    letter = record_batch.holding(data, _KEPT_BYTES, first, max(1, behind - first))
                    with self._meter.operation(self._store, Direction.WRITE) as operation:
                        obstore.put(self._client, path, letter)
                        operation.bytes = len(letter)
                    count += 1
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return count

    def _batches(self, partition: int) -> list[tuple[int, str, int]]:
        """(first offset, path, bytes) of every batch, in order."""
        found: list[tuple[int, str, int]] = []
        pages = obstore.list(self._client, prefix=f"{self._topic}/{partition:010d}/records")
        while True:
            with self._meter.operation(self._store, Direction.READ):
                page = next(iter(pages), None)
            if page is None:
                return sorted(found)
            found += [(int(str(m["path"]).rpartition("/")[2][:20]), str(m["path"]), int(m["size"])) for m in page]

    def _read(self, path: str) -> tuple[dict[str, Any], str]:
        """A JSON object and its etag."""
        with self._meter.operation(self._store, Direction.READ) as operation:
            answer = obstore.get(self._client, path)
            data = bytes(answer.bytes())
            operation.bytes = len(data)
        return json.loads(data), answer.meta["e_tag"] or ""

    def _beginning(self, path: str, size: int) -> bytes:
        with self._meter.operation(self._store, Direction.READ) as operation:
            data = bytes(obstore.get_range(self._client, path, start=0, end=size))
            operation.bytes = len(data)
        return data

    def _watermark(self, partition: int) -> str:
        return f"{self._topic}/{partition:010d}/watermark.json"

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"The object store of the head at {self._where} does not answer: {reason(error)}.",
            hint="Check that it runs (`headrace endpoints`) and run the command again.",
        )

    def _raise(self, path: str, low: int) -> int:
        """Raise the partition's first offset to `low` if it is lower; returns the first offset. Raises `LostRace`."""
        for _ in range(_TRIES):
            watermark, etag = self._read(path)
            low_now = int(watermark["low"] or 0)
            if low_now >= low:
                return low_now
            data = json.dumps(watermark | {"low": low}, separators=(",", ":")).encode()
            try:
                with self._meter.operation(self._store, Direction.WRITE) as operation:
                    obstore.put(self._client, path, data, mode={"e_tag": etag})
                    operation.bytes = len(data)
                return low
            except faults.PreconditionError:
                time.sleep(_AGAIN_S * random.random())
        raise LostRace(f"The head keeps changing {path}.", hint="Run the command again.")
