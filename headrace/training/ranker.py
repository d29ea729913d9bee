"""Learns a ranking's weights: listwise, shrunk towards retrieval's own order, judged by weights that did not see the question.

The loss of a question is that of the re-ranker (Gao, Dai, Callan 2021, eq. 3): −log( exp s⁺ / (exp s⁺ + Σ exp s⁻) ), the
mean over its liked passages, s = Σ weight · feature / scale. To it comes penalty / 2 · ‖weights − w⁰‖² (ridge), where w⁰ has
retrieval's score alone: with an infinite penalty the order is retrieval's, and little data changes little. The penalty is chosen
by cross-validation within what is learned from, the strongest whose loss is within a standard error of the best (Breiman,
Friedman, Olshen, Stone 1984, section 3.4.3). The sum is convex and minimised by Newton's method: the same rows give the same
weights.

**Cross-fitting** (Chernozhukov et al. 2018): units of questions (data/split.py) are dealt into folds by their names, and each
fold has weights, and a penalty, from the others alone. They are released beside the weights fitted on all, so that a later
challenger is compared on every question with weights of the champion that did not see it. Scales are those of all questions: no
verdict is in them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from headrace.models.pointer import NONE
from headrace.models.ranking import FEATURES, RERANKER, RETRIEVAL, Candidate, RankingWeights, features
from headrace.training.data.dataset import by_question, passages, tellable

FILE = "ranking.json"
PENALTIES = (math.inf, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_LEAST_PRIOR, _MOST_PRIOR = 0.1, 50.0
_STEPS, _CLOSE = 50, 1e-8

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Question = Sequence[Mapping[str, Any]]


class LearnedRanking(BaseModel):
    """What is released: the weights fitted on all questions, those of each fold, and how they came about.

    `loss` is the mean over the questions, each by the weights that did not see it; `prior_loss` that of retrieval's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    ranking: RankingWeights
    folds: tuple[RankingWeights, ...]
    penalty: float | None
    """`None`: infinite."""
    questions: int
    loss: float
    prior_loss: float

    def unseen(self, unit: str) -> RankingWeights:
        """The weights that did not see the questions of a unit."""
        return self.folds[fold_of(unit, len(self.folds))]


def fold_of(unit: str, folds: int) -> int:
    """The fold of a unit: by the hash of its name, so that a unit is in the same one in every round."""
    return int(hashlib.sha256(unit.encode()).hexdigest()[:8], 16) % folds


def unit_of(question: Question) -> str:
    """The unit of a question of a dataset."""
    return str(question[0].get("unit") or question[0]["question"])


def judged(rows: Sequence[Mapping[str, Any]], reranker: str) -> list[Question]:
    """The questions that can tell two orders apart; with a re-ranker, by the passages that this version of it scored."""
    scored = [row for row in passages(rows) if reranker == NONE or _scored(row, reranker)]
    return tellable(by_question(scored))


def unscored(rows: Sequence[Mapping[str, Any]], reranker: str) -> int:
    """Judged passages that this version of the re-ranker did not score."""
    return 0 if reranker == NONE else sum(not _scored(row, reranker) for row in passages(rows))


def candidates(question: Question, logits: Sequence[float | None] | None = None) -> list[Candidate]:
    """A question's passages as candidates, with the logits given, by default those that were recorded."""
    known = [row.get("rerank_score") for row in question] if logits is None else logits
    return [
        Candidate(
            text=row["passage"],
            heading=row.get("heading") or "",
            uri=row.get("uri") or "",
            position=row.get("position"),
            rank=int(row["retrieval_rank"]),
            retrieval_share=row.get("retrieval_share"),
            similarity=row.get("similarity"),
            fulltext=row.get("fulltext"),
            logit=logit,
        )
        for row, logit in zip(question, known, strict=True)
    ]


def learn(
    questions: Sequence[Question], folds: int, reranker: str = NONE, logits: Sequence[Sequence[float]] | None = None
) -> LearnedRanking:
    """Learn from questions that can tell two orders apart; with a `reranker` from its `logits`, by default those recorded.

    Raises `ValueError` where there is no question.
    """
    if not questions:
        raise ValueError("there is no question to learn from")
    names = [name for name in FEATURES if reranker != NONE or name != RERANKER]
    given: Sequence[Sequence[float] | None] = logits or [None] * len(questions)
    matrices = [
        features(question[0]["question"], candidates(question, own), names)
        for question, own in zip(questions, given, strict=True)
    ]
    scales = _scales(matrices)
    names, scales, keep = _telling(names, scales)
    lists = _Lists.of([m[:, keep] / scales for m in matrices], [[float(row["label"]) for row in q] for q in questions])
    fold = np.array([fold_of(unit_of(question), folds) for question in questions])
    fits = _Fits(lists, fold, folds, names.index(RETRIEVAL) if RETRIEVAL in names else None)

    def weights(values: Vector) -> RankingWeights:
        pairs = zip(names, values.tolist(), strict=True)
        return RankingWeights(
            reranker=reranker,
            weights={name: round(value, 6) for name, value in pairs} or {"rank": 1.0},
            scales={name: round(scale, 9) for name, scale in zip(names, scales.tolist(), strict=True)},
        )

    chosen = fits.chosen(frozenset())
    unseen = [fits.fitted(frozenset({k})) for k in range(folds)]
    own = np.stack(unseen)[fold] if len(questions) else np.zeros((0, len(names)))
    return LearnedRanking(
        ranking=weights(fits.fitted(frozenset())),
        folds=tuple(map(weights, unseen)),
        penalty=None if math.isinf(PENALTIES[chosen]) else PENALTIES[chosen],
        questions=len(questions),
        loss=round(float(lists.losses(own).mean()), 6),
        prior_loss=round(float(lists.losses(np.tile(fits.prior(frozenset()), (len(questions), 1))).mean()), 6),
    )


def _scored(row: Mapping[str, Any], reranker: str) -> bool:
    return row.get("reranker") == reranker and row.get("rerank_score") is not None


def _scales(matrices: Sequence[np.ndarray[Any, Any]]) -> Vector:
    """Root mean square of each feature's difference from its question's mean."""
    deviations = np.concatenate([m - m.mean(axis=0) for m in matrices])
    scales: Vector = np.sqrt((deviations**2).mean(axis=0))
    return scales


def _telling(names: Sequence[str], scales: Vector) -> tuple[list[str], Vector, list[int]]:
    """The features that tell any two passages apart, with their scales and columns."""
    keep = [i for i, scale in enumerate(scales) if scale > 1e-9]
    return [names[i] for i in keep], scales[keep], keep


@dataclass(frozen=True)
class _Lists:
    """A list for each liked passage: its differences from the disliked ones of its question, a row each.

    `starts` is where each list begins, `question` the question it belongs to, `weight` one over that question's liked passages.
    """

    differences: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    starts: np.ndarray[tuple[int], np.dtype[np.int64]]
    question: np.ndarray[tuple[int], np.dtype[np.int64]]
    weight: Vector
    count: int

    @classmethod
    def of(cls, matrices: Sequence[np.ndarray[Any, Any]], labels: Sequence[Sequence[float]]) -> _Lists:
        parts, starts, question, weight, row = [], [], [], [], 0
        for number, (matrix, own) in enumerate(zip(matrices, labels, strict=True)):
            liked = [i for i, label in enumerate(own) if label > 0]
            disliked = [i for i, label in enumerate(own) if label <= 0]
            for i in liked:
                parts.append(matrix[disliked] - matrix[i])
                starts.append(row)
                question.append(number)
                weight.append(1.0 / len(liked))
                row += len(disliked)
        return cls(np.concatenate(parts), np.array(starts), np.array(question), np.array(weight), len(matrices))

    @cached_property
    def sizes(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.diff([*self.starts.tolist(), len(self.differences)])

    def only(self, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> _Lists:
        """The lists of some questions."""
        lists = chosen[self.question]
        sizes = self.sizes[lists]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else np.zeros(0, np.int64)
        rows = np.repeat(lists, self.sizes)
        return _Lists(self.differences[rows], starts, self.question[lists], self.weight[lists], int(chosen.sum()))

    def losses(self, weights: np.ndarray[Any, np.dtype[np.float64]]) -> Vector:
        """The loss of each question under its weights: float64 (questions, features) → (questions,)."""
        scores = np.einsum("pf,pf->p", self.differences, weights[np.repeat(self.question, self.sizes)])
        total = np.zeros(len(weights))
        np.add.at(total, self.question, self.weight * self._logs(scores)[0])
        return total

    def step(self, weights: Vector) -> tuple[float, Vector, np.ndarray[Any, np.dtype[np.float64]]]:
        """Mean loss, gradient and Hessian at one vector of weights for all."""
        logs, chances = self._logs(self.differences @ weights)
        share = self.weight / self.count
        pull = chances[:, None] * self.differences
        means = np.add.reduceat(pull, self.starts, axis=0)
        hessian = (pull * np.repeat(share, self.sizes)[:, None]).T @ self.differences - (means * share[:, None]).T @ means
        return float(share @ logs), means.T @ share, hessian

    def _logs(self, scores: Vector) -> tuple[Vector, Vector]:
        """log(1 + Σ exp s) of each list, and each row's share of that sum."""
        tops = np.maximum(np.maximum.reduceat(scores, self.starts), 0.0)
        raised = np.exp(scores - np.repeat(tops, self.sizes))
        sums = np.exp(-tops) + np.add.reduceat(raised, self.starts)
        return tops + np.log(sums), raised / np.repeat(sums, self.sizes)


class _Fits:
    """Weights fitted without some folds, for every penalty; each is made once."""

    def __init__(self, lists: _Lists, fold: np.ndarray[Any, np.dtype[np.int64]], folds: int, retrieval: int | None) -> None:
        self._lists, self._fold, self._folds, self._retrieval = lists, fold, folds, retrieval
        self._paths: dict[frozenset[int], np.ndarray[Any, np.dtype[np.float64]]] = {}
        self._width = lists.differences.shape[1]

    def fitted(self, without: frozenset[int]) -> Vector:
        """The weights of the chosen penalty."""
        weights: Vector = self._path(without)[self.chosen(without)]
        return weights

    def prior(self, without: frozenset[int]) -> Vector:
        """Retrieval's score alone, weighed as fits the questions best; its weight is above 0, whatever they say."""
        return np.asarray(self._path(without)[0])

    def chosen(self, without: frozenset[int]) -> int:
        """The place of the penalty that cross-validation over the other folds chooses."""
        losses = np.full((len(PENALTIES), self._lists.count), np.nan)
        for k in set(range(self._folds)) - without:
            mine = self._fold == k
            if mine.any() and not (without | {k}) >= set(self._fold.tolist()):
                for place, weights in enumerate(self._path(without | {k})):
                    losses[place, mine] = self._losses(weights)[mine]
        known = losses[:, ~np.isnan(losses[0])]
        if known.shape[1] < 2:
            return 0
        best = int(known.mean(axis=1).argmin())
        worse = known - known[best]
        errors = worse.std(axis=1, ddof=1) / math.sqrt(known.shape[1])
        return int(np.flatnonzero(worse.mean(axis=1) <= errors)[0])

    def _losses(self, weights: Vector) -> Vector:
        return self._lists.losses(np.tile(weights, (self._lists.count, 1)))

    def _path(self, without: frozenset[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Weights for every penalty, from the strongest on: float64 (penalties, features)."""
        if without not in self._paths:
            chosen = ~np.isin(self._fold, sorted(without))
            lists = self._lists.only(chosen)
            prior = np.zeros(self._width)
            found = []
            if self._retrieval is not None:
                prior[self._retrieval] = self._scale(lists) if chosen.any() else 1.0
            weights = prior
            for penalty in PENALTIES:
                if not math.isinf(penalty) and chosen.any():
                    weights = _minimised(lists, weights, prior, penalty)
                found.append(weights)
            self._paths[without] = np.stack(found)
        return self._paths[without]

    def _scale(self, lists: _Lists) -> float:
        assert self._retrieval is not None
        column = lists.differences[:, self._retrieval : self._retrieval + 1]
        alone = _Lists(column, lists.starts, lists.question, lists.weight, lists.count)
        fitted = _minimised(alone, np.ones(1), np.ones(1), 1e-3)
        return float(np.clip(fitted[0], _LEAST_PRIOR, _MOST_PRIOR))


def _minimised(lists: _Lists, start: Vector, prior: Vector, penalty: float) -> Vector:
    """The weights of least penalised loss, by Newton's method with step halving."""
    weights = start

    def penalised(at: Vector) -> tuple[float, Vector, np.ndarray[Any, np.dtype[np.float64]]]:
        loss, gradient, hessian = lists.step(at)
        away = at - prior
        return loss + penalty / 2 * float(away @ away), gradient + penalty * away, hessian + penalty * np.eye(len(at))

    value, gradient, hessian = penalised(weights)
    for _ in range(_STEPS):
        direction = np.linalg.solve(hessian, gradient)
        falls = float(direction @ gradient)
        if falls < _CLOSE:
            break
        size = 1.0
        while True:
            moved = penalised(weights - size * direction)
            if moved[0] <= value - 1e-4 * size * falls or size < 1e-6:
                break
            size /= 2
        weights = weights - size * direction
        value, gradient, hessian = moved
    return weights
