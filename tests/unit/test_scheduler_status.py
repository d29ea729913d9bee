"""What the loop counts and tells: against numbers made by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headrace.cli.render.training import deciding, doing, serving, troubled, waiting
from headrace.scheduler import status
from headrace.scheduler.backlog import new
from headrace.scheduler.scheduler import Pause
from headrace.scheduler.status import Status, StatusBars


def position(following: int, topic_epoch: int = 1) -> dict[str, Any]:
    return {"next": following, "topic_epoch": topic_epoch, "cluster": None, "topic": None, "last": None}


def test_new_verdicts_are_those_beyond_what_a_round_read_partition_by_partition() -> None:
    assert new({"0": position(7), "1": position(3)}, {"0": position(5)}) == 2 + 3
    assert new({"0": position(7)}, {"0": position(7)}) == 0
    assert new({}, {}) == 0


def test_of_a_topic_that_was_made_anew_all_verdicts_are_new() -> None:
    assert new({"0": position(4, topic_epoch=2)}, {"0": position(90)}) == 4


def test_each_failure_in_a_row_is_waited_for_twice_as_long_up_to_an_hour() -> None:
    pause = Pause()
    assert [pause.failed() for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert pause.times == 8
    pause.succeeded()
    assert (pause.times, pause.failed()) == (0, 60)
    pause.times = 5_000
    assert pause.failed() == 3600


def test_the_file_says_that_a_process_is_gone_and_what_was_told_last(tmp_path: Path) -> None:
    assert status.read(tmp_path)["state"] == "off"
    told = Status(tmp_path, state="waiting")
    told.flush()
    assert (status.read(tmp_path)["state"], status.read(tmp_path)["running"]) == ("waiting", True)
    file = tmp_path / "loop.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "process_started": 1.0}))
    assert (status.read(tmp_path)["state"], status.read(tmp_path)["running"]) == ("ended", False)


def test_nothing_is_written_where_nothing_has_changed(tmp_path: Path) -> None:
    told = Status(tmp_path, state="waiting")
    told.flush()
    (tmp_path / "loop.json").unlink()
    told.update(state="waiting")
    told.flush()
    assert not (tmp_path / "loop.json").exists()
    told.update(state="paused")
    told.flush()
    assert status.stored(tmp_path)["state"] == "paused"


def test_steps_and_loss_of_the_stage_under_way_are_told(tmp_path: Path) -> None:
    told = Status(tmp_path)
    told.update(round={"number": 3, "recipe": "reranker", "loss": None})
    told.stage("finetune")
    with StatusBars(told).counted("train") as advance:
        advance(1, 100, 0.9)
        advance(2, 100, 0.8)
    current = told.get("round")
    assert (current["stage"], current["step"], current["steps"], current["loss"]) == ("finetune", 2, 100, 0.8)
    assert current["eta_s"] is not None
    told.stage("evaluate")
    assert (told.get("round")["step"], told.get("round")["eta_s"]) == (0, None)
    assert list(StatusBars(told).track([5, 6], "evaluate", total=2)) == [5, 6]
    assert told.get("round")["step"] == 2


def test_what_is_told_reads_as_sentences() -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=3)).isoformat()
    current = {
        "number": 3,
        "recipe": "sft",
        "stage": "finetune",
        "step": 5,
        "steps": 9,
        "eta_s": 12,
        "loss": 0.5,
        "resumed": True,
    }
    trouble = {"recipe": "sft", "why": "It broke.", "hint": "Mend it.", "times": 2, "next": soon}
    told: dict[str, Any] = {"state": "training", "round": current, "trouble": trouble, "note": "", "running": True}
    assert doing(told) == "Round 3 (sft, resumed): finetune, step 5 of 9, loss 0.500, about 12 s left in this stage."
    assert list(troubled(told)) == [
        "The last round with sft failed (2 times in a row): It broke. Mend it. Next attempt in 3 min."
    ]
    row = {"recipe": "sft", "new": 4, "of": 9, "due": False, "due_at": soon, "note": ""}
    assert waiting(row) == {"recipe": "sft", "new verdicts": "4 of 9", "next round": "at 9 verdicts or in 3 min"}
    last = {"round": 2, "recipe": "sft", "promoted": False, "why": "no better", "alarms": ["it repeats"]}
    assert list(deciding({"last": last})) == ["Round 2 (sft) rejected: no better", "  alarm: it repeats"]
    side = {"judged": 4, "outcome": 0.25}
    watched = {
        "version": "v000002",
        "share": 0.1,
        "wanted": 30,
        "challenger": side,
        "champion_side": side,
        "measure": "liked answers",
    }
    model = {"version": "none", "moves": 0, "canary": {"version": "v000002"}, "canary_status": watched}
    assert list(serving({"models": {"generator": model}})) == [
        "generator: the packaged generator",
        "  canary: v000002 with 10% of the answers; 4 of 30 judged, mean 0.250, the champion's 4, mean 0.250 (liked answers)",
    ]
