"""File tier: a POSIX directory, local or NFS. One directory per store; writes are atomic and durable."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from headrace.atomic import replacing
from headrace.catalog import Store
from headrace.errors import HomeRefused, StorageFull, Unavailable, WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction
from headrace.storage.listing import FileInfo, FolderListing
from headrace.storage.meter import Meter, Metered

_TEMPORARY = ".part-"


class FileReader(Metered):
    """Reads one store of the file tier. Keys are paths relative to the store's directory."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.root = endpoints.files_dir / store.name
        self.meter = meter

    def read(self, key: str, most: int = -1) -> bytes | None:
        """The bytes of one file, the first `most` of them unless that is negative; or `None` if there is none."""
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            try:
                data = self._bytes(self._path(key), most)
            except FileNotFoundError:
                operation.ops = 0
                return None
            operation.bytes = len(data)
        return data

    def read_each(self, buffer: ReadBuffer, keys: Sequence[str], most: int, use: Callable[[memoryview | None], bool]) -> None:
        """As `read`, one file after another into memory that was used before, until `use`, which gets the bytes, returns false.

        The bytes are good until `use` returns. If a file was not in the page cache, the kernel is asked to read the first `most`
        bytes of the next one meanwhile.
        """
        for key, then in zip(keys, [*keys, ""][1:], strict=True):
            if not use(self._read_into(buffer, key, most, then)):
                return

    def _read_into(self, buffer: ReadBuffer, key: str, most: int, then: str) -> memoryview | None:
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            try:
                with self._opened(self._path(key)) as (descriptor, size):
                    room = buffer.room(min(most, size))
                    cached = _read_cached(descriptor, room)
                    if then and (cached != len(room) or buffer.asked_for == key):
                        self._ask_for(buffer, then, most)
                    filled = cached or 0
                    while filled < len(room) and (got := os.preadv(descriptor, [room[filled:]], filled)):
                        filled += got
            except FileNotFoundError:
                operation.ops = 0
                return None
            operation.bytes = filled
        return room[:filled]

    def _ask_for(self, buffer: ReadBuffer, key: str, most: int) -> None:
        buffer.asked_for = key
        with suppress(OSError), self._opened(self._path(key)) as (descriptor, size):
            # A read that does not wait starts reading ahead in large folios; this advice would take page by page.
            if _read_cached(descriptor, buffer.spare(min(most, size))) is None:
                os.posix_fadvise(descriptor, 0, min(most, size), os.POSIX_FADV_WILLNEED)

    def _bytes(self, path: Path, most: int) -> bytes:
        with self._opened(path) as (descriptor, size), open(descriptor, "rb", closefd=False) as file:
            return file.read(most if most < 0 else min(most, size))  # memory is taken for as much as is asked for

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[int, int]]:
        """A regular file's descriptor and size."""
        # Without O_NONBLOCK, opening a pipe left under that name would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)

    def list(self, folder: str = "", *, partial: bool = False) -> Iterator[FileInfo]:
        """Every complete file of the store or of a folder in it; with `partial`, half-written ones too."""
        with self._faults(folder), self.meter.operation(self.store, Direction.READ):
            found = [Path(where) / name for where, _, names in os.walk(self._path(folder)) for name in names]
        for path in found:
            if partial or _TEMPORARY not in path.name:
                try:
                    status = path.stat()
                except FileNotFoundError:  # evicted by another process meanwhile
                    continue
                yield FileInfo(path.relative_to(self.root).as_posix(), status.st_size, status.st_atime)

    def listing(self) -> FolderListing:
        """A listing of the store's complete files, which `look` brings up to date."""
        return FolderListing(self.root, passed_over=lambda name: _TEMPORARY in name)

    def look(self, listing: FolderListing) -> None:
        """Bring a listing of this store up to date; its cost follows what changed since its last look."""
        with self._faults(""), self.meter.operation(self.store, Direction.READ):
            listing.look()

    def used(self, key: str) -> float | None:
        """When a file was last used, in seconds since the epoch, or `None` if there is none."""
        with self._faults(key):
            try:
                return self._path(key).stat().st_atime
            except FileNotFoundError:
                return None

    def _path(self, key: str) -> Path:
        path = self.root / key
        if key.startswith("/") or ".." in Path(key).parts:
            raise WrongUsage(f"{key!r} is not a key of {self.store}.", hint="Keys stay inside the store's directory.")
        return path

    @contextmanager
    def _faults(self, key: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise HomeRefused(
                f"{self.root / key} cannot be opened: {error.strerror}.", hint="Check the owner of [files] dir."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"No space left under {self.root}.", hint="Free some space and run again.") from None
            raise Unavailable(
                f"{self.root / key}: {error.strerror or error}.", hint="Check that the file system is mounted."
            ) from error


class ReadBuffer:
    """Memory for one read at a time, as large as the largest so far. Fresh memory costs a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._memory, self._spare = _fresh(mmap.PAGESIZE), _fresh(mmap.PAGESIZE)
        self.asked_for = ""
        """The file that the kernel was asked for last."""

    def room(self, size: int) -> memoryview:
        """The first `size` bytes of it, which begin at a page; what was there is overwritten."""
        if len(self._memory) < size:
            self._memory = _fresh(size)
        return memoryview(self._memory)[:size]

    def spare(self, size: int) -> memoryview:
        """Memory for what is read and not used: it takes no room until it is written to."""
        if len(self._spare) < size:
            self._spare = _fresh(size)
        return memoryview(self._spare)[:size]


def _fresh(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _read_cached(descriptor: int, room: memoryview) -> int | None:
    """Read what is in the page cache, without waiting for a disk: its bytes, or `None` where the file system does not say."""
    try:
        return os.preadv(descriptor, [room], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    except OSError:
        return None


class FileWriter(FileReader):
    """Writes and reads one store of the file tier."""

    def write(self, key: str, pieces: bytes | Sequence[bytes]) -> int:
        """Write one file atomically and return its size in bytes; it is on disk when this returns."""
        if isinstance(pieces, bytes):
            pieces = [pieces]
        path = self._path(key)
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{path.name}")
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE) as operation:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, temporary=temporary) as file:
                for piece in pieces:
                    operation.bytes += file.write(piece)
        return operation.bytes

    def touch(self, key: str) -> None:
        """Set the access time, so that LRU eviction works on mounts without access times."""
        with self._faults(key):
            os.utime(self._path(key))

    def delete(self, key: str) -> None:
        """Delete one file; a missing file is not an error."""
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE):
            self._path(key).unlink(missing_ok=True)


T = TypeVar("T")

READ_S, WRITE_S = 1.0, 5.0
_LATE = 2
_REST_S = (5.0, 300.0)


class WatchedWork:
    """How far work has come for which somebody waits as long as it goes on; thread-safe."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        """When it began, or its last part ended."""
        self._lock = threading.Lock()
        self._given_up = False

    def part(self, work: Callable[[], bool]) -> bool:
        """Do a part that changes what belongs to whoever waits; once that has given up, nothing is done, and false returned."""
        with self._lock:
            if self._given_up:
                return False
            try:
                return work()
            finally:
                self.at = time.monotonic()

    def give_up(self, seconds: float) -> bool:
        """Give up unless a part ended within so many seconds; waits for one that is under way."""
        with self._lock:
            self._given_up = time.monotonic() - self.at >= seconds
            return self._given_up


class Mount:
    """Circuit breaker for a mount, or other storage, that may hang; thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        what: str = "The file system",
        hint: str = "Check that it is mounted.",
    ) -> None:
        self._clock = clock
        self._what, self._hint = what, hint
        self._lock = threading.Lock()
        self._late = 0
        self._rest_s = _REST_S[0]
        self._resting_until = -1.0

    def call(self, work: Callable[[], T], seconds: float) -> T:
        """Return or raise what `work` does; raises `Unavailable` on a timeout or while the mount is being left alone."""
        return self.follow(lambda progress: work(), seconds)

    def follow(self, work: Callable[[WatchedWork], T], seconds: float) -> T:
        """As `call`, where each part of the work has so many seconds.

        All parts are done in one thread: to hand work over and back takes a turn of two threads on the processors, which is
        milliseconds where these are busy.
        """
        with self._lock:
            if self._clock() < self._resting_until:
                raise Unavailable(f"{self._what} did not answer and is not used for a while.", hint=self._hint)
        done: list[T] = []
        failed: list[BaseException] = []
        progress = WatchedWork()

        def run() -> None:
            try:
                done.append(work(progress))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="mount", daemon=True)
        thread.start()
        while True:
            thread.join(max(0.0, progress.at + seconds - time.monotonic()))
            if done or failed or progress.give_up(seconds):
                break
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
                # The next timeout opens the circuit again.
                self._late, self._rest_s = _LATE - 1, min(2 * self._rest_s, _REST_S[1])
        raise Unavailable(f"{self._what} did not answer within {seconds:g} s.", hint=self._hint)


class TimedFiles(FileWriter):
    """A `FileWriter` with a timeout per operation: `WRITE_S` seconds for writes and listings, `READ_S` for the others."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter, mount: Mount) -> None:
        super().__init__(store, endpoints, meter)
        self._mount = mount

    def read(self, key: str, most: int = -1) -> bytes | None:
        """See `FileReader.read`."""
        return self._mount.call(partial(super().read, key, most), READ_S)

    def read_each(self, buffer: ReadBuffer, keys: Sequence[str], most: int, use: Callable[[memoryview | None], bool]) -> None:
        """See `FileReader.read_each`; each file has so many seconds. `use` is called in another thread, but not after a timeout.

        After one, `buffer` may still be written to.
        """
        read = super().read_each
        self._mount.follow(
            lambda progress: read(buffer, keys, most, lambda data: progress.part(partial(use, data))),
            READ_S,
        )

    def list(self, folder: str = "", *, partial: bool = False) -> Iterator[FileInfo]:
        """See `FileReader.list`."""
        files = super().list(folder, partial=partial)
        return iter(self._mount.call(lambda: [*files], WRITE_S))

    def look(self, listing: FolderListing) -> None:
        """See `FileReader.look`."""
        self._mount.call(partial(super().look, listing), WRITE_S)

    def used(self, key: str) -> float | None:
        """See `FileReader.used`."""
        return self._mount.call(partial(super().used, key), READ_S)

    def write(self, key: str, pieces: bytes | Sequence[bytes]) -> int:
        """See `FileWriter.write`."""
        return self._mount.call(partial(super().write, key, pieces), WRITE_S)

    def touch(self, key: str) -> None:
        """See `FileWriter.touch`."""
        self._mount.call(partial(super().touch, key), READ_S)

    def delete(self, key: str) -> None:
        """See `FileWriter.delete`."""
        self._mount.call(partial(super().delete, key), READ_S)
