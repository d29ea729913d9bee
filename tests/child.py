"""Parts of a test that need a process of their own: a fork of this one, which may become another user or be sent signals."""

from __future__ import annotations

import gc
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def in_child(work: Callable[[], None]) -> None:
    """Call `work` in a child process; what it raises is printed there, and fails the test."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            gc.freeze()  # destructors of native objects of the parent wait for its threads, which are not here
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # nothing of pytest may run twice
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed; what it printed says why"


def as_another_user(work: Callable[[Path], None]) -> None:
    """Call `work` with an empty folder, as a user whom permissions bind: root may read everything, so in a child as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            work(folder)
            return
        os.chown(folder, NOBODY, NOBODY)

        def as_nobody() -> None:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work(folder)

        in_child(as_nobody)
