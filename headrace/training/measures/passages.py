"""Compares re-rankers by nDCG@10 of the judged passages, in the order that serving would give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.core.progress import ProgressBars
from headrace.models.ranking import RankingWeights, of_retrieval_weight
from headrace.training.data.dataset import by_question, passages, tellable
from headrace.training.interrupt import defer_sigint
from headrace.training.measures import Compared, Rows
from headrace.training.ranker import candidates, learn
from headrace.training.served_order import ServedOrder

CUT = 10
_FOLDS = 5
_CHALLENGER = "challenger"  # has no version yet

Question = Sequence[Mapping[str, Any]]
Scorer = Callable[[str, Sequence[str]], list[float]]


def compare(
    challenger: Path,
    champion: Path | None,
    card: Mapping[str, Any],
    served: ServedOrder,
    tune: Rows,
    test: Rows,
    settings: Any,
    bars: ProgressBars,
) -> Compared:
    """Fit the weight of the challenger's logit among the other features on `tune`, then compare on `test`.

    The other side is the order that is served now, with the champion re-ranker's logits where there is one.
    """
    held_out = tellable(by_question(passages(test)))
    ours = _scorer(challenger, settings.max_tokens)
    weights = fitted(_scored(tellable(by_question(passages(tune))), ours, bars, "fit"))
    mine = [weighed(q, logits, weights) for q, logits in _scored(held_out, ours, bars, "evaluate")]
    plain = [ndcg(labels(q), list(range(len(q)))) for q in held_out]
    if champion is not None:
        scored = _scored(held_out, _scorer(champion, int(card["max_tokens"])), bars, "champion")
        theirs = [served.order(q, logits) for q, logits in scored]
    else:
        theirs = [served.order(q) for q in held_out]
    return Compared(
        measure=f"nDCG@{CUT}",
        ours=tuple(row(q, order) for q, order in zip(held_out, mine, strict=True)),
        theirs=tuple(row(q, order) for q, order in zip(held_out, theirs, strict=True)),
        card={"ranking": weights.model_dump(), "max_tokens": settings.max_tokens},
        retrieval=sum(plain) / len(plain) if plain else 0.0,
    )


def ndcg(relevance: Sequence[float], order: Sequence[int], cut: int = CUT) -> float:
    """nDCG@cut with linear gain: Järvelin, Kekäläinen 2002. `order` lists indices into `relevance`, best first."""
    gained = sum(relevance[i] / math.log2(place + 2) for place, i in enumerate(order[:cut]))
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(relevance, reverse=True)[:cut]))
    return gained / best if best > 0 else 0.0


def labels(rows: Question) -> list[float]:
    """Relevance of a question's passages, in retrieval order."""
    return [float(row["label"]) for row in rows]


def weighed(rows: Question, logits: Sequence[float], weights: RankingWeights) -> list[int]:
    """The order that serving would give these passages."""
    return weights.order(rows[0]["question"], candidates(rows, logits))


def fitted(tune: Sequence[tuple[Question, Sequence[float]]]) -> RankingWeights:
    """The weights of all features, the logits among them, learned from these questions; without any, both orders count alike."""
    if not tune:
        return of_retrieval_weight(0.5)
    learned = learn([q for q, _ in tune], _FOLDS, _CHALLENGER, [logits for _, logits in tune])
    return learned.ranking


def _scorer(folder: Path, most_tokens: int) -> Scorer:
    from headrace.training import crossencoder

    with defer_sigint():
        pair = crossencoder.load(folder)

    def score(question: str, shown: Sequence[str]) -> list[float]:
        with defer_sigint():
            return crossencoder.score(*pair, question, shown, most_tokens)

    return score


def _scored(questions: Sequence[Question], score: Scorer, bars: ProgressBars, what: str) -> list[tuple[Question, list[float]]]:
    return [
        (rows, score(rows[0]["question"], [row["passage"] for row in rows]))
        for rows in bars.track(questions, what, total=len(questions), of="questions")
    ]


def row(rows: Question, order: Sequence[int]) -> dict[str, Any]:
    """A row of `Compared`: a question with the nDCG of its order."""
    judges = [tuple(row.get("users") or filter(None, [row.get("user")])) for row in rows]
    relevance = labels(rows)

    def without(user: str) -> float | None:
        left = [i for i in order if judges[i] != (user,)]
        if not 0 < sum(relevance[i] > 0 for i in left) < len(left):
            return None
        return ndcg([relevance[i] for i in left], range(len(left)))

    users = sorted({user for each in judges for user in each})
    return {
        **{"question": rows[0]["question"], "tenant": rows[0]["tenant"], "users": users},
        **{"score": ndcg(relevance, order), "without": {user: without(user) for user in users}},
    }
