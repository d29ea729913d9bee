"""The embedded head's records where Tansu keeps them, an object a batch: what need not be kept is deleted there.

Tansu 0.6.0 has no DeleteRecords, and each fetch lists every batch of the partition: with 3,000 batches it hands out 170 records
a second where it did 1,600 with 1,000. How it keeps a partition is an outcome of looking, not of its documentation:
`clusters/CLUSTER/topics/TOPIC/partitions/NUMBER/` has `watermark.json`, in which `low` is the offset at which the partition
begins (null: 0) and `high` the one that comes next, replaced only where its etag still stands, by Tansu too; and
`records/OFFSET.batch`, named by its first offset: the record batch as it was sent (https://kafka.apache.org/documentation/#recordbatch).

Tansu takes a batch unread, also one that no client can read, from whoever knows its port. Such a one is rewritten here.
"""

from __future__ import annotations

import json
import random
import struct
import time
import zlib
from collections.abc import Iterator

import obstore
import pyarrow as pa
from obstore import exceptions as faults

from headrace.errors import LostRace, Unavailable
from headrace.storage.endpoints import RecordStore
from headrace.storage.objects import bucket_at
from headrace.storage.reason import reason

_HEAD = struct.Struct(">qiibIhiqqqhii")  # a batch's head: first offset, length, …, magic, checksum, attributes, …, records
_LENGTH_BEHIND, _CHECKED_FROM = 12, 21  # the length counts from here on, the checksum is of what comes from here on
_CODEC = 0b111  # of its attributes: 0, gzip, Snappy, LZ4, Zstandard
_SNAPPY_FRAME = b"\x82SNAPPY\0"
_UNPACKED_BYTES = 64 << 20  # that a batch may come to; clients make them of 1 MB
_AT_ONCE = 1_000  # batches that are looked at
_KEPT_BYTES = 64 << 10  # of one that is rewritten
_TRIES = 50
_AGAIN_S = 0.02  # Tansu replaces the watermark at each batch it takes


class TansuRecords:
    """The records of one topic of the embedded head. Its methods raise `Unavailable` where the object store does not answer."""

    def __init__(self, store: RecordStore, cluster: str, topic: str) -> None:
        self._where = f"{store.endpoint}/{store.bucket}"
        self._topic = f"clusters/{cluster}/topics/{topic}/partitions"
        self._client = bucket_at(store.endpoint, store.access_key, store.secret_key, store.region, store.bucket)

    def forget(self, partition: int, before: int) -> int:
        """Delete the batches that end at or below offset `before`; returns the offset at which the partition now begins.

        That is raised first: killed in between, batches are left below it, and the next call deletes them.
        """
        try:
            records = f"{self._topic}/{partition:010d}/records"
            paths = {
                int(meta["path"].rpartition("/")[2][:20]): meta["path"]
                for page in obstore.list(self._client, prefix=records)
                for meta in page
            }
            wanted = max((offset for offset in paths if offset <= before), default=0)
            low = self._raise(self._watermark(partition), wanted)
            if gone := [path for offset, path in paths.items() if offset < low]:
                obstore.delete(self._client, gone)
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return low

    def rewrite_foreign(self, partition: int, offset: int, *, whole: bool = True) -> int:
        """Rewrite the batches from an offset on that no client can read; returns how many those were.

        In the place of each stands then one record, its last, which holds what was there: it lands as a dead letter. Not
        `whole`, it is only looked whether they are compressed and unpack to more than a client should have in memory.
        """
        records = f"{self._topic}/{partition:010d}/records"
        count = 0
        try:
            listed = obstore.list(self._client, prefix=records, offset=f"{records}/{offset:020d}")
            paths = sorted((str(meta["path"]), int(meta["size"])) for page in listed for meta in page)[:_AT_ONCE]
            firsts = [int(path.rpartition("/")[2][:20]) for path, _ in paths]
            for place, (path, size) in enumerate(paths):
                data = bytes(obstore.get_range(self._client, path, start=0, end=size if whole else min(size, _HEAD.size)))
                if not whole and len(data) == _HEAD.size and _HEAD.unpack(data)[5] & _CODEC:
                    data = bytes(obstore.get_range(self._client, path, start=0, end=size))
                if not _foreign(data, whole=whole):
                    continue
                if place + 1 < len(paths):
                    behind = firsts[place + 1]
                else:
                    behind = int(json.loads(bytes(obstore.get(self._client, self._watermark(partition)).bytes()))["high"] or 0)
                obstore.put(self._client, path, _holding(data[:_KEPT_BYTES], firsts[place], max(1, behind - firsts[place])))
                count += 1
        except faults.BaseError as error:
            raise self._unavailable(error) from error
        return count

    def _watermark(self, partition: int) -> str:
        return f"{self._topic}/{partition:010d}/watermark.json"

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"The object store of the head at {self._where} does not answer: {reason(error)}.",
            hint="Check that it runs (`headrace endpoints`) and run the command again.",
        )

    def _raise(self, path: str, low: int) -> int:
        """Have the partition begin at `low`, or later where it does; returns where it begins. Raises `LostRace`."""
        for _ in range(_TRIES):
            answer = obstore.get(self._client, path)
            watermark, etag = json.loads(bytes(answer.bytes())), answer.meta["e_tag"]
            standing = int(watermark["low"] or 0)
            if standing >= low:
                return standing
            data = json.dumps(watermark | {"low": low}, separators=(",", ":")).encode()
            try:
                obstore.put(self._client, path, data, mode={"e_tag": etag})
                return low
            except faults.PreconditionError:
                time.sleep(_AGAIN_S * random.random())
        raise LostRace(f"The head writes {path} all the time.", hint="Run the command again.")


def _foreign(data: bytes, *, whole: bool) -> bool:
    """Whether no client can read a batch, or one would need too much memory for it; the latter alone where not `whole`."""
    if len(data) < _HEAD.size:
        return whole
    _, length, _, magic, _, attributes, last, *_, count = _HEAD.unpack_from(data)
    if whole and (magic != 2 or not 1 <= count <= last + 1 or length != len(data) - _LENGTH_BEHIND):
        return True
    try:
        records = _unpacked(attributes & _CODEC, data[_HEAD.size :])
        return whole and _walked(records, count, last) != len(records)
    except (ValueError, IndexError, OSError, zlib.error):  # Arrow's errors are the first and the third
        return True


def _unpacked(codec: int, data: bytes) -> bytes:
    """The records of a batch, at most `_UNPACKED_BYTES` of them. Raises what the codecs raise, and `ValueError`."""
    match codec:
        case 0:
            return data
        case 1:
            found = zlib.decompressobj(31).decompress(data, _UNPACKED_BYTES + 1)
        case 2:
            found = b"".join(_snappy(piece) for piece in _framed(data))
        case 3 | 4:
            found = pa.CompressedInputStream(pa.BufferReader(data), {3: "lz4", 4: "zstd"}[codec]).read(_UNPACKED_BYTES + 1)
        case _:
            raise ValueError(f"there is no codec {codec}")
    if len(found) > _UNPACKED_BYTES:
        raise ValueError("it unpacks to too much")
    return bytes(found)


def _framed(data: bytes) -> Iterator[bytes]:
    """The pieces of Snappy: one, or those of the frame that Java's clients put around them."""
    if not data.startswith(_SNAPPY_FRAME):
        yield data
        return
    at = len(_SNAPPY_FRAME) + 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _snappy(data: bytes) -> bytes:
    size = shift = at = 0
    while True:  # it begins with how much it unpacks to
        byte = data[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if size > _UNPACKED_BYTES:
        raise ValueError("it unpacks to too much")
    return bytes(pa.decompress(data, size, "snappy", asbytes=True))


def _walked(data: bytes, count: int, last: int) -> int:
    """Where the records of a batch end. Raises `IndexError` where they are none, or have other places than up to `last`."""
    at, before = 0, -1
    for _ in range(count):
        size, begun = _varint(data, at)
        _, at = _varint(data, begun + 1)  # behind the record's attributes: its time
        delta, at = _varint(data, at)
        at = _past(data, _past(data, at))  # key and value
        headers, at = _varint(data, at)
        if not before < delta <= last or not 0 <= headers <= size:
            raise IndexError
        before = delta
        for _ in range(2 * headers):
            at = _past(data, at)
        if at != begun + size or at > len(data):
            raise IndexError
    return at


def _past(data: bytes, at: int) -> int:
    """Behind some bytes that have their length in front; -1 is of none."""
    size, at = _varint(data, at)
    if size < -1 or at + size > len(data):
        raise IndexError
    return at + max(0, size)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in zigzag, seven bits to a byte, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        if shift > 63:
            raise IndexError


def _holding(value: bytes, first: int, count: int) -> bytes:
    """A batch that takes the offsets of another and has one record, at the last of them."""
    body = b"\0" + _zigzag(0) + _zigzag(count - 1) + _zigzag(-1) + _zigzag(len(value)) + value + _zigzag(0)
    record, now = _zigzag(len(body)) + body, int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", 0, count - 1, now, now, -1, -1, -1, 1) + record
    length = _CHECKED_FROM - _LENGTH_BEHIND + len(checked)
    return struct.pack(">qiibI", first, length, -1, 2, _crc32c(checked)) + checked


def _zigzag(number: int) -> bytes:
    left, out = (number << 1) ^ (number >> 63), bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes((*out, left))


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4), a byte at a time: what is rewritten is short, and rare."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
