"""A Kafka producer that writes what no client would: record batches by hand (https://kafka.apache.org/documentation/#recordbatch)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

from headrace.storage.endpoints import Endpoints

_PRODUCE, _VERSION = 0, 3


def varint(number: int) -> bytes:
    """A signed number as records have it: zigzag, seven bits to a byte."""
    left, out = (number << 1) ^ (number >> 63), b""
    while left > 0x7F:
        left, out = left >> 7, out + bytes([left & 0x7F | 0x80])
    return out + bytes([left])


def sized(data: bytes) -> bytes:
    """Bytes behind their length."""
    return varint(len(data)) + data


def record(value: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), delta: int = 0) -> bytes:
    """A record without a key; `delta` is its offset within its batch."""
    told = b"".join(sized(name) + sized(said) for name, said in headers)
    return sized(b"\0" + varint(0) + varint(delta) + varint(-1) + sized(value) + varint(len(headers)) + told)


def batch(*records: bytes, attributes: int = 0, magic: int = 2, count: int | None = None) -> bytes:
    """A batch that says it has `count` records. Its checksum is 0: neither Tansu nor our client compares it."""
    now, many = int(time.time() * 1000), len(records) if count is None else count
    tail = struct.pack(">hiqqqhii", attributes, many - 1, now, now, -1, -1, -1, many) + b"".join(records)
    head = struct.pack(">ibI", -1, magic, 0)
    return struct.pack(">qi", 0, len(head) + len(tail)) + head + tail


def produce(endpoints: Endpoints, topic: str, made: bytes) -> None:
    """Write a batch to partition 0. It needs the port only."""
    host, _, port = endpoints.kafka_bootstrap.partition(":")
    name = topic.encode()
    body = struct.pack(">hhi", -1, 1, 10_000) + struct.pack(">ih", 1, len(name)) + name
    body += struct.pack(">iii", 1, 0, len(made)) + made
    message = struct.pack(">hhih", _PRODUCE, _VERSION, 1, 1) + b"x" + body
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        answer = connection.makefile("rb")
        told = answer.read(struct.unpack(">i", answer.read(4))[0])
    (fault,) = struct.unpack_from(">h", told, 4 + 4 + 2 + len(name) + 4 + 4)
    assert fault == 0, fault
