"""What a path is mounted from: a file system that several machines share, or this machine's own disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs", "bcachefs", "vfat"))
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountPoint:
    """A mount point with its file system, its options, and where it comes from, such as `filer:/export`."""

    path: Path
    file_system: str
    source: str
    options: str

    @property
    def local(self) -> bool:
        """Whether it is a disk or the memory of this machine alone; an unknown file system counts as shared."""
        return self.file_system in _LOCAL


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> MountPoint | None:
    """The mount point that holds a path; `None` if the machine has no such table."""
    try:
        wanted = path.expanduser().resolve()
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        # 36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue (proc_pid_mountinfo(5))
        first, _, second = line.partition(" - ")
        words, (file_system, source, options) = first.split(), second.split(" ", 2)
        point = Path(_unescaped(words[4]))
        # Of two on one path, the later hides the other.
        if wanted.is_relative_to(point) and (found is None or len(point.parts) >= len(found.path.parts)):
            found = MountPoint(point, file_system, _unescaped(source), f"{words[5]},{options}")
    return found


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), text)
