"""What lies below a directory, kept between looks: a look reads again only the directories that changed.

A directory's modification time changes with every entry that is made, renamed or removed in it. So the cost of a look follows the
number of directories and what is new in them, not the number of files. Times of use (atime) are as of when a file's directory was
read, or as `note` noted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

_SETTLED_S = 2.0
"""A directory is read again until its modification time has stayed for so long: entries may come within one tick of its clock."""


@dataclass(frozen=True)
class FileInfo:
    """One file of a store: size in bytes, last use in seconds since the epoch."""

    key: str
    bytes: int
    used: float


@dataclass
class _Folder:
    modified_ns: int
    since: float
    """When this modification time was first seen, by this process's monotonic clock."""
    settled: bool
    files: dict[str, FileInfo] = field(default_factory=dict)
    passed_over: dict[str, float] = field(default_factory=dict)
    """When each was last written, in seconds since the epoch."""
    folders: tuple[str, ...] = ()
    bytes: int = 0


class FolderListing:
    """The files below `root`, but for those whose names `passed_over` accepts; thread-safe."""

    def __init__(
        self, root: Path, *, passed_over: Callable[[str], bool] = lambda name: False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._passed_over = passed_over
        self._clock = clock
        self._looking = threading.Lock()
        self._folders: dict[str, _Folder] = {}
        self.read = 0
        """How many directories were read so far."""

    def look(self) -> None:
        """Bring it up to date. Raises `OSError`; a root that is not there is empty."""
        with self._looking:
            found: dict[str, _Folder] = {}
            waiting = [""]
            while waiting:
                place = waiting.pop()
                try:
                    folder = self._folder(place)
                except FileNotFoundError:  # removed meanwhile
                    continue
                found[place] = folder
                waiting += folder.folders
            self._folders = found  # whole, so that those who read meanwhile need not wait for a mount that hangs

    def _folder(self, place: str) -> _Folder:
        path, known, now = self._root / place, self._folders.get(place), self._clock()
        modified = path.stat().st_mtime_ns
        same = known is not None and known.modified_ns == modified
        if known is not None and same and known.settled:
            return known
        since = known.since if known is not None and same else now
        folder = _Folder(modified, since, settled=now - since >= _SETTLED_S)
        folders = []
        self.read += 1
        with os.scandir(path) as entries:
            for entry in entries:
                key = f"{place}/{entry.name}" if place else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(key)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if self._passed_over(entry.name):
                    folder.passed_over[key] = status.st_mtime
                else:
                    folder.files[key] = FileInfo(key, status.st_size, status.st_atime)
        folder.folders = tuple(folders)
        folder.bytes = sum(file.bytes for file in folder.files.values())
        return folder

    def files(self, below: str = "") -> Iterator[FileInfo]:
        """All files, or those below a directory, as of the last look."""
        for folder in self._below(below):
            yield from list(folder.files.values())

    def bytes(self, below: str = "") -> int:
        """Bytes of all files, or of those below a directory, as of the last look."""
        return sum(folder.bytes for folder in self._below(below))

    def left(self, before: float) -> Iterator[str]:
        """What was passed over and last written before then, in seconds since the epoch."""
        for folder in self._below(""):
            yield from [key for key, written in folder.passed_over.items() if written < before]

    def _below(self, place: str) -> list[_Folder]:
        return [folder for name, folder in self._folders.items() if not place or f"{name}/".startswith(f"{place}/")]

    def note(self, key: str, used: float) -> None:
        """Have it that a file was used then; nothing, if it is not known."""
        folder = self._folders.get(key.rpartition("/")[0])
        if folder is not None and (file := folder.files.get(key)) is not None:
            folder.files[key] = replace(file, used=used)
