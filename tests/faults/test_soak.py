"""The demo over and over while something of it is killed every few seconds; then everything is counted. `make soak`."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from test_kill import QUESTIONS, assert_whole, finish

from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_for_ten_minutes_lose_nothing_and_double_nothing(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", home.env["HEADRACE_SETTINGS"])
    home.env["HEADRACE_TRAINING__BATCH"] = "16"
    dice = random.Random(5)
    end = time.monotonic() + float(os.environ.get("HEADRACE_SOAK_SECONDS", "600"))
    said: list[str] = []
    kills = 0
    while time.monotonic() < end:
        process = home.start(*home.demo(QUESTIONS))
        try:
            process.wait(timeout=dice.uniform(2, 25))
        except Exception:
            state = read_state(PlatformHome(home.path))
            victims = [process.pid]
            if state is not None:
                victims += [state.supervisor.pid, *(child.pid for child in state.children.values())]
            os.kill(dice.choice(victims), signal.SIGKILL)
            kills += 1
        out, err = process.communicate(timeout=200)
        assert "Traceback" not in err, err
        assert "unforeseen" not in err, err
        said.append(out + err)
    finish(home, said)
    assert kills > 0
    assert_whole(home, said, [])
