"""What a path is mounted from: a network file system, which several servers share, or this machine's own disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "ceph", "beegfs", "glusterfs", "wekafs", "9p", "afs", "ocfs2", "gfs2")
)
"""File systems that several machines mount. FUSE file systems are judged by their subtype, and unknown ones count as shared."""
_LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs", "bcachefs", "vfat"))
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountPoint:
    """A mount point with its file system and where it comes from, such as `filer:/export`."""

    path: Path
    file_system: str
    source: str

    @property
    def local(self) -> bool:
        """Whether it is a disk or the memory of this machine alone."""
        return self.file_system in _LOCAL


def mount_of(path: Path, table: Path = Path("/proc/self/mounts")) -> MountPoint | None:
    """The mount point that holds a path; `None` if the path does not exist here or the machine has no such table."""
    try:
        real = path.resolve(strict=True)
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        source, point, file_system, *_ = (_ESCAPED.sub(lambda m: chr(int(m[1], 8)), word) for word in line.split(" "))
        if real.is_relative_to(point) and (found is None or len(point) >= len(str(found.path))):
            found = MountPoint(Path(point), file_system, source)
    return found
