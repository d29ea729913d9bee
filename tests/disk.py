"""A disk of its own for a test: small, so that it can be filled, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from needs import require


class Disk:
    """A mounted file system of a few hundred megabytes in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Write to it until nothing fits; again, if something has made room."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def free(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink()

    def resize(self, megabytes: int) -> None:
        """Make it larger or smaller, with what is on it."""
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", self.path], check=True)


@contextlib.contextmanager
def mounted(path: Path, megabytes: int) -> Iterator[Disk]:
    """A disk of so many MiB at `path`, for the length of a block. End the processes that use it before that ends."""
    require(
        os.geteuid() == 0 and sys.platform == "linux",
        "This test mounts a small disk, which takes root on Linux.",
        unless="HEADRACE_TESTS_WITHOUT_ROOT",
    )
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], check=False)
    require(done.returncode == 0, "This machine lets not even root mount a disk.", unless="HEADRACE_TESTS_WITHOUT_ROOT")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=False)
