"""Intervals of means: of the share they say, and the same each time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headrace.core.statistics import Interval, interval, percentile, sign_evidence

NOTHING = Interval(0.0, 0.0, 0.0, 0.0)


def test_the_bootstrap_of_gains_alone_is_certain_and_of_nothing_shows_nothing() -> None:
    found = interval([0.1, 0.2, 0.3], 1)
    assert (found.mean, found.above) == (0.2, 1.0)
    assert 0.1 <= found.low < found.high <= 0.3
    assert interval([0.0] * 5, 1) == NOTHING
    assert interval([-0.1, -0.2], 1).above == 0.0
    assert interval([], 1) == NOTHING
    assert interval([0.7] * 9, 1) == Interval(0.7, 0.7, 0.7, 1.0)


def test_the_bootstrap_agrees_with_the_exact_resampling_of_two() -> None:
    # Of the four resamples of (+1, -1) one has a mean above 0, two of 0 and one below.
    found = interval([1.0, -1.0], 1)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert found.above == pytest.approx(0.25, abs=0.02)


def test_the_bootstrap_is_near_the_normal_interval_of_many() -> None:
    differences = np.random.default_rng(3).normal(0.05, 0.2, 400)
    found = interval(differences, 1)
    half = 1.96 * differences.std() / 20
    assert found.low == pytest.approx(differences.mean() - half, abs=0.003)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.003)
    assert interval(differences, 1) == interval(differences, 1)


def test_the_interval_is_of_95_percent() -> None:
    """Of n ones and zeros the resampled mean is binomial, known exactly: 95 % of it lies between these two counts."""
    n = 400
    cumulated, wanted = 0.0, []
    for hits in range(n + 1):
        before, cumulated = cumulated, cumulated + math.comb(n, hits) * 0.3**hits * 0.7 ** (n - hits)
        wanted += [hits / n for share in (0.025, 0.975) if before < share <= cumulated]
    found = interval([1.0] * 120 + [0.0] * 280, 17)
    assert found.mean == 0.3
    assert [found.low, found.high] == pytest.approx(wanted, abs=1.01 / n)
    # One of 90 % would be narrower by three such steps at either end.
    assert wanted[1] - wanted[0] == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / n), abs=0.002)


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([5.0], 0.95) == 5.0
    assert percentile([float(n) for n in range(1, 101)], 0.95) == 95.0


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (0, 1), (5, 0), (7, 3), (60, 40), (3, 30)])
def test_sign_evidence_is_the_averaged_likelihood_ratio(wins: int, losses: int) -> None:
    p = np.linspace(0.5, 1, 200_001)
    ratio = p**wins * (1 - p) ** losses * 2.0 ** (wins + losses)
    average = 2 * float(np.trapezoid(ratio, p))
    assert sign_evidence(wins, losses) == pytest.approx(average, rel=1e-3)


def test_sign_evidence_reaches_its_threshold_by_chance_no_more_often_than_it_says() -> None:
    random, alpha, reached = np.random.default_rng(5), 0.05, 0
    values = {(w, n - w): sign_evidence(w, n - w) for n in range(1, 201) for w in range(n + 1)}
    for _ in range(1000):  # looked at after each of 200 fair trials
        wins = np.cumsum(random.integers(0, 2, 200))
        reached += any(values[int(won), n - int(won)] >= 1 / alpha for n, won in enumerate(wins, 1))
    assert reached <= 1000 * alpha
    gains = np.cumsum(random.random(200) < 0.7)
    assert max(values[int(won), n - int(won)] for n, won in enumerate(gains, 1)) >= 1 / alpha
    assert sign_evidence(0, 5000) >= 0.0
    assert math.isfinite(sign_evidence(5000, 0))
