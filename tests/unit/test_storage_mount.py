"""Files on a mount that may never answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from headrace.errors import Unavailable
from headrace.storage.files import Mount


def test_what_answers_in_time_is_given_with_its_errors() -> None:
    mount = Mount()
    assert mount.call(lambda: 7, 1.0) == 7
    with pytest.raises(FileNotFoundError):
        mount.call(lambda: Path("/nowhere/at/all").read_bytes(), 1.0)


def test_what_hangs_is_given_up_and_left_alone_twice_as_long_each_time() -> None:
    now = 100.0
    mount, shut, begun = Mount(lambda: now), threading.Event(), []

    def hang() -> int:
        begun.append(1)
        shut.wait(30)
        return 1

    try:
        started = time.monotonic()
        for count in (1, 2):
            with pytest.raises(Unavailable, match=r"within 0\.05 s"):
                mount.call(hang, 0.05)
            assert len(begun) == count
        for rest_s in (5.0, 10.0, 20.0):
            for at in (now, now + rest_s - 0.1):
                now = at
                with pytest.raises(Unavailable, match="not used for a while"):
                    mount.call(hang, 0.05)
            now += 0.2
            before = len(begun)
            with pytest.raises(Unavailable, match="within"):
                mount.call(hang, 0.05)
            assert len(begun) == before + 1, "one try, and then it is left alone again"
        assert time.monotonic() - started < 5
        now += 1000
        shut.set()
        assert mount.call(lambda: 7, 1.0) == 7
        shut.clear()
        with pytest.raises(Unavailable, match="within"):
            mount.call(hang, 0.05)
        shut.set()
        assert mount.call(hang, 1.0) == 1, "one that is late is not yet a mount that is gone"
    finally:
        shut.set()
