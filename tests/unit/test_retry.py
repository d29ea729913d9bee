"""How long is waited before something is tried again."""

from __future__ import annotations

import pytest

from headrace.retry import backoff


def test_waits_double_up_to_a_bound_and_are_spread() -> None:
    assert [backoff(n, first_s=1.0, longest_s=5.0, spread=0.0) for n in (1, 2, 3, 4, 10_000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    spread = [backoff(3, first_s=1.0, longest_s=100.0, spread=0.5) for _ in range(200)]
    assert 2.0 <= min(spread) < 3.0 < 5.0 < max(spread) <= 6.0
    assert len(set(spread)) == pytest.approx(200, abs=5), "those who met do not meet again"
