"""How the passages found for a question are ordered: by a weighted sum of features, the same for serving and for training.

Every feature but one (see `_known`) depends on the question and its passage alone, so that a passage has the same features among
all candidates, when it is served, and among those that somebody judged, when weights are fitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace.models.pointer import NONE
from headrace.models.support import content_words

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
# The first letters of each word, which is as good as a stemmer and knows every language (McNamee, Mayfield 2004).
_STEM = 5
_STEMS = re.compile(rf"(\w{{1,{_STEM}}})\w*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True)
class Candidate:
    """A passage found for a question.

    `rank` is retrieval's, from 1; `retrieval_share` and `fulltext` are its score and its BM25 as shares of the best candidate's,
    `similarity` its cosine similarity to the question, `logit` the re-ranker's; `None` where that is not known. `position` counts
    the passages of the document that come before it.
    """

    text: str
    heading: str
    uri: str
    position: int | None
    rank: int
    retrieval_share: float | None = None
    similarity: float | None = None
    fulltext: float | None = None
    logit: float | None = None


RETRIEVAL, RERANKER = "retrieval", "reranker"
FEATURES: Mapping[str, str] = {
    RETRIEVAL: "retrieval's score, as a share of the best passage's",
    "rank": "how far up retrieval has it: minus the logarithm of its rank",
    "similarity": "cosine similarity to the question",
    "fulltext": "BM25, as a share of the best passage's",
    "coverage": "share of the question's words that it has",
    "sentence": "share of the question's words that one of its sentences has",
    "phrase": "share of the question's words that it has in a row, as they were asked",
    "heading": "share of the question's words in the headings above it",
    "name": "share of the question's words in its document's name",
    "length": "logarithm of its number of words",
    "position": "minus the logarithm of its place in the document",
    RERANKER: "the re-ranker's logit",
}
"""Each feature's name and its description for users."""
_STANDARDISED = {f"{RETRIEVAL}_standardised": RETRIEVAL, f"{RERANKER}_standardised": RERANKER}
"""Features in standard deviations over a question's passages, as re-rankers released before there was a ranking weigh them."""


class RankingWeights(BaseModel):
    """Weights of features: a passage's score is Σ weight · feature / scale over those that are named.

    `scales` are typical differences of a feature between two passages of a question, which make weights comparable; `reranker` is
    the version whose logits they were fitted with, "none" without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reranker: str = NONE
    weights: dict[str, float] = Field(min_length=1)
    scales: dict[str, float] = {}

    @field_validator("weights")
    @classmethod
    def _known_features(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(weights) - set(FEATURES) - set(_STANDARDISED)):
            raise ValueError(f"this Headrace knows no feature {', '.join(unknown)}")
        return weights

    @model_validator(mode="after")
    def _positive(self) -> RankingWeights:
        if any(scale <= 0 for scale in self.scales.values()):
            raise ValueError("a scale is not above 0")
        return self

    def order(self, question: str, candidates: Sequence[Candidate]) -> list[int]:
        """Indices of the candidates, best first; ties go to the better retrieval rank."""
        names = [name for name, weight in self.weights.items() if weight]
        scores = features(question, candidates, names) @ self.vector(names)
        ranks = [candidate.rank for candidate in candidates]
        return sorted(range(len(candidates)), key=lambda i: (-round(float(scores[i]), 12), ranks[i]))

    def vector(self, names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The weight of each feature in its own unit."""
        return np.array([self.weights.get(name, 0.0) / self.scales.get(name, 1.0) for name in names], np.float64)


RETRIEVAL_ORDER = RankingWeights(weights={"rank": 1.0})
"""Retrieval's own order."""


def of_retrieval_weight(weight: float) -> RankingWeights:
    """The weights of a re-ranker released before there was a ranking: w · z(retrieval) + (1 − w) · z(logits)."""
    return RankingWeights(weights={f"{RETRIEVAL}_standardised": weight, f"{RERANKER}_standardised": 1.0 - weight})


def features(question: str, candidates: Sequence[Candidate], names: Sequence[str] = tuple(FEATURES)) -> Matrix:
    """The features that are named, a column each, of each candidate: float64 (candidates, names)."""
    shown = _Shown(question, candidates)
    columns = [_column(shown, name) for name in names]
    return np.column_stack(columns) if columns else np.zeros((len(candidates), 0))


def _column(shown: _Shown, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = np.asarray(_COMPUTED[_STANDARDISED.get(name, name)](shown), np.float64)
    if name not in _STANDARDISED:
        return values
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


class _Shown:
    """A question with its candidates, read once for all features."""

    def __init__(self, question: str, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.run = _STEMS.findall(question.lower())
        self.wanted = frozenset(word[:_STEM] for word in content_words(question)) or frozenset(self.run)

    @cached_property
    def texts(self) -> list[_Text]:
        return [_text(candidate.text) for candidate in self.candidates]

    def share(self, stems: frozenset[str]) -> float:
        """The share of the question's words among these."""
        return len(self.wanted & stems) / len(self.wanted) if self.wanted else 0.0

    def longest(self, text: str) -> float:
        """The longest run of the question's words that a text has, of two words at least, as a share of all."""
        best, count = 0, len(self.run)
        for start in range(count):
            while start + best < count and f" {' '.join(self.run[start : start + best + 1])} " in text:
                best += 1
        return best / count if best > 1 else 0.0


@dataclass(frozen=True)
class _Text:
    """A passage's words: all of them, in a row, and those of each sentence."""

    stems: frozenset[str]
    row: str
    sentences: tuple[frozenset[str], ...]
    count: int


@lru_cache(maxsize=4096)
def _text(text: str) -> _Text:
    runs = [run for sentence in _SENTENCE_END.split(text.lower()) if (run := _STEMS.findall(sentence))]
    row = [stem for run in runs for stem in run]
    return _Text(frozenset(row), f" {' '.join(row)} ", tuple(map(frozenset, runs)), len(row))


@lru_cache(maxsize=4096)
def _stems(text: str) -> frozenset[str]:
    return frozenset(_STEMS.findall(text.lower().replace("_", " ")))


def _known(values: Sequence[float | None]) -> list[float]:
    """The values, with unknown ones replaced by the mean of the others, so that they count neither for nor against a passage."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    mean = sum(known) / len(known) if known else 0.0
    return [value if value is not None and math.isfinite(value) else mean for value in values]


_COMPUTED: Mapping[str, Callable[[_Shown], Sequence[float]]] = {
    RETRIEVAL: lambda shown: _known([one.retrieval_share for one in shown.candidates]),
    "rank": lambda shown: [-math.log(max(1, one.rank)) for one in shown.candidates],
    "similarity": lambda shown: _known([one.similarity for one in shown.candidates]),
    "fulltext": lambda shown: _known([one.fulltext for one in shown.candidates]),
    "coverage": lambda shown: [shown.share(text.stems) for text in shown.texts],
    "sentence": lambda shown: [max(map(shown.share, text.sentences), default=0.0) for text in shown.texts],
    "phrase": lambda shown: [shown.longest(text.row) for text in shown.texts],
    "heading": lambda shown: [shown.share(_stems(one.heading)) for one in shown.candidates],
    "name": lambda shown: [shown.share(_stems(one.uri)) for one in shown.candidates],
    "length": lambda shown: [math.log1p(text.count) for text in shown.texts],
    "position": lambda shown: _known(
        [None if one.position is None else -math.log1p(max(0, one.position)) for one in shown.candidates]
    ),
    RERANKER: lambda shown: _known([one.logit for one in shown.candidates]),
}
