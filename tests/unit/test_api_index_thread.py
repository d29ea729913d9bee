"""When indexing counts as blocked: from the failure of a stage until that stage has passed, in whichever pass."""

from __future__ import annotations

from headrace.api.index_thread import Blocked


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
