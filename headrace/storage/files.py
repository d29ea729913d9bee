"""The file tier: a POSIX directory, local or NFS. One directory per store; writes are atomic and durable."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.catalog import Store
from headrace.errors import HomeRefused, StorageFull, Unavailable, WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter, Metered

_TEMPORARY = ".part-"


@dataclass(frozen=True)
class FileInfo:
    """One file of a store: size in bytes, last use in seconds since the epoch."""

    key: str
    bytes: int
    used: float


class FileReader(Metered):
    """Reads one store of the file tier. Keys are paths relative to the store's directory."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.root = endpoints.files_dir / store.name
        self.meter = meter

    def read(self, key: str) -> bytes | None:
        """The bytes of one file, or `None` where there is none."""
        with self._faults(key), self.meter.operation(self.store, Direction.READ) as operation:
            try:
                data = self._bytes(self._path(key))
            except FileNotFoundError:
                operation.ops = 0
                return None
            operation.bytes = len(data)
        return data

    def _bytes(self, path: Path) -> bytes:
        # Opening a pipe that stands in a file's place would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read()

    def list(self) -> Iterator[FileInfo]:
        """Every whole file of the store; half-written ones are not shown."""
        if not self.root.is_dir():
            return
        for folder, _, names in os.walk(self.root):
            for name in names:
                if _TEMPORARY in name:
                    continue
                path = Path(folder) / name
                try:
                    status = path.stat()
                except FileNotFoundError:  # evicted by another process meanwhile
                    continue
                yield FileInfo(path.relative_to(self.root).as_posix(), status.st_size, status.st_atime)

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
            raise Unavailable(f"{self.root / key}: {error.strerror or error}.", hint="Is the file system mounted?") from error


class FileWriter(FileReader):
    """Writes one store of the file tier; it may read it too."""

    def write(self, key: str, pieces: bytes | Sequence[bytes]) -> int:
        """Write one file whole or not at all and return its size in bytes; it is on disk when this returns."""
        if isinstance(pieces, bytes):
            pieces = [pieces]
        path = self._path(key)
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{path.name}")
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE) as operation:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    for piece in pieces:
                        operation.bytes += file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
        return operation.bytes

    def touch(self, key: str) -> None:
        """Note a use, so that eviction by last use works on mounts without access times."""
        with self._faults(key):
            os.utime(self._path(key))

    def delete(self, key: str) -> None:
        """Delete one file; deleting what is not there is no error."""
        with self._faults(key), self.meter.operation(self.store, Direction.WRITE):
            self._path(key).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: POSIX asks for an fsync of the directory too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
