"""The page while the loop trains: a verdict is learned from, the challenger is promoted, and an operator takes it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import Tab
from judged import judge
from serving import started

if TYPE_CHECKING:
    from conftest import Home

# As TINY in integration/test_training.py: enough for a tiny re-ranker to learn which word is liked.
LEARNS = {
    "HEADRACE_TRAINING__NICE": "0",
    "HEADRACE_TRAINING__THREADS": "1",
    "HEADRACE_TRAINING__RECIPES": '["reranker"]',
    "HEADRACE_TRAINING__VERDICTS": "200",
    "HEADRACE_TRAINING__CANARY__SHARE": "0",
    "HEADRACE_TRAINING__GATE__LEAST_QUESTIONS": "8",
    "HEADRACE_TRAINING__RECIPE__RERANKER__EPOCHS": "4",
    "HEADRACE_TRAINING__RECIPE__RERANKER__BATCH": "4",
    "HEADRACE_TRAINING__RECIPE__RERANKER__MAX_TOKENS": "32",
    "HEADRACE_TRAINING__RECIPE__RERANKER__LEARNING_RATE": "0.002",
    "HEADRACE_TRAINING__RECIPE__RERANKER__CHECKPOINT_STEPS": "100",
}
WORDS = "document.querySelector('.view:not([hidden])').innerText"


@pytest.mark.soak(minutes=2)
@pytest.mark.timeout(600)
def test_a_round_is_watched_its_winner_promoted_and_rolled_back(home: Home, tab: Tab, tmp_path: Path) -> None:
    home.env.update(LEARNS)
    api = started(home, tmp_path / "log")
    try:
        tab.size(1280)
        tab.open(f"{api.url}/#token={api.token}")
        tab.evaluate("location.hash = '#/training'")
        tab.until(f"{WORDS}.includes('No round has run yet')")
        client = api.client()
        client.put("/v1/documents/pump.md", content=b"# Pump\n\nThe pump was drained on Tuesday.\n").raise_for_status()
        api.indexed(client, "pump.md")
        tab.evaluate("location.hash = '#/ask'")
        tab.type("#question", "When was the pump drained?")
        tab.click("#send")
        tab.click(".verdict button", "Helpful")
        tab.click(".why button", "Record verdict")
        tab.until("document.querySelectorAll('.way .done').length === 2", 60)

        judge(api.endpoints, 60, liked="yes", seed=1)
        tab.until("document.querySelectorAll('.way .done').length === 3", 300)
        assert "Round 1 could learn from it" in tab.text()
        tab.evaluate("location.hash = '#/training'")
        tab.until(f"{WORDS}.includes('promoted v000001')", 60)
        tab.until("!!document.querySelector('.interval.better')", 60)
        tab.size(390)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.size(1280)
        tab.click(".training .link", "1")
        tab.until("document.querySelector('dialog').innerText.includes('nDCG')")
        tab.click("dialog button[aria-label=Close]")

        tab.click(".model button", "Roll back")
        tab.type("dialog input", "the operator prefers the old order")
        tab.click("dialog button.danger")
        tab.until(f"!document.querySelector('dialog') && {WORDS}.includes('Rolled back')", 60)
        pointers = [model["pointer"] for model in client.get("/v1/registry").json()["models"]]
        assert {pointer["model"]: pointer["version"] for pointer in pointers}["reranker"] == "none"

        tab.click(".model button", "Promote")
        tab.type("dialog input", "and yet not")
        tab.click("dialog button.main")
        tab.until(f"!document.querySelector('dialog') && {WORDS}.includes('all answers')", 60)
        moves = client.get("/v1/registry").json()["moves"]
        assert [(move["kind"], move["why"]) for move in moves][:2] == [
            ("promote", "and yet not"),
            ("rollback", "the operator prefers the old order"),
        ]
        assert moves[-1]["who"].startswith("round ")
        assert tab.errors == []
        assert api.stop() == 0, api.log.read_text()
    finally:
        api.kill()
