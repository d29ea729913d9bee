"""How long to wait before something is tried again."""

from __future__ import annotations

import random


def backoff(failures: int, *, first_s: float, longest_s: float, spread: float = 0.5) -> float:
    """Seconds to wait after so many failures in a row (1 and up): `first_s`, twice as long each time, at most `longest_s`.

    They are spread by `spread` either way, so that those who met each other do not meet again.
    """
    doubled = first_s * 2.0 ** min(failures - 1, 32)
    return min(longest_s, doubled) * random.uniform(1 - spread, 1 + spread)
