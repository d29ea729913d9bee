"""Reading and writing Kafka record batches without a client: https://kafka.apache.org/documentation/#recordbatch."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from array import array
from collections.abc import Iterator

import pyarrow as pa

_HEAD = struct.Struct(">qiibIhiqqqhii")  # batch header: first offset, length, …, magic, checksum, attributes, …, records
_LENGTH_BEHIND, _CHECKED_FROM = 12, 21  # byte offsets from which the length field counts and the checksum is computed
_CODEC = 0b111  # bits of the attributes: none, gzip, Snappy, LZ4, Zstandard
_MAGIC = 2
_TIMES, _CONTROL = 0x08, 0x20  # attribute bits: timestamps are the broker's; control batch (transaction markers, no events)
_MARK_KEY = 4  # minimum length of a transaction marker's key
_SNAPPY_FRAME = b"\x82SNAPPY\0"
_UNPACKED_BYTES = 64 << 20  # largest unpacked batch accepted; clients write batches of 1 MB
HEAD_BYTES = _HEAD.size
_BROKEN = (ValueError, IndexError, OSError, zlib.error)  # Arrow raises ValueError and OSError


def compressed(head: bytes) -> bool:
    """Whether a batch is compressed according to its header, the first `HEAD_BYTES`."""
    return len(head) == HEAD_BYTES and bool(_HEAD.unpack(head)[5] & _CODEC)


def offsets(head: bytes) -> int:
    """How many offsets a batch takes, of which these are the first `HEAD_BYTES`."""
    return int(_HEAD.unpack(head)[6]) + 1


def readable(data: bytes) -> bool:
    """Whether a client can read a batch within reasonable memory."""
    if len(data) < HEAD_BYTES:
        return False
    _, length, _, magic, _, _, last, *_, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or not 1 <= count <= last + 1 or length != len(data) - _LENGTH_BEHIND:
        return False
    ends, records = _walked(data, last)
    return len(ends) == count and ends[-1] == len(records)


def holding(data: bytes, kept: int, first: int, count: int) -> bytes:
    """A replacement for the unreadable batch `data`, with `count` offsets from `first`.

    Its last record holds the first `kept` bytes of `data`. Readable records before that are kept if they fit in `kept` bytes:
    they may have landed, and a lander recognises the head by the last landed record.
    """
    ends, records = _walked(data, count - 2)
    attributes, begun, newest = 0, (now := int(time.time() * 1000)), now
    if ends and ends[-1] <= kept:
        _, _, _, _, _, attributes, _, begun, newest, *_ = _HEAD.unpack_from(data)
    else:
        ends, records = array("q"), b""
    value = data[:kept]
    body = b"\0" + _zigzag(0) + _zigzag(count - 1) + _zigzag(-1) + _zigzag(len(value)) + value + _zigzag(0)
    header = struct.pack(">hiqqqhii", attributes & _TIMES, count - 1, begun, newest, -1, -1, -1, len(ends) + 1)
    checked = header + records[: ends[-1] if ends else 0] + _zigzag(len(body)) + body
    length = _CHECKED_FROM - _LENGTH_BEHIND + len(checked)
    return struct.pack(">qiibI", first, length, -1, 2, _crc32c(checked)) + checked


def _walked(data: bytes, last: int) -> tuple[array[int], bytes]:
    """A batch's unpacked records and where each ends, up to one that is unreadable or has an offset delta beyond `last`."""
    ends, records, before = array("q"), b"", -1
    if len(data) < HEAD_BYTES:
        return ends, records
    _, length, _, magic, _, attributes, *_, count = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        return ends, records
    with contextlib.suppress(*_BROKEN):
        records = _unpacked(attributes & _CODEC, data[HEAD_BYTES : max(HEAD_BYTES, _LENGTH_BEHIND + length)])
        for _ in range(count):
            before, end = _record(records, ends[-1] if ends else 0, range(before + 1, last + 1), attributes)
            ends.append(end)
    return ends, records


def _unpacked(codec: int, data: bytes) -> bytes:
    """The unpacked records of a batch, at most `_UNPACKED_BYTES`. Raises the codecs' errors and `ValueError`."""
    match codec:
        case 0:
            return data
        case 1:
            gzip = zlib.decompressobj(31)
            unpacked = gzip.decompress(data, _UNPACKED_BYTES + 1)
            if not gzip.eof:
                raise ValueError("it is cut off, or its decompressed size exceeds the limit")
        case 2:
            unpacked = b"".join(_snappy(piece) for piece in _framed(data))
        case 3 | 4:
            unpacked = pa.CompressedInputStream(pa.BufferReader(data), {3: "lz4", 4: "zstd"}[codec]).read(_UNPACKED_BYTES + 1)
        case _:
            raise ValueError(f"there is no codec {codec}")
    if len(unpacked) > _UNPACKED_BYTES:
        raise ValueError("its decompressed size exceeds the limit")
    return bytes(unpacked)


def _framed(data: bytes) -> Iterator[bytes]:
    """The Snappy blocks: one, or several in the frame format of Java clients."""
    if not data.startswith(_SNAPPY_FRAME):
        yield data
        return
    at = len(_SNAPPY_FRAME) + 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise ValueError("it is cut off")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _snappy(data: bytes) -> bytes:
    size = shift = at = 0
    while True:  # the unpacked size comes first
        byte = data[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if size > _UNPACKED_BYTES:
        raise ValueError("its decompressed size exceeds the limit")
    return bytes(pa.decompress(data, size, "snappy", asbytes=True))


def _record(data: bytes, at: int, deltas: range, attributes: int) -> tuple[int, int]:
    """The offset delta of the record at `at`, and where the record ends. Raises `IndexError` if it is not a record."""
    size, begun = _varint(data, at)
    _, at = _varint(data, begun + 1)  # timestamp delta, after the record's attributes
    delta, at = _varint(data, at)
    key, _ = _varint(data, at)
    at = _past(data, _past(data, at))  # key and value
    headers, at = _varint(data, at)
    if delta not in deltas or not 0 <= headers <= size or (attributes & _CONTROL and key < _MARK_KEY):
        raise IndexError
    for _ in range(2 * headers):
        at = _past(data, at)
    if at != begun + size or at > len(data):
        raise IndexError
    return delta, at


def _past(data: bytes, at: int) -> int:
    """The position after a length-prefixed byte string; length -1 means null."""
    size, at = _varint(data, at)
    if size < -1 or at + size > len(data):
        raise IndexError
    return at + max(0, size)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
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
    """CRC-32C (RFC 3720, appendix B.4), byte by byte: rewritten batches are short and rare."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
