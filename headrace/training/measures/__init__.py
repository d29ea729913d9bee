"""Comparisons of challenger and champion on held-out questions, one module per model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.core.progress import ProgressBars
from headrace.models import EMBEDDER, GENERATOR, RANKING, RERANKER
from headrace.training.served_order import ServedOrder

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """Both models' results on the same held-out questions: one row per question, in the same order, with its `score`.

    A row also has `question`, `tenant` and `users` (who judged it) and may have groundedness, tokens, refused, repetition. Its
    `without` has for each of these users the score by the verdicts of the others, `None` where these tell nothing.
    `measure` names the score, `card` has what serving needs of the challenger, and `retrieval` is the mean score of retrieval's
    order, if it has one.
    """

    measure: str
    ours: tuple[dict[str, Any], ...]
    theirs: tuple[dict[str, Any], ...]
    card: dict[str, Any] = field(default_factory=dict)
    retrieval: float | None = None


# (challenger's folder, champion's folder or None for what the package has, the champion's card, the order that is served now,
# rows to fit on, rows to compare on, the recipe's settings, bars)
Measure = Callable[[Path, Path | None, Mapping[str, Any], ServedOrder, Rows, Rows, Any, ProgressBars], Compared]


def measure_of(model: str) -> Measure:
    """The measure of a model's challengers."""
    if model == RANKING:
        from headrace.training.measures.ranking import compare as by_ranking

        return by_ranking
    if model == RERANKER:
        from headrace.training.measures.passages import compare

        return compare
    if model == EMBEDDER:
        from headrace.training.measures.embeddings import compare as by_cosine

        return by_cosine
    if model == GENERATOR:
        from headrace.training.measures.answers import compare as by_answers

        return by_answers
    raise KeyError(model)
