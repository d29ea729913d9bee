"""Kafka's record batch, as far as it is read and made without a client: https://kafka.apache.org/documentation/#recordbatch."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator

import pyarrow as pa

_HEAD = struct.Struct(">qiibIhiqqqhii")  # a batch's head: first offset, length, …, magic, checksum, attributes, …, records
_LENGTH_BEHIND, _CHECKED_FROM = 12, 21  # the length counts from here on, the checksum is of what comes from here on
_CODEC = 0b111  # of its attributes: 0, gzip, Snappy, LZ4, Zstandard
_SNAPPY_FRAME = b"\x82SNAPPY\0"
_UNPACKED_BYTES = 64 << 20  # that a batch may come to; clients make them of 1 MB
HEAD_BYTES = _HEAD.size
_BROKEN = (ValueError, IndexError, OSError, zlib.error)  # Arrow's errors are the first and the third


def compressed(head: bytes) -> bool:
    """Whether a batch, of which these are the first `HEAD_BYTES`, says that it is compressed."""
    return len(head) == HEAD_BYTES and bool(_HEAD.unpack(head)[5] & _CODEC)


def small(data: bytes) -> bool:
    """Whether a batch unpacks, and to no more than a client should have in memory; one that is not compressed does."""
    try:
        _records(data)
        return True
    except _BROKEN:
        return False


def readable(data: bytes) -> bool:
    """Whether a client can read a batch, and needs no more memory for it than it should."""
    if len(data) < HEAD_BYTES:
        return False
    _, length, _, magic, _, _, last, *_, count = _HEAD.unpack_from(data)
    if magic != 2 or not 1 <= count <= last + 1 or length != len(data) - _LENGTH_BEHIND:
        return False
    try:
        records = _records(data)
        return _walked(records, count, last) == len(records)
    except _BROKEN:
        return False


def holding(value: bytes, first: int, count: int) -> bytes:
    """A batch that takes `count` offsets from `first` on and has one record, `value`, at the last of them."""
    body = b"\0" + _zigzag(0) + _zigzag(count - 1) + _zigzag(-1) + _zigzag(len(value)) + value + _zigzag(0)
    record, now = _zigzag(len(body)) + body, int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", 0, count - 1, now, now, -1, -1, -1, 1) + record
    length = _CHECKED_FROM - _LENGTH_BEHIND + len(checked)
    return struct.pack(">qiibI", first, length, -1, 2, _crc32c(checked)) + checked


def _records(data: bytes) -> bytes:
    """The records of a batch, unpacked; none where it has no whole head."""
    return _unpacked(_HEAD.unpack_from(data)[5] & _CODEC, data[HEAD_BYTES:]) if len(data) >= HEAD_BYTES else b""


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
