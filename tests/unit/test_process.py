"""Processes are known again by more than their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from headrace import process
from headrace.process import began, lives, memory_bytes


def test_a_process_lives_until_it_ends_and_is_no_other() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = began(child.pid)
    assert began(child.pid) == mark != began(os.getpid())
    assert lives(child.pid, mark)
    assert not lives(child.pid, mark + 1), "the number was given out again"
    assert not lives(os.getpid(), mark)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(child.pid, mark), "dead, though nobody has asked for it yet"
    child.communicate()
    with pytest.raises(ProcessLookupError):
        began(child.pid)


def test_it_says_nothing_of_the_clock() -> None:
    """What psutil says of a start is reckoned from the clock, and moves with it."""
    ticks = int(began(os.getpid())) & (1 << 33) - 1
    age_s = psutil.Process().create_time() - psutil.boot_time()
    assert abs(ticks / os.sysconf("SC_CLK_TCK") - age_s) < 60


@pytest.mark.parametrize(("limit", "bytes_"), [("1048576\n", 1 << 20), ("max\n", None), (f"{1 << 62}\n", None), (None, None)])
def test_the_memory_there_is_is_the_containers_where_that_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, bytes_: int | None
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(process, "_MEMORY_LIMITS", (tmp_path / "memory.max",))
    assert memory_bytes.__wrapped__() == (bytes_ or psutil.virtual_memory().total)
