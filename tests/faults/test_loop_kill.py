"""The training loop under `headrace up`, killed and interrupted: the turn goes on where it was, and nothing outlives `up`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from serving import started
from traffic import Traffic, indexed, until

from headrace.catalog import CHECKPOINTS
from headrace.loop import status
from headrace.pipeline.run import runs
from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectReader

if TYPE_CHECKING:
    from conftest import Home

LOOP = {
    "HEADRACE_TRAINING__NICE": "0",  # whatever else runs on this machine
    "HEADRACE_TRAINING__THREADS": "1",
    "HEADRACE_TRAINING__VERDICTS": "60",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "1",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MOST_STEPS": "40",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "1",
}


def no_loop_is_left(home: Home) -> bool:
    return not any("headrace.loop" in process.cmdline() for process in home.processes())


def checkpoint_stands(home: Home) -> bool:
    state = read_state(PlatformHome(home.path))
    assert state is not None
    store = ObjectReader(CHECKPOINTS, state.endpoints, Meter(Ledger(), "test"))
    return any(info.key.endswith("/latest.json") for info in store.list())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.timeout(600)
def test_a_training_process_killed_inside_a_turn_is_started_again_and_goes_on(home: Home, handbook: Path, tmp_path: Path) -> None:
    home.env.update(LOOP)
    api = started(home, tmp_path / "log")
    try:
        indexed(api, handbook)

        with Traffic(api, pause_s=0.2) as traffic:

            def training(step: int) -> bool:
                turn = traffic.loop()["turn"] or {}
                return turn.get("stage") == "finetune" and turn["step"] >= step and checkpoint_stands(home)

            until(240, lambda: training(3), lambda: traffic.told[-1])
            killed = traffic.told[-1]
            os.kill(killed["pid"], signal.SIGKILL)
            until(60, lambda: traffic.loop()["state"] == "restarting", lambda: traffic.told[-1])
            assert "SIGKILL" in traffic.told[-1]["trouble"]["why"]
            until(240, lambda: traffic.loop()["last"] is not None, lambda: traffic.told[-1])
        told = traffic.told[-1]
        assert traffic.errors == [], "answers do not hang on training"
        assert told["pid"] != killed["pid"]
        assert told["last"]["turn"] == killed["turn"]["number"] == 1
        assert any(one["turn"] and one["turn"]["resumed"] for one in traffic.told)
        assert api.stop() == 0, api.log.read_text()
        assert gone(told["pid"])
    finally:
        api.kill()
    turns = [run for run in runs(home.path) if run["command"] == "turn"]
    assert [run["state"] for run in turns[:2]] == ["died", "done"]
    trained: dict[str, Any] = turns[1]["detail"]["turn"]["training"]
    assert 0 < trained["taken"] < trained["steps"], "training went on from its checkpoint"


def test_ctrl_c_and_a_kill_of_up_leave_no_training_process(home: Home, tmp_path: Path) -> None:
    api = started(home, tmp_path / "log")
    try:
        until(60, lambda: status.read(home.path)["state"] == "waiting", lambda: status.read(home.path))
        began = time.monotonic()
        assert api.stop() == 0, api.log.read_text()
        assert time.monotonic() - began < 20
    finally:
        api.kill()
    assert no_loop_is_left(home)
    assert status.read(home.path)["state"] == "ended"
    assert [run["state"] for run in runs(home.path) if run["command"] in ("up", "loop")] == ["done", "done"]

    killed = started(home, tmp_path / "log2")
    try:
        until(60, lambda: status.read(home.path)["state"] == "waiting", lambda: status.read(home.path))
        pid = status.read(home.path)["pid"]
    finally:
        killed.kill()
    until(10, lambda: gone(pid), lambda: psutil.Process(pid).cmdline())
    assert status.read(home.path)["state"] == "ended"


def test_a_turn_that_fails_is_left_alone_for_a_while_and_says_why(home: Home, handbook: Path, tmp_path: Path) -> None:
    home.env.update(LOOP)
    home.env["HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS"] = "0"
    api = started(home, tmp_path / "log")
    try:
        indexed(api, handbook)
        with Traffic(api, pause_s=0.2) as traffic:
            until(120, lambda: traffic.loop()["state"] == "paused", lambda: traffic.told[-1])
        trouble = traffic.told[-1]["trouble"]
        assert "training.recipe.reranker.epochs" in trouble["why"]
        assert (trouble["recipe"], trouble["times"]) == ("reranker", 1)
        assert traffic.errors == []
        shown = home.run("loop").stdout
        assert "pauses after a turn that failed" in shown
        assert "training.recipe.reranker.epochs" in shown
        assert api.stop() == 0, api.log.read_text()
    finally:
        api.kill()
