"""Opens a file below a folder, and none outside it even if links are swapped meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path, PurePosixPath

_OPENAT2 = 437  # on every architecture: newer system calls share one number
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # linux/openat2.h
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _How(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(root: Path, name: PurePosixPath) -> int:
    """Open the file `name` below `root` for reading; returns its descriptor. No part of the name may be a link.

    Raises `OSError`, for a link with `ELOOP`. Uses openat2(2) where kernel and sandbox allow it, else opens folder by folder.
    """
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(name))
    folder = os.open(root, _FOLDER)
    try:
        return _at_once(folder, name) if _has_openat2() else _step_by_step(folder, name)
    finally:
        os.close(folder)


def _at_once(folder: int, name: PurePosixPath) -> int:
    how = _How(_FLAGS, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    path = os.fsencode(name)
    while True:
        opened = int(_libc().syscall(_OPENAT2, folder, path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))))
        if opened >= 0:
            return opened
        code = ctypes.get_errno()
        if code not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: something was renamed meanwhile
            raise OSError(code, os.strerror(code), str(name))


def _step_by_step(folder: int, name: PurePosixPath) -> int:
    here = os.dup(folder)
    try:
        for part in name.parts[:-1]:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name.parts[-1], _FLAGS | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


@cache
def _has_openat2() -> bool:
    """Whether openat2 works here: older kernels lack it, and some sandboxes refuse it."""
    folder = os.open("/", _FOLDER)
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, _BENEATH)
    try:
        opened = int(_libc().syscall(_OPENAT2, folder, b".", ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))))
        if opened >= 0:
            os.close(opened)
        return opened >= 0
    finally:
        os.close(folder)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
