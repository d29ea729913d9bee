"""File operations with a deadline, for a mount that may never answer (NFS without its server, for one).

A call to such a mount cannot be interrupted: it waits in the kernel. So each runs on a thread of its own, and whoever asked goes
on when the time is up. After two in a row the mount is left alone for a while, twice as long each time, so that the threads
which hang are few.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from headrace.catalog import Store
from headrace.errors import Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileInfo, FileWriter
from headrace.storage.meter import Meter

T = TypeVar("T")

READ_S, WRITE_S = 1.0, 5.0
_LATE = 2
_REST_S = (5.0, 300.0)


class Mount:
    """Knows whether a mount answers; safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._late = 0
        self._rest_s = _REST_S[0]
        self._resting_until = -1.0

    def call(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises; raises `Unavailable` where that takes longer, or the mount is left alone just now."""
        with self._lock:
            if self._clock() < self._resting_until:
                raise Unavailable("The file system did not answer and is left alone for a while.", hint="Is it mounted?")
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="mount", daemon=True)
        thread.start()
        thread.join(seconds)
        if done or failed:
            with self._lock:
                self._late, self._rest_s = 0, _REST_S[0]
            if failed:
                raise failed[0]
            return done[0]
        with self._lock:
            self._late += 1
            if self._late >= _LATE:
                self._resting_until = self._clock() + self._rest_s
                # One more that is late, and it is left alone again.
                self._late, self._rest_s = _LATE - 1, min(2 * self._rest_s, _REST_S[1])
        raise Unavailable(f"The file system did not answer within {seconds:g} s.", hint="Is it mounted?")


class TimedFiles(FileWriter):
    """As `FileWriter`, with a deadline for each operation: `READ_S` seconds to look at something, `WRITE_S` to change it."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter, mount: Mount) -> None:
        super().__init__(store, endpoints, meter)
        self._mount = mount

    def read(self, key: str) -> bytes | None:
        """See `FileReader.read`."""
        return self._mount.call(partial(super().read, key), READ_S)

    def list(self) -> Iterator[FileInfo]:
        """See `FileReader.list`."""
        found = super().list()
        return iter(self._mount.call(lambda: [*found], WRITE_S))

    def write(self, key: str, pieces: bytes | Sequence[bytes]) -> int:
        """See `FileWriter.write`."""
        return self._mount.call(partial(super().write, key, pieces), WRITE_S)

    def touch(self, key: str) -> None:
        """See `FileWriter.touch`."""
        self._mount.call(partial(super().touch, key), READ_S)

    def delete(self, key: str) -> None:
        """See `FileWriter.delete`."""
        self._mount.call(partial(super().delete, key), READ_S)
