"""Folders that the kernel watches (inotify(7)): says at once that it is worth looking, and nothing of what has changed.

So nothing depends on the events being all there: what none was sent of is found by the next listing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from headrace.documents.sources.folder import is_followed

# linux/inotify.h
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLY_FOLDERS, _NO_LINKS, _IS_FOLDER = 0x01000000, 0x02000000, 0x40000000
_SELF = _DELETE_SELF | _MOVE_SELF
_WANTED = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _SELF
_BEGUN = _MODIFY | _CREATE  # of a file: somebody is writing it, and its end is an event too
_EVENT = struct.Struct("iIII")
_READ = 1 << 16

_MOST_FOLDERS = 20_000  # the kernel keeps about a kilobyte for each, and a user may have so many by default
_QUIET_S, _GATHER_S = 0.05, 0.5  # of what changes together: no pause is longer, and it is waited for no longer than this
_BUSY_S = 0.02  # between two times that events are taken

_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"}
"""File systems that only this machine changes, and so the kernel knows of each change. On others it knows of its own."""


class FolderWatch:
    """Watches some folders with all that is followed below them; for one thread, but for `interrupt`.

    `complete` says that each change in them is noticed. It is not where a folder is on a network file system, cannot be watched,
    or has more than `most` folders; then it is only worth waiting for what is noticed.
    """

    def __init__(self, roots: Sequence[Path], most: int = _MOST_FOLDERS) -> None:
        self._roots, self._most = tuple(roots), most
        self._tops: set[Path] = set()
        self._lock = threading.Lock()  # of the descriptor by which another thread interrupts
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._inotify = -1
        self._folders: dict[int, Path] = {}
        self._identities: list[tuple[int, int] | None] = []
        self._stale = True
        self._complete = self._writing = False
        self.quiet_until: float | None = None
        """Until when (`time.monotonic`) nothing had been noticed in the last `wait`; `None` if something had before it."""

    @property
    def complete(self) -> bool:
        """Whether each change is noticed."""
        return self._complete and not self._stale

    @property
    def writing(self) -> bool:
        """Whether a file has been written to since the last `renew`, and it is not known that this has ended."""
        return self._writing

    def renew(self) -> None:
        """Watch the folders anew if they were replaced or events were lost. Call it before each look."""
        self._writing = False
        identities = [_identity(root) for root in self._roots]
        if self._stale or identities != self._identities:
            self._begin(identities)

    def wait(self, seconds: float, soon_s: float) -> bool:
        """Wait until something changes; whether something did, before `seconds` were over or `interrupt` was called.

        A file that is being written is waited for no longer than `soon_s`: it may be kept open for hours.
        """
        began, self.quiet_until = time.monotonic(), None
        while not (changed := self.take()):
            self.quiet_until = time.monotonic()
            if not self._ready(began + (soon_s if self._writing else seconds)) or self._interrupted():
                return False
            self.quiet_until = time.monotonic()
            if changed := self.take():
                break
            time.sleep(_BUSY_S)  # of no interest, and there may be thousands in a second
        gathered = time.monotonic() + _GATHER_S
        while time.monotonic() < gathered and self._ready(time.monotonic() + _QUIET_S) and not self._interrupted():
            self.take()
            time.sleep(_BUSY_S)
        return changed

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds whatever changes, but until `interrupt` is called."""
        _poll((self._woken,), seconds)

    def take(self) -> bool:
        """Take the events that are there, without waiting; whether there is a reason to look now."""
        changed = False
        for mask, folder, name in self._events():
            changed |= self._notice(mask, folder, name)
        return changed

    def interrupt(self) -> None:
        """Have `wait` and `pause` return, now and whenever they are called again."""
        with self._lock:
            if self._woken >= 0:
                os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Watch nothing any more."""
        self._end()
        with self._lock:
            if self._woken >= 0:
                os.close(self._woken)
            self._woken = -1

    def _notice(self, mask: int, folder: Path | None, name: str) -> bool:
        """Whether an event is a reason to look now."""
        if mask & _OVERFLOW:
            self._stale = True
            return True
        if folder is None or mask & _IGNORED or name.startswith("."):
            return False
        if mask & _UNMOUNT or (mask & _SELF and folder in self._tops):
            self._stale = True
        elif mask & _IS_FOLDER and name:
            if not is_followed(folder, name):
                return False
            if mask & (_CREATE | _MOVED_TO):
                self._add(folder / name)  # before the look, which finds what is in it by then
            elif mask & _MOVED_FROM:
                self._stale = True  # it would be watched wherever it is now
        elif mask & _BEGUN:
            self._writing = True
            return False
        return True

    def _begin(self, identities: list[tuple[int, int] | None]) -> None:
        self._end()
        self._identities, self._stale = identities, None in identities
        if not self._roots:
            return
        self._inotify = _libc().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._complete = self._inotify >= 0
        for root in self._roots:
            if root.is_dir():
                self._tops.add(top := root.resolve())
                self._add(top)
            else:
                self._complete = False

    def _end(self) -> None:
        if self._inotify >= 0:
            os.close(self._inotify)
        self._inotify, self._complete = -1, False
        self._folders, self._tops = {}, set()

    def _add(self, root: Path) -> None:
        """Watch a folder and those below it."""
        kinds = _mounted()
        for folder in _below(root):
            if self._inotify < 0 or len(self._folders) >= self._most:
                self._complete = False
                return
            flags = ctypes.c_uint32(_WANTED | _ONLY_FOLDERS | _NO_LINKS)
            number = _libc().inotify_add_watch(self._inotify, os.fsencode(folder), flags)
            if number < 0:
                # One that is gone again is an event of its parent's.
                self._complete = self._complete and ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR)
                continue
            self._folders[number] = folder
            identity = _identity(folder)
            self._complete = self._complete and (identity is None or kinds.get(identity[0]) in _LOCAL)

    def _events(self) -> Iterator[tuple[int, Path | None, str]]:
        """The mask of each event that is there, its folder, and the name in that."""
        while self._inotify >= 0:
            try:
                data = os.read(self._inotify, _READ)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                at += length
                yield mask, self._folders.pop(number, None) if mask & _IGNORED else self._folders.get(number), name

    def _ready(self, until: float) -> bool:
        """Wait for an event or an interruption; false at the time `until`."""
        return _poll((self._woken, self._inotify), until - time.monotonic())

    def _interrupted(self) -> bool:
        return _poll((self._woken,), 0.0)


def _poll(descriptors: Iterable[int], seconds: float) -> bool:
    """Wait until one of some descriptors has something to read, of those that are open; false after so many seconds."""
    waiting = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(max(0.0, seconds) * 1000))


def _below(root: Path) -> Iterator[Path]:
    """A folder and those that are followed below it."""
    yield root
    for folder, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if is_followed(Path(folder), name)]
        for name in folders:
            if not (path := Path(folder) / name).is_symlink():
                yield path


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at a path; `None` where nothing is, or it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _mounted() -> dict[int, str]:
    """Device → the file system on it, as this process sees them; nothing where that cannot be known."""
    try:
        return devices(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    except OSError:
        return {}


def devices(mountinfo: str) -> dict[int, str]:
    """Device → its file system, from the lines of `/proc/PID/mountinfo` (proc_pid_mountinfo(5))."""
    kinds = {}
    # By these characters alone: the kernel escapes them in names, and others that end a line for Python may be in those.
    for line in filter(None, mountinfo.split("\n")):
        fields, _, rest = line.partition(" - ")
        major, _, minor = fields.split(" ")[2].partition(":")
        kinds[os.makedev(int(major), int(minor))] = rest.split(" ")[0]
    return kinds


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
