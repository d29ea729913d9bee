"""The order in which passages are served now, for comparing challengers with it on questions that it was learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.catalog import MODELS
from headrace.core.schema import parse
from headrace.models import RANKING, RERANKER
from headrace.models.cards import RankingCard, RerankerCard
from headrace.models.pointer import NONE
from headrace.models.ranking import RETRIEVAL_ORDER, RankingWeights
from headrace.storage.objects import ObjectReader
from headrace.training.promotions import champion
from headrace.training.ranker import FILE, LearnedRanking, candidates, unit_of


@dataclass(frozen=True)
class ServedOrder:
    """The champion ranking, where it was fitted with the champion re-ranker; else that one's weights, else retrieval's order.

    A question is ordered by the ranking's weights that did not see it.
    """

    reranker: str = NONE
    weights: RankingWeights = RETRIEVAL_ORDER
    learned: LearnedRanking | None = None

    @classmethod
    def load(cls, models: ObjectReader) -> ServedOrder:
        """Read what both pointers name. Raises `NotFound` or `InvalidState` where that is not there."""
        ranking, reranker = (champion(models, model)[0].version for model in (RANKING, RERANKER))
        if ranking != NONE:
            key = f"{RANKING}/{ranking}/card.json"
            released = parse(RankingCard, models.get(key), f"{MODELS.name}/{key}")
            name = next((file.key for file in released.files if file.name == FILE), FILE)
            key = f"{RANKING}/{ranking}/{name}"
            learned = parse(LearnedRanking, models.get(key), f"{MODELS.name}/{key}")
            if learned.ranking.reranker == reranker:
                return cls(reranker, learned.ranking, learned)
        if reranker == NONE:
            return cls()
        key = f"{RERANKER}/{reranker}/card.json"
        return cls(reranker, parse(RerankerCard, models.get(key), f"{MODELS.name}/{key}").ranking)

    def order(self, question: Sequence[Mapping[str, Any]], logits: Sequence[float] | None = None) -> list[int]:
        """Indices of a question's judged passages, best first; `logits` are the re-ranker's, by default those recorded."""
        weights = self.weights if self.learned is None else self.learned.unseen(unit_of(question))
        return weights.order(question[0]["question"], candidates(question, logits))
