"""The training loop's numbers that need no model: how the learning rate goes."""

from __future__ import annotations

import pytest

from headrace.training.trainer import schedule


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing_over_the_rest() -> None:
    rates = [schedule(step, 20, 0.2) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == [pytest.approx((20 - step) / 16) for step in range(4, 21)]
    assert (max(rates), rates[4], rates[20]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (1, 0.5), (3, 0.1), (2, 0.0)])
def test_every_step_of_a_short_training_moves_something(total: int, warmup: float) -> None:
    assert all(0 < schedule(step, total, warmup) <= 1 for step in range(total))
