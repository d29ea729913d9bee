"""Where the time of a turn went, from the newest verdict it learned from to the weights that were learned."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Clock:
    """Seconds by part of a turn.

    head: the newest verdict waited there, and in the table, until the turn began · land · prepare · train: of which read (data
    and first weights) · checkpoint: writing them, beside the steps · gate: evaluation · load: what answers loads the weights ·
    publish: release, manifest and pointer.
    """

    newest_verdict: str | None
    started: float
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = self.started
        if self.newest_verdict:
            began = datetime.now(UTC).timestamp() - (time.perf_counter() - self.started)
            self.seconds["head"] = round(max(0.0, began - datetime.fromisoformat(self.newest_verdict).timestamp()), 2)

    def lap(self, name: str) -> None:
        """The time since the last lap went into `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 2)
        self._last = now

    @property
    def feedback_to_served(self) -> float | None:
        """Seconds from the newest verdict to now; `None` where there was none to learn from."""
        if not self.newest_verdict:
            return None
        return round(datetime.now(UTC).timestamp() - datetime.fromisoformat(self.newest_verdict).timestamp(), 2)
