"""The order of passages by a re-ranker's and retrieval's scores combined; the combined score itself is never shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def combined_order(retrieval: Sequence[float], logits: Sequence[float], retrieval_weight: float) -> list[int]:
    """Indices of the candidates, best first, by w · z(retrieval) + (1 − w) · z(logits).

    z standardises over the candidates of one question, so that scores of different scales can be combined. w is fitted on
    held-out questions (`fitted` in training/measures/passages.py) and stored with the re-ranker. Ties keep retrieval's order.
    """
    scores = retrieval_weight * _standardised(retrieval) + (1.0 - retrieval_weight) * _standardised(logits)
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def _standardised(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(scores, dtype=np.float64)
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
