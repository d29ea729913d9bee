"""What file permissions keep from whom: root may read everything, so as root such a test becomes another user first."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def as_another_user(work: Callable[[Path], None]) -> None:
    """Call `work` with an empty folder, as a user whom permissions bind: in a child process where this one is root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            work(folder)
            return
        os.chown(folder, NOBODY, NOBODY)
        if (child := os.fork()) == 0:
            _become_nobody_and(work, folder)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "as another user it failed, as printed above"


def _become_nobody_and(work: Callable[[Path], None], folder: Path) -> None:
    code = 1
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of pytest may run twice
