"""What is computed from samples: intervals of means, percentiles, and how good an order is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """The mean of some values, its 95 % interval, and the share of resamples whose mean is above 0; four digits each."""

    mean: float
    low: float
    high: float
    above: float


def interval(values: Sequence[float], seed: int) -> Interval:
    """95 % percentile bootstrap of a mean (Efron 1979). No values give zeros: nothing was shown."""
    if len(values) == 0:
        return Interval(0.0, 0.0, 0.0, 0.0)
    data = np.asarray(values, float)
    # How often each value is drawn, instead of the draws: the same resamples in a matrix product, whatever their number.
    counts = np.random.default_rng(seed).multinomial(len(data), np.full(len(data), 1 / len(data)), size=_RESAMPLES)
    means = counts @ data / len(data)
    low, high = np.quantile(means, [0.025, 0.975])
    # Differences that cancel out leave some 1e-17 in a sum.
    above = float((means > 1e-12).mean())
    return Interval(*(round(float(value), 4) for value in (data.mean(), low, high, above)))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
