"""Rates of a run: what they are divided by, and that nothing is divided by what was not measured."""

from __future__ import annotations

from pathlib import Path

from measured_run import journal

from headrace.catalog import CHUNKS, DOCUMENTS
from headrace.core.rates import stage_rates, total_rates, with_rates
from headrace.core.run import recorded
from headrace.storage.ledger import Direction
from headrace.storage.timeline import ASKED


def test_a_stages_rates_are_over_its_time_at_work_and_the_runs_over_its_duration() -> None:
    run = journal()
    stages = {one["stage"]: one for one in stage_rates(run)}
    finetune = sum(row["bytes"] for row in run["rows"] if row["stage"] == "finetune")
    assert stages["finetune"]["bytes"] == finetune
    assert stages["finetune"]["bytes_per_s"] == round(finetune / 121.0)
    assert stages["finetune"]["bytes_per_question"] is None, "no question waited for it"
    assert stages["retrieve"]["bytes_per_question"] == round(stages["retrieve"]["bytes"] / 169)
    assert stages["parse"]["active_s"] is stages["parse"]["bytes_per_s"] is None
    assert [one["stage"] for one in stage_rates(run)] == [*dict.fromkeys(row["stage"] for row in run["rows"])]
    total = total_rates(run)
    assert total["seconds"] == 263.0
    assert total["bytes"] == sum(row["bytes"] for row in run["rows"]) == sum(one["bytes"] for one in stages.values())
    assert total["bytes_per_s"] == round(total["bytes"] / 263)
    assert total["bytes_per_question"] == stages["retrieve"]["bytes_per_question"]
    rows = with_rates(run, run["rows"])
    assert sum(row["bytes_per_s"] for row in rows if row["stage"] == "land") - stages["land"]["bytes_per_s"] in range(-5, 6)


def test_without_a_time_there_are_no_rates() -> None:
    for none in ({"ended": None, "timeline": []}, {"ended": None, "timeline": None, "counts": None}):
        run = journal(**none)
        total = total_rates(run)
        assert total["seconds"] is total["bytes_per_s"] is total["ops_per_s"] is total["bytes_per_question"] is None
        assert total["bytes"] > 0
        assert all(row["bytes_per_s"] is None for row in with_rates(run, run["rows"]))


def test_a_run_says_itself_which_stages_were_at_question_time(tmp_path: Path) -> None:
    with recorded("ask", tmp_path) as ran:
        for stage, phase, store in (("retrieve", ASKED, CHUNKS), ("land", "", DOCUMENTS)):
            with ran.ledger.timeline.span(stage, phase):
                ran.ledger.count(stage, store, Direction.READ, bytes=100, seconds=0.0)
        ran.count(questions=4)
    assert total_rates(ran.as_dict())["bytes_per_question"] == 25
    assert [one["bytes_per_question"] for one in stage_rates(ran.as_dict())] == [25, None]
