"""Statistics of samples: confidence intervals of means, percentiles, and a sequential sign test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean, its 95 % interval, and the share of resamples with a mean above 0, each rounded to four digits."""

    mean: float
    low: float
    high: float
    above: float


def interval(values: Sequence[float], seed: int) -> Interval:
    """95 % percentile bootstrap interval of a mean (Efron 1979); zeros if there are no values."""
    if len(values) == 0:
        return Interval(0.0, 0.0, 0.0, 0.0)
    data = np.asarray(values, float)
    # Draw the counts of each value instead of the values: the same resamples, as a matrix product.
    counts = np.random.default_rng(seed).multinomial(len(data), np.full(len(data), 1 / len(data)), size=_RESAMPLES)
    means = counts @ data / len(data)
    low, high = np.quantile(means, [0.025, 0.975])
    # Differences that cancel leave about 1e-17 in a sum.
    above = float((means > 1e-12).mean())
    return Interval(*(round(float(value), 4) for value in (data.mean(), low, high, above)))


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile: the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def sign_evidence(wins: int, losses: int) -> float:
    """Evidence that a win is likelier than a loss, an e-value: 1 says nothing; it may be looked at after every trial.

    The likelihood ratio of P(win) = p against 1/2, averaged over p uniform between 1/2 and 1. If P(win) is at most 1/2, the
    chance that it ever reaches 1 / alpha is at most alpha, however long one goes on and whenever one stops (Ville 1939; Robbins
    1970, "Statistical Methods Related to the Law of the Iterated Logarithm").
    """
    from scipy.special import betainc, betaln  # type: ignore[import-untyped]

    a, b = wins + 1, losses + 1
    # 2 * (integral from 1/2 to 1 of p^wins (1 - p)^losses dp) / 2^-(wins + losses)
    above = float(betainc(b, a, 0.5))  # by symmetry the share of Beta(a, b) above 1/2, exact also where it is tiny
    if above == 0.0:
        return 0.0
    return math.exp(min(700.0, math.log(2) * (wins + losses + 1) + float(betaln(a, b)) + math.log(above)))
