"""How a challenger is held against the champion on held-out questions, by model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.core.progress import ProgressBars
from headrace.training.names import EMBEDDER, GENERATOR, RANKING, RERANKER
from headrace.training.served_order import ServedOrder

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """What both said to the same held-out questions: a row each, in the same order, with its `score` under `measure`.

    A row also has `question`, `tenant` and `users` (who judged it) and may have groundedness, tokens, refused, repetition.
    `card` is what serving has to know of the challenger; `retrieval` the mean score of retrieval's own order, where that is one.
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
