"""How far the index is behind a source: after changes, announcements and failures."""

from __future__ import annotations

import time

from headrace.api.follow_thread import Lag


def test_a_change_counts_until_what_it_was_announced_with_is_indexed() -> None:
    indexed = 0
    lag = Lag(lambda announced: indexed > announced)
    assert lag.seconds() == 0
    lag.changed(time.monotonic() - 100)
    assert lag.seconds() >= 100
    lag.announced(0)
    lag.changed(time.monotonic() - 50)  # the next, while the first waits
    lag.announced(1)
    indexed = 1
    assert lag.seconds() >= 100, "the older of them"
    indexed = 2
    assert lag.seconds() == 0


def test_a_change_seen_before_the_last_was_asked_about_is_not_taken_for_indexed() -> None:
    lag = Lag(lambda announced: announced == 0)
    lag.changed(time.monotonic() - 100)
    lag.announced(0)
    lag.changed(time.monotonic() - 10)  # the first is indexed, and nobody looked since
    assert 10 <= lag.seconds() < 100
    lag.announced(1)
    assert lag.seconds() >= 10


def test_a_look_that_finds_nothing_to_put_leaves_what_was_announced_before_it() -> None:
    indexed = 0
    lag = Lag(lambda announced: indexed > announced)
    lag.changed(time.monotonic() - 100)
    lag.announced(0)
    lag.changed(time.monotonic() - 50)  # a file that is read once more, since its first change was a moment ago
    lag.announced(0)
    assert lag.seconds() >= 100
    indexed = 1
    assert lag.seconds() == 0


def test_a_source_that_cannot_be_listed_is_behind_from_the_last_look_on() -> None:
    lag = Lag(lambda _: True)
    lag.failed(time.monotonic() - 30)
    lag.failed(time.monotonic())
    assert lag.seconds() >= 30
    lag.followed()
    assert lag.seconds() == 0
    lag.changed(time.monotonic() - 5)
    lag.announced(None)
    assert lag.seconds() == 0
