"""A clock that was set forward is not believed where documents are deleted for their age."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from headrace.core.clock import SteadyClock
from headrace.errors import ClockSet

DAY_S = 86_400.0


def test_a_clock_that_was_set_forward_is_found_out_by_every_process_until_somebody_says_that_it_is_right(tmp_path: Path) -> None:
    path, now_s = tmp_path / "platform" / "clock.json", time.time()
    SteadyClock(path).check(now_s)
    SteadyClock(path).check(now_s + 0.9 * DAY_S)
    for _ in range(2):
        with pytest.raises(ClockSet, match=r"set forward by 300\.0 days.*--clock-is-right"):
            SteadyClock(path).check(now_s + 300 * DAY_S)
    SteadyClock(path).check(now_s)  # it was set right again
    SteadyClock(path).note(now_s + 300 * DAY_S)
    SteadyClock(path).check(now_s + 300 * DAY_S)


def test_a_clock_that_was_set_back_deletes_nothing_and_may_be_set_right_again(tmp_path: Path) -> None:
    clock, now_s = SteadyClock(tmp_path / "clock.json"), time.time()
    clock.check(now_s)
    clock.check(now_s - 300 * DAY_S)
    clock.check(now_s)


@pytest.mark.parametrize("left", [b"", b"[]", b'{"boot": 1', b'{"boot": 1, "offset_s": 5}'])
def test_what_another_start_of_the_machine_noted_or_nobody_can_read_is_noted_anew(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "clock.json"
    path.write_bytes(left)
    SteadyClock(path).check(time.time())
    assert json.loads(path.read_bytes())["boot"] != 1
    with pytest.raises(ClockSet):
        SteadyClock(path).check(time.time() + 2 * DAY_S)
