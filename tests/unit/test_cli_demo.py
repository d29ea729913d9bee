"""What the demo leaves behind, by what its run did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.cli.common import common, in_this_home
from headrace.cli.demo import draw_run

TINY = Path(__file__).parent / "recorded" / "tiny.json"


def test_a_demo_without_a_round_has_diagrams_and_promises_no_slides(tmp_path: Path) -> None:
    """A folder of two documents gave nothing to learn from, and the last line named a deck that was not there."""
    journal = json.loads(TINY.read_text())
    journal["rows"] = [row for row in journal["rows"] if row["stage"] != "finetune"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{journal['run']}.json").write_text(json.dumps(journal))
    assert not draw_run(tmp_path, journal["run"], tmp_path / "out")
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"inference.svg", "training.svg", "inference.pptx", "training-time.svg"} <= drawn
    assert "deck.pptx" not in drawn


def test_the_next_command_is_in_the_home_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "home", None)
    assert in_this_home("up") == "headrace up"
    monkeypatch.setattr(common, "home", Path("my home"))
    assert in_this_home("up") == "headrace --home 'my home' up"
