"""Processes: starting one of ours, and identifying one by pid and start.

Pids are reused, so each is stored with its process's start: the ticks since boot, which setting the clock does not change, and
the boot's id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import headrace

_PR_SET_PDEATHSIG = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # version 2 and 1
_TICK_BITS = 33  # ticks of 10 ms for two and a half years; with 20 bits of the boot they fit a JSON number


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run `module` of this very package, and nothing from the working directory."""
    root = str(Path(headrace.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", module], {**os.environ, "PYTHONPATH": path}


def began(pid: int) -> float:
    """A number that no other process with this pid has. Raises `ProcessLookupError` if there is no such process."""
    return _identity(_fields(pid))


def lives(pid: int, began: float) -> bool:
    """Whether exactly that process is running."""
    try:
        fields = _fields(pid)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return fields[0] not in ("Z", "X") and _identity(fields) == began


@cache
def memory_bytes() -> int:
    """The memory that this process may have: the machine's, or what its control group (a container's) is limited to."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_limit(path) for path in _MEMORY_LIMITS]
    return min([machine, *(limit for limit in limits if limit)])


def _limit(path: Path) -> int:
    """A control group's limit; 0 if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return 0


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: proc(5). The name before it may contain anything, even a parenthesis."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        raise ProcessLookupError(pid) from None


def _identity(fields: list[str]) -> float:
    return float(boot_id() << _TICK_BITS | int(fields[19]))


def ending_with(parent: int) -> Callable[[], None]:
    """A function that a child calls to be killed (SIGKILL) when its parent, the process `parent`, ends; at once if it has.

    Create it before a fork, so that nothing is loaded after it. Does nothing except on Linux.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def bind() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return bind


@cache
def boot_id() -> int:
    """A number of the machine's start."""
    return zlib.crc32(_BOOT_ID.read_bytes()) >> 12
