"""evaluate: challenger against champion on held-out questions, question by question, with a paired bootstrap."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np

from headrace.catalog import CHECKPOINTS, DATASETS, MODELS
from headrace.models.combination import combined_order
from headrace.pipeline.progress import Bars
from headrace.pipeline.stage import stage
from headrace.settings import Training
from headrace.storage.objects import ObjectReader
from headrace.training.champion import RERANKER, card, champion
from headrace.training.loop import Trained
from headrace.training.prepare import TEST, TUNE, Dataset, questions

_CUT = 10
_RESAMPLES = 10_000
_WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))

# Scores the passages of a question: raw logits, in their order.
Scorer = Callable[[str, Sequence[str]], list[float]]


@dataclass(frozen=True)
class Evaluation:
    """What the held-out questions say: mean nDCG@10 of each, and the mean difference with its two-sided 95 % interval.

    `confidence` is the share of bootstrap resamples in which the challenger is better.
    """

    questions: int
    retrieval: float
    champion: float
    champion_version: str
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float
    retrieval_weight: float

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as the manifest names it."""
        return {**vars(self)}


@stage("Compares challenger and champion on held-out questions, with a paired bootstrap.")
def evaluate(
    datasets: Annotated[ObjectReader, DATASETS],
    checkpoints: Annotated[ObjectReader, CHECKPOINTS],
    models: Annotated[ObjectReader, MODELS],
    bars: Bars,
    dataset: Dataset,
    trained: Trained,
    settings: Training,
) -> Evaluation:
    """Fit how the challenger's score is weighed with retrieval's on the `tune` questions, then compare on `test`.

    The champion is what is served now: the promoted re-ranker, or retrieval's own order before the first promotion.
    """
    from headrace.training import crossencoder

    with tempfile.TemporaryDirectory() as folder:
        challenger = crossencoder.load(_fetch(checkpoints, trained.weights, Path(folder) / "challenger"))
        standing = champion(models)[0]
        reigning, reigning_weight = None, 1.0
        if standing.version != "none":
            prefix = f"{RERANKER}/{standing.version}"
            reigning = crossencoder.load(_fetch(models, prefix, Path(folder) / "champion"))
            reigning_weight = float(card(models, standing.version)["retrieval_weight"])

        def scorer(pair: tuple[Any, Any]) -> Scorer:
            return lambda question, passages: crossencoder.score(*pair, question, passages, settings.max_tokens)

        tune = _scored(questions(datasets, dataset, TUNE), scorer(challenger), bars, "fit")
        weight = _fitted(tune)
        test = questions(datasets, dataset, TEST)
        ours = [
            ndcg(labels(rows), weighed(rows, logits, weight))
            for rows, logits in _scored(test, scorer(challenger), bars, "evaluate")
        ]
        plain = [ndcg(labels(rows), list(range(len(rows)))) for rows in _asked(test)]
        theirs = plain
        if reigning is not None:
            theirs = [
                ndcg(labels(rows), weighed(rows, logits, reigning_weight))
                for rows, logits in _scored(test, scorer(reigning), bars, "champion")
            ]
    differences = np.asarray(ours) - np.asarray(theirs)
    low, high, confidence = bootstrap(differences, settings.seed)
    return Evaluation(
        questions=len(ours),
        retrieval=_mean(plain),
        champion=_mean(theirs),
        champion_version=standing.version,
        challenger=_mean(ours),
        difference=_mean(differences),
        low=low,
        high=high,
        confidence=confidence,
        retrieval_weight=weight,
    )


def ndcg(relevance: Sequence[float], order: Sequence[int], cut: int = _CUT) -> float:
    """nDCG@cut with linear gain: Järvelin, Kekäläinen 2002. `order` lists indices into `relevance`, best first."""
    gained = sum(relevance[i] / math.log2(place + 2) for place, i in enumerate(order[:cut]))
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(relevance, reverse=True)[:cut]))
    return gained / best if best > 0 else 0.0


def bootstrap(differences: np.ndarray[Any, Any], seed: int) -> tuple[float, float, float]:
    """(low, high, share above 0) of the mean of paired differences: 95 % percentile bootstrap (Efron 1979).

    No questions give (0, 0, 0): nothing was shown. A resample without any difference counts as not better.
    """
    if len(differences) == 0:
        return 0.0, 0.0, 0.0
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(differences), size=(_RESAMPLES, len(differences)))
    means = differences[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4), round(float((means > 0).mean()), 4)


def labels(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Relevance of a question's passages, in retrieval order."""
    return [float(row["label"]) for row in rows]


def weighed(rows: Sequence[dict[str, Any]], logits: Sequence[float], weight: float) -> list[int]:
    """The order that serving would give these passages."""
    return combined_order([row["retrieval_score"] for row in rows], logits, weight)


def _asked(by_question: dict[str, list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The questions that can tell orders apart: at least one passage liked and one not."""
    return [rows for rows in by_question.values() if 0 < sum(labels(rows)) < len(rows)]


def _scored(
    by_question: dict[str, list[dict[str, Any]]], score: Scorer, bars: Bars, what: str
) -> list[tuple[list[dict[str, Any]], list[float]]]:
    asked = _asked(by_question)
    return [
        (rows, score(rows[0]["question"], [row["passage"] for row in rows]))
        for rows in bars.track(asked, what, total=len(asked), of="questions")
    ]


def _fitted(tune: list[tuple[list[dict[str, Any]], list[float]]]) -> float:
    """The retrieval weight with the best mean nDCG@10; of equals the one that trusts retrieval most."""
    if not tune:
        return 0.5
    means = {w: _mean([ndcg(labels(rows), weighed(rows, logits, w)) for rows, logits in tune]) for w in _WEIGHTS}
    return max(means, key=lambda w: (means[w], w))


def _fetch(store: ObjectReader, prefix: str, folder: Path) -> Path:
    for info in list(store.list(f"{prefix}/")):
        path = folder / PurePosixPath(info.key).relative_to(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(info.key, path)
    return folder


def _mean(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
