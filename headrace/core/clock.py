"""Whether the clock of this machine was set forward, for what deletes by age: that would be too old all at once.

The time since the machine's start runs on whatever the clock is set to. The difference of both is noted in the home, once in
each start of the machine, and a clock that is ahead of it by more than a day was set. A clock that was wrong already when it was
noted is not recognised, nor is one that was set while the machine was off.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from headrace.atomic import write_atomically
from headrace.errors import ClockSet
from headrace.process import boot_id

_SET_S = 86_400.0  # more than leap seconds, slewing and a wrong time zone make


class SteadyClock:
    """The clock beside the time since the machine's start, as noted in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, now_s: float) -> None:
        """Raise `ClockSet` where the clock was set forward by more than a day since it was first noted."""
        ahead_s = _offset(now_s) - self._noted(now_s)
        if ahead_s > _SET_S:
            raise ClockSet(
                f"The clock of this machine was set forward by {ahead_s / 86_400:,.1f} days, so nothing is deleted for its age.",
                hint="Check the time (timedatectl). If it is right now: headrace maintain --clock-is-right",
            )

    def note(self, now_s: float) -> None:
        """Note that the clock is right as it is now."""
        write_atomically(self._path, json.dumps({"boot": boot_id(), "offset_s": _offset(now_s)}).encode())

    def _noted(self, now_s: float) -> float:
        """The difference that was noted in this start of the machine; noted now if there is none."""
        try:
            noted = json.loads(self._path.read_bytes())
            if noted["boot"] == boot_id():
                return float(noted["offset_s"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        self.note(now_s)
        return _offset(now_s)


def _offset(now_s: float) -> float:
    return now_s - time.clock_gettime(time.CLOCK_BOOTTIME)
