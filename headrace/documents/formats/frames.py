"""Messages on a pipe: eight bytes of length, then that many bytes.

JSON, not pickle: whatever took over the process that parses must not be able to run anything in the one that reads its answer.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

HEADER = struct.Struct(">Q")


def framed(message: bytes) -> bytes:
    """The message as it goes on the pipe."""
    return HEADER.pack(len(message)) + message


def read_frame(pipe: BinaryIO) -> bytes | None:
    """The next message, or `None` where the pipe has ended."""
    head = pipe.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (length,) = HEADER.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None
