"""Memory for the keys and values of prompts, used for one prompt after another.

The kernel clears fresh memory, page by page as it is first written to, which takes about as long as restoring a prefix into it.
So a piece that was used stays with the process, and the next prompt overwrites it.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from headrace.models.kv.format import Array, Shape

PIECE_BYTES = 96 << 20
"""The most that a piece holds: 2,184 tokens of the packaged generator. Longer prompts take fresh memory and do not leave it."""
PIECES = 2
"""That are kept unused: while one answer's values wait to be stored, the next answer has another piece."""


@dataclass
class _Piece:
    memory: mmap.mmap
    touched: int
    """Bytes of it that take memory: what was never written to takes none."""


class PromptMemory:
    """At most `pieces` pieces of `piece_bytes` of memory that nothing refers to; thread-safe."""

    def __init__(self, piece_bytes: int = PIECE_BYTES, pieces: int = PIECES) -> None:
        self._piece_bytes = piece_bytes
        # Pieces come back whenever the last reference goes, in any thread, so there may be no lock here: appending to a deque and
        # taking from it are atomic, and a full one lets a piece go for each that it gets.
        self._unused = deque[_Piece](maxlen=pieces)

    @property
    def unused_bytes(self) -> int:
        """What is kept for the next prompts."""
        return sum(piece.touched for piece in self._unused.copy())

    def take(self, shape: Shape, tokens: int) -> Array:
        """Float32 memory for so many tokens' keys and values: (layers, 2, heads, tokens, width). Its contents are arbitrary.

        It is used again once nothing refers to it, nor to any view of it.
        """
        form = shape.array(tokens)
        count = math.prod(form)
        size = count * np.dtype(np.float32).itemsize
        piece = self._piece() if size <= self._piece_bytes else None
        if piece is None:
            return np.empty(form, np.float32)
        piece.touched = max(piece.touched, size)
        # Views of a view refer to the array that has the memory, so this one goes last.
        owner = np.frombuffer(piece.memory, np.float32, count)
        weakref.finalize(owner, self._unused.append, piece).atexit = False
        return owner.reshape(form)

    def _piece(self) -> _Piece | None:
        with suppress(IndexError):
            return self._unused.pop()
        try:
            memory = mmap.mmap(-1, self._piece_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:  # a limit of the address space, which the size of the prompt may still fit
            return None
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return _Piece(memory, 0)
