"""The axis of a timeline: seconds to x, with long pauses cut short."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

_TICKS = 6
_PAUSE = 0.08
"""The part of the whole from which a pause is cut."""
_LONG = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True)
class Part:
    """A part of the axis, in seconds and in x, without a long pause."""

    start: float
    end: float
    left: float
    right: float


class TimeAxis:
    """Places seconds between `left` and `right`. A pause in which nothing is at work, if it is long, is `pause` wide.

    `spans` are the (start, end) of all work.
    """

    def __init__(self, spans: Iterable[tuple[float, float]], left: float, right: float, pause: float) -> None:
        stretches = list(_joined(spans)) or [(0.0, 1.0)]
        busy = max(1e-9, sum(end - start for start, end in stretches))
        self.scale = (right - left - pause * (len(stretches) - 1)) / busy
        """Units of x in a second."""
        x, parts = left, []
        for start, end in stretches:
            wide = (end - start) * self.scale
            parts.append(Part(start, end, x, x + wide))
            x += wide + pause
        self.parts = tuple(parts)

    @property
    def pauses(self) -> list[tuple[Part, Part]]:
        """The parts before and after each pause that is cut."""
        return list(pairwise(self.parts))

    def x(self, seconds: float) -> float:
        """Where a time is; one in a pause is where the pause begins."""
        part = self.parts[max(0, bisect_right([part.start for part in self.parts], seconds) - 1)]
        return min(part.right, part.left + max(0.0, seconds - part.start) * self.scale)

    def ticks(self) -> Iterator[float]:
        """Round times, about six on an axis without pauses."""
        rough = max(1e-6, (self.parts[-1].right - self.parts[0].left) / self.scale / _TICKS)
        power = 10.0 ** math.floor(math.log10(rough))
        steps = [power * factor for factor in (1, 2, 5, 10)] if rough < 10 else _LONG
        step = next((one for one in steps if one >= rough), rough)
        for part in self.parts:
            for number in range(math.ceil(part.start / step), math.floor(part.end / step) + 1):
                yield number * step


def _joined(spans: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The stretches between long pauses."""
    ordered = sorted(spans)
    if not ordered:
        return
    long = _PAUSE * (max(end for _, end in ordered) - ordered[0][0])
    start, until = ordered[0]
    for one, two in ordered[1:]:
        if one - until > long:
            yield start, until
            start, until = one, two
        until = max(until, two)
    yield start, until
