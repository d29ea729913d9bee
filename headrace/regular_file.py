"""Small files that somebody else may have written: read whole, but neither a pipe that never ends nor more than is sensible."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_MOST = 64 << 20
_OPENED = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what the shell has opened, as in `--brand <(…)`


def read_regular(path: Path, *, most_bytes: int = _MOST) -> bytes:
    """The bytes of a regular file.

    Opening a pipe that nobody writes to would wait for ever, and a device may have no end. Raises `OSError`, also with a
    `strerror` for what is no regular file and for one of more than `most_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISREG(mode) or str(path).startswith(_OPENED)):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        os.set_blocking(descriptor, True)
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes >> 20} MiB", str(path))
    return data
