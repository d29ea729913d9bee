"""A mean and how far it may be off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000
_SEED = 17


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % percentile bootstrap over the questions (Efron 1979). No values give zeros."""
    if not values:
        return 0.0, 0.0, 0.0
    data = np.asarray(values, float)
    random = np.random.default_rng(_SEED)
    # Multinomial counts instead of picks: the same resamples in a matrix product, whatever the number of questions.
    counts = random.multinomial(len(data), np.full(len(data), 1 / len(data)), size=_RESAMPLES)
    low, high = np.quantile(counts @ data / len(data), [0.025, 0.975])
    return round(float(data.mean()), 4), round(float(low), 4), round(float(high), 4)
