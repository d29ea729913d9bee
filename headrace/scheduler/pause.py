"""How long to leave alone what has failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pause:
    """Seconds to wait: `first` after one failure, twice as long after each further one, at most `most`."""

    first: float = 60.0
    most: float = 3_600.0
    times: int = 0
    """Failures in a row."""

    def failed(self) -> float:
        """Count a failure and return the seconds to wait now."""
        self.times += 1
        return float(min(self.most, self.first * 2.0 ** min(self.times - 1, 32)))

    def succeeded(self) -> None:
        """The next failure is the first again."""
        self.times = 0
