"""The process that tidies up after a Ray cluster: `python -m headrace.core.ray_watchdog FOLDER`, with a pipe from the driver.

It imports nothing of Headrace, which would delay the cluster.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress

import psutil

_LEFT_S = 10.0


def watch(folder: str) -> None:
    """Wait until the driver has ended, then kill other processes with open files in its folder, and remove the folder."""
    driver = os.getppid()
    sys.stdin.read()
    until = time.monotonic() + _LEFT_S
    while (left := _users(folder, but=driver)) and time.monotonic() < until:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


def _users(folder: str, *, but: int) -> list[psutil.Process]:
    users = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != but and any(file.path.startswith(f"{folder}{os.sep}") for file in process.open_files()):
                users.append(process)
    return users


if __name__ == "__main__":
    watch(os.path.realpath(sys.argv[1]))
