"""When indexing counts as blocked: from the failure of a stage until that stage has passed, in whichever pass."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from unstarted import unstarted

from headrace.api.index_thread import Blocked, IndexThread
from headrace.documents.view import DocumentView
from headrace.errors import LostRace
from headrace.settings import Inference


def test_indexing_is_blocked_until_the_stage_that_failed_has_passed() -> None:
    blocked = Blocked()
    assert blocked.trouble is None
    blocked.begun()
    blocked.passed()
    blocked.failed("fails (Unavailable)")
    assert blocked.trouble is not None
    since = blocked.trouble.since
    blocked.begun()
    blocked.passed()
    assert blocked.trouble is not None, "the one before it works; it did before"
    blocked.failed("fails (StorageFull)")
    assert (blocked.trouble.state, blocked.trouble.since) == ("fails (StorageFull)", since)
    blocked.begun()
    for _ in range(2):
        blocked.passed()
    assert blocked.trouble is None, "though the pass goes on"


def test_what_fails_earlier_or_behind_all_stages_is_told_too() -> None:
    blocked = Blocked()
    blocked.begun()
    for _ in range(3):
        blocked.passed()
    blocked.failed("fails (RequestRefused)")
    blocked.begun()
    blocked.failed("fails (Unavailable)")
    blocked.begun()
    blocked.passed()
    assert blocked.trouble is None
    for _ in range(4):
        blocked.passed()
    blocked.failed("fails (LostRace)")
    assert blocked.trouble is not None
    blocked.begun()
    for _ in range(5):
        blocked.passed()
    assert blocked.trouble is not None, "what failed is behind the last stage"
    blocked.done()
    assert blocked.trouble is None


class OvertakenThread(IndexThread):
    """Another replica is faster, so many times; then nothing is left to do."""

    passes = losses = 0
    seen: list[str]
    whole: threading.Event

    def _pass(self) -> None:
        self.passes += 1
        trouble = self.trouble()
        self.seen.append(trouble.state if trouble else "")
        if self.passes <= self.losses:
            raise LostRace("Another writer changed property 'processed_offsets'.", hint="Run the command again.")
        self.whole.set()


@pytest.mark.parametrize(("losses", "told"), [(5, False), (25, True)])
def test_a_replica_that_is_overtaken_stays_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: int, told: bool
) -> None:
    """Of two that documents were put to, each was not ready for a sixth of the time."""
    monkeypatch.setattr("headrace.api.index_thread._OVERTAKEN_S", 0.001)
    monkeypatch.setattr("headrace.api.index_thread._AWAY_S", 0.001)
    with unstarted(tmp_path) as service:
        runner = service.app.runner
        thread = OvertakenThread(DocumentView(runner), runner, Inference())
        thread.losses, thread.seen, thread.whole = losses, [], threading.Event()
        thread.start()
        assert thread.whole.wait(30)
        thread.stop(10)
    assert len(thread.seen) == losses + 1
    assert any("overtaken by another process again and again" in state for state in thread.seen) == told
    assert thread.trouble() is None
