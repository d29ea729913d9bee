"""Statistics of samples: confidence intervals of means, and percentiles."""

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
