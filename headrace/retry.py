"""Exponential backoff between retries."""

from __future__ import annotations

import random


def backoff(failures: int, *, first_s: float, longest_s: float, spread: float = 0.5) -> float:
    """Seconds to wait after so many failures in a row (1 and up): `first_s`, twice as long each time, at most `longest_s`.

    Randomised by `spread` either way, so that clients that collided do not collide again.
    """
    doubled = first_s * 2.0 ** min(failures - 1, 32)
    return min(longest_s, doubled) * random.uniform(1 - spread, 1 + spread)
