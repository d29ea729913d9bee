"""Write behind: blocks are stored by a thread of their own, after the answer that computed them.

The queue is bounded, in bytes of memory that what waits holds. What does not fit is dropped, since a block that is not stored is
only computed again. Blocks that wait can be read as if they were stored.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import HeadraceError, StorageFull

QUEUE_BYTES = 512 << 20
"""Memory that blocks which wait to be stored may hold: some answers of long prompts."""
_NICE = 10
_SAID = 100  # kinds of trouble that are remembered, to say each once

log = logging.getLogger("headrace.models")


@dataclass
class PendingWrite:
    """The blocks of one prompt that are to be stored: block name → its keys and values, views of `size` bytes of memory."""

    tenant: str
    run: str
    documents: frozenset[str] | None
    blocks: Mapping[str, npt.NDArray[np.floating[Any]]]
    size: int
    store: Callable[[], None]
    dropped: Callable[[str], None]
    """Called with the reason, where it is not stored."""
    revoked: bool = field(default=False)


class WriteBehind:
    """Stores what is offered, in its order; thread-safe. The thread starts with the first offer."""

    def __init__(self, most_bytes: int = QUEUE_BYTES) -> None:
        self._most = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[PendingWrite] = deque()
        self._under_way: PendingWrite | None = None
        self._held = 0
        self._blocks: dict[str, tuple[PendingWrite, npt.NDArray[np.floating[Any]]]] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._said: set[str] = set()
        self.trouble = ""
        """Why the last write failed; empty if it did not."""

    def offer(self, write: PendingWrite) -> str:
        """Take a write; returns why it was dropped instead, or ""."""
        with self._changed:
            if self._closing:
                return "stopping"
            if self._held and self._held + write.size > self._most:
                return "queue full"
            self._waiting.append(write)
            self._held += write.size
            self._blocks.update({name: (write, values) for name, values in write.blocks.items()})
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kv writes", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return ""

    def block(self, name: str) -> npt.NDArray[np.floating[Any]] | None:
        """A block that waits to be stored, or `None`."""
        with self._changed:
            found = self._blocks.get(name)
            return None if found is None or found[0].revoked else found[1]

    def revoke(self, tenant: str, document: str, every: str) -> None:
        """Drop what waits of a document of a tenant, or of `every` one; what is under way is dropped by who stores it."""
        with self._changed:
            for write in (*self._waiting, *([self._under_way] if self._under_way else ())):
                if write.tenant == tenant and (document == every or write.documents is None or document in write.documents):
                    write.revoked = True

    def waiting(self, run: str | None = None) -> int:
        """How many writes (of a run) wait or are under way."""
        with self._changed:
            writes: Collection[PendingWrite] = (*self._waiting, *([self._under_way] if self._under_way else ()))
            return sum(run in (None, write.run) for write in writes)

    def wait(self, seconds: float, run: str | None = None) -> bool:
        """Wait until nothing (of a run) is left to store; whether that is so within so many seconds."""
        until = time.monotonic() + seconds
        while self.waiting(run):
            with self._changed:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.05))
        return True

    def close(self, seconds: float) -> None:
        """Take no more; store what waits for at most so many seconds, and drop the rest."""
        with self._changed:
            self._closing = True
        self.wait(seconds)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            self._blocks.clear()
        for write in left:
            write.dropped("stopping")

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # behind the answers, also for the processors
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                write = self._under_way = self._waiting.popleft()
            try:
                if write.revoked:
                    write.dropped("revoked")
                else:
                    write.store()
            except Exception as error:  # a thread that ends would store nothing any more
                write.dropped("storage full" if isinstance(error, StorageFull) else "storage failed")
                self.trouble = error.message if isinstance(error, HeadraceError) else str(error)
                if self.trouble not in self._said:
                    self._said = {*list(self._said)[-_SAID:], self.trouble}
                    log.warning("KV blocks are not written: %s", error)
            else:
                self.trouble = ""
            finally:
                with self._changed:
                    self._under_way = None
                    self._held -= write.size
                    for name in write.blocks:
                        if self._blocks.get(name, (None,))[0] is write:
                            del self._blocks[name]
                    self._changed.notify_all()
                del write
