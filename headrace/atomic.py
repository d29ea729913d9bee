"""Atomic file writes: to a temporary file, synced to disk, then renamed over the old one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.errors import Permanent, StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, temporary: Path | None = None, sync_folder: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends, or is deleted if it raises.

    The file is synced to disk first; with `sync_folder` the rename is too. Raises `OSError`.
    """
    fresh = temporary or path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    if sync_folder:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o600) -> None:
    """Write a file atomically, and missing folders above it; `data` in one piece or in several.

    A device or a pipe under that name is refused: a rename would replace /dev/null by a file. Raises
    `StorageFull` if the disk is full, else `Permanent` with the reason.
    """
    try:
        if not path.name or path.name == ".." or path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is a device or a pipe, and not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, mode=mode, sync_folder=False) as file:
            file.writelines([data] if isinstance(data, bytes) else data)
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"No space left to write {path}.", hint="Free some space and run again.") from None
        raise Permanent(
            f"{path} cannot be written: {error.strerror or error}.", hint="Check the directory and its mode."
        ) from None
