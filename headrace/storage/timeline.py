"""When each stage of a run was at work, and for how much of that time a storage operation was under way.

Both are bounded: a stage keeps at most `SPANS` spans, the two nearest of which are joined when there are more, and the union of
its operations' intervals is summed as they end. Compute time is then the time at work without an operation under way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

AHEAD, ASKED = "ahead of time", "at question time"
"""Phases of the inference pipeline, which its stages name."""
SPANS = 64
_OPEN = 64
_DIGITS = 4  # of a second in a journal: 0.1 ms


class Intervals:
    """The total length of a union of intervals, added roughly in the order of their ends.

    The newest 64 disjoint parts are kept; an interval that overlaps an older part counts that overlap twice.
    """

    def __init__(self) -> None:
        self._closed = 0.0
        self._parts: deque[tuple[float, float]] = deque()

    def add(self, start: float, end: float) -> None:
        """Add one interval, in seconds."""
        later: list[tuple[float, float]] = []
        while self._parts and self._parts[-1][1] >= start:
            one, two = self._parts.pop()
            if one > end:  # an operation that was counted late
                later.append((one, two))
            else:
                start, end = min(start, one), max(end, two)
        self._parts.append((start, end))
        self._parts.extend(reversed(later))
        while len(self._parts) > _OPEN:
            one, two = self._parts.popleft()
            self._closed += two - one

    @property
    def seconds(self) -> float:
        """The length of the union."""
        return self._closed + sum(end - start for start, end in self._parts)


@dataclass
class _Span:
    """A part of a run, in seconds since its beginning, in which a stage was at work: `calls` times, perhaps with gaps.

    For `active` seconds of it it was at work, for `storage` seconds a storage operation was under way.
    """

    start: float
    end: float
    calls: int
    storage: float
    active: float

    def joined(self, later: _Span) -> _Span:
        """This span and one that began after it, with what is between them."""
        end = max(self.end, later.end)
        overlap = min(later.end - later.start, max(0.0, self.end - later.start))
        active = min(end - self.start, self.active + max(0.0, later.active - overlap))
        return _Span(self.start, end, self.calls + later.calls, self.storage + later.storage, active)


@dataclass
class _Stage:
    phase: str = ""
    calls: int = 0
    threads: dict[int, int] = field(default_factory=dict)  # thread → calls under way in it
    open: dict[int, tuple[float, float]] = field(default_factory=dict)  # call → its start, and the storage time until then
    spans: list[_Span] = field(default_factory=list)
    active: Intervals = field(default_factory=Intervals)
    waited: Intervals = field(default_factory=Intervals)
    storage: Intervals = field(default_factory=Intervals)
    tiers: dict[str, Intervals] = field(default_factory=dict)

    def span(self, call: int, end: float) -> _Span:
        """A call as a span, up to `end`."""
        start, before = self.open[call]
        return _Span(start, end, 1, min(end - start, self.storage.seconds - before), end - start)

    def ended(self, call: int, end: float) -> None:
        """Note a call, and join the two nearest spans if there are too many."""
        new = self.span(call, end)
        del self.open[call]
        start = new.start
        self.active.add(start, end)
        at = len(self.spans)
        while at and self.spans[at - 1].start > start:
            at -= 1
        self.spans.insert(at, new)
        if len(self.spans) > SPANS:
            gaps = [two.start - one.end for one, two in zip(self.spans, self.spans[1:], strict=False)]
            at = gaps.index(min(gaps))
            self.spans[at : at + 2] = [self.spans[at].joined(self.spans[at + 1])]


class Timeline:
    """The time of each stage of one run; thread-safe. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._zero = clock()
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        self._calls = 0

    @contextmanager
    def span(self, stage: str, phase: str = "") -> Iterator[None]:
        """Time a call of a stage, which belongs to a phase of its pipeline or to none."""
        thread, start = threading.get_ident(), self._now()
        with self._lock:
            own = self._stages.setdefault(stage, _Stage(phase))
            self._calls += 1
            call = self._calls
            own.calls += 1
            own.open[call] = start, own.storage.seconds
            own.threads[thread] = own.threads.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                own.threads[thread] -= 1
                if not own.threads[thread]:
                    del own.threads[thread]
                own.ended(call, self._now())

    def counted(self, stage: str, tier: str, seconds: float) -> None:
        """Note storage operations that ended just now and took so many seconds.

        The stage waited for them if the thread is one that runs it.
        """
        end = self._now()
        with self._lock:
            own = self._stages.get(stage)
            if own is None:  # of a component that is not a stage
                return
            start = max(0.0, end - seconds)
            if threading.get_ident() in own.threads:
                own.waited.add(start, end)
            own.storage.add(start, end)
            own.tiers.setdefault(tier, Intervals()).add(start, end)

    def export(self) -> list[dict[str, Any]]:
        """What is known of each stage, JSON-ready, in the order in which they began.

        `active_s`: at work. `storage_s`: a storage operation was under way, of that `waited_s` in the stage's own thread; by tier
        in `tiers`. `spans`: start, end, calls, storage seconds and seconds at work of each. Calls under way count up to now.
        """
        now = self._now()
        with self._lock:
            return [self._exported(name, stage, now) for name, stage in self._stages.items()]

    def _exported(self, name: str, stage: _Stage, now: float) -> dict[str, Any]:
        spans = [*stage.spans, *(stage.span(call, now) for call in stage.open)]
        active = stage.active.seconds
        if stage.open:
            ended = max((span.end for span in stage.spans), default=0.0)
            active += now - max(min(start for start, _ in stage.open.values()), ended)
        return {
            "stage": name,
            "phase": stage.phase,
            "calls": stage.calls,
            "active_s": _s(active),
            "waited_s": _s(stage.waited.seconds),
            "storage_s": _s(stage.storage.seconds),
            "tiers": {tier: _s(union.seconds) for tier, union in stage.tiers.items()},
            "spans": [[_s(span.start), _s(span.end), span.calls, _s(span.storage), _s(span.active)] for span in spans],
        }

    def _now(self) -> float:
        return self._clock() - self._zero


def _s(seconds: float) -> float:
    return round(seconds, _DIGITS)
