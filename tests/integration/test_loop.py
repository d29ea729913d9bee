"""The loop of `headrace up` with the real models: rounds that nobody starts, while answers keep flowing.

One round with a tiny re-ranker, killed in the middle, is in faults/test_loop_kill.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serving import started
from traffic import Traffic, indexed, until

from headrace.core.run import runs

if TYPE_CHECKING:
    from conftest import Home

LOOP = {
    "HEADRACE_TRAINING__NICE": "0",  # whatever else runs on this machine
    "HEADRACE_TRAINING__THREADS": "1",
    "HEADRACE_TRAINING__VERDICTS": "40",
    "HEADRACE_TRAINING__RECIPES": '["reranker"]',
    "HEADRACE_TRAINING__GATE__HEADROOM": "1e6",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "2",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MOST_STEPS": "3",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "100",
    "HEADRACE_TRAINING__CANARY__SHARE": "0.5",
    "HEADRACE_TRAINING__CANARY__VERDICTS": "3",
}


@pytest.mark.soak(minutes=4)
@pytest.mark.timeout(1200)
def test_three_rounds_in_a_row_run_unattended_while_answers_keep_flowing(real_home: Home, handbook: Path, tmp_path: Path) -> None:
    home = real_home
    home.env.update(LOOP)
    api = started(home, tmp_path / "log")
    try:
        indexed(api, handbook)
        with Traffic(api, pause_s=0.2) as traffic:
            until(400, lambda: ((traffic.loop()["last"] or {}).get("round") or 0) >= 3, lambda: traffic.told[-1])
        assert traffic.errors == []
        assert traffic.meanwhile > 0, "nothing was answered while a round was made"
        assert [told["trouble"] for told in traffic.told if told["trouble"]] == []
        stages = {told["round"]["stage"] for told in traffic.told if told["round"]}
        assert "finetune" in stages, stages
        last = traffic.told[-1]["last"]
        assert last["why"]
        assert {"land", "prepare", "train", "gate"} <= set(last["timings"])
        assert traffic.told[-1]["landing"]["landed"]["feedback"] > 0
        assert traffic.told[-1]["landing"]["troubles"] == []
        assert api.stop() == 0, api.log.read_text()
    finally:
        api.kill()
    assert "Traceback" not in (home.path / "logs" / "loop.log").read_text()
    assert all(run["state"] == "done" for run in runs(home.path) if run["command"] in ("up", "loop"))
    rounds = [run for run in runs(home.path) if run["command"] == "train"]
    assert [run["state"] for run in rounds[:3]] == ["done"] * 3
    shown = home.run("loop").stdout
    assert "No training loop is running here" in shown
    assert f"Round {last['round']} (reranker)" in shown
