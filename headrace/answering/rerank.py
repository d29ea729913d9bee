"""rerank: orders the passages by the champion ranking and re-ranker; without both, retrieval's order is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from headrace.catalog import MODELS
from headrace.core.stage import stage
from headrace.errors import Transient
from headrace.models.client import Reranker
from headrace.models.interleaving import team_draft
from headrace.models.pointer import NONE
from headrace.models.ranking import RERANKER, RETRIEVAL_ORDER, Candidate, RankingWeights
from headrace.models.served_ranking import RankingReader
from headrace.storage.timeline import ASKED
from headrace.storage.vectors.search import Hit


@dataclass(frozen=True)
class Passage:
    """A retrieved passage with its ranks, which start at 1, and its scores.

    `rerank_score` is the cross-encoder's raw logit, `None` without one. `rerank_rank` is the final rank, `None` if retrieval's
    order was kept.
    """

    hit: Hit
    retrieval_rank: int
    rerank_score: float | None = None
    rerank_rank: int | None = None
    team: str = ""
    """The ranking that picked it, if the answer's passages are interleaved (`models/interleaving.py`)."""

    def as_dict(self) -> dict[str, object]:
        """The passage as `headrace search --json` prints it."""
        return {
            "chunk_id": self.hit.chunk_id,
            "document": self.hit.uri,
            "sources": [source._asdict() for source in self.hit.sources],
            "heading": self.hit.heading,
            "place": self.hit.place,
            "text": self.hit.text,
            "retrieval_score": self.hit.score,
            "retrieval_rank": self.retrieval_rank,
            "rerank_score": self.rerank_score,
            "rerank_rank": self.rerank_rank,
        }


@dataclass(frozen=True)
class Reranked:
    """Passages in their final order, the versions that ordered them, and a note if a model was left out.

    `model_version` is the re-ranker that scored them, `ranking_version` the ranking that ordered them; "none" if there is none.
    """

    passages: tuple[Passage, ...]
    model_version: str = NONE
    note: str = ""
    ranking_version: str = NONE


@stage("Scores the passages with the champion re-ranker, if any, and orders them by the champion ranking's weights.", phase=ASKED)
def rerank(
    models: Annotated[RankingReader, MODELS], question: str, hits: tuple[Hit, ...], reranker: Reranker, answer_id: str = ""
) -> Reranked:
    """Order the passages of one answer; `answer_id` decides whether champion or canary orders them.

    An answer in a ranking's canary is interleaved: champion and challenger each pick half of its passages, so that verdicts on
    them compare the two for the same user and question.

    The weights are the champion ranking's if they were fitted with the re-ranker that scored the passages, otherwise those on
    that re-ranker's card; with neither, retrieval's order is kept. A re-ranker that is down or slow is left out with a note.
    """
    as_retrieved = tuple(Passage(hit, rank) for rank, hit in enumerate(hits, 1))
    if not hits:
        return Reranked(())
    try:
        scored = reranker.rank(question, [hit.text for hit in hits], answer_id=answer_id)
    except Transient as error:
        return Reranked(as_retrieved, note=f"the re-ranker did not answer, so retrieval order is kept: {error.message}")
    models.take(scored.storage)
    ranking = models.recent()
    other = "retrieval" if scored.logits is None else "the re-ranker's"
    note = f"the ranking cannot be read, so {other} order is kept: {ranking.trouble}" if ranking.trouble else ""
    version, weights = ranking.champion(scored.version)
    if weights is None:
        weights = None if scored.logits is None else scored.ranking or BY_LOGITS
    canary, tried = ranking.challenger(answer_id, scored.version)
    if weights is None and tried is None:
        return Reranked(as_retrieved, note=note)
    logits: Sequence[float | None] = scored.logits or [None] * len(hits)
    candidates = [_candidate(passage, logit) for passage, logit in zip(as_retrieved, logits, strict=True)]
    order = (weights or RETRIEVAL_ORDER).order(question, candidates)
    drafted = [(i, "") for i in order]
    if tried is not None:
        version, drafted = canary, team_draft(order, tried.order(question, candidates), answer_id)
    passages = tuple(
        replace(as_retrieved[i], rerank_score=logits[i], rerank_rank=rank, team=team) for rank, (i, team) in enumerate(drafted, 1)
    )
    return Reranked(passages, scored.version, note, version)


BY_LOGITS = RankingWeights(weights={RERANKER: 1.0})
"""For a re-ranker without ranking weights, such as the user's own: order by its logits."""


def _candidate(passage: Passage, logit: float | None) -> Candidate:
    hit = passage.hit
    return Candidate(
        text=hit.text,
        heading=hit.heading,
        uri=hit.uri,
        position=hit.position,
        rank=passage.retrieval_rank,
        retrieval_share=hit.retrieval_share,
        similarity=hit.similarity,
        fulltext=hit.fulltext,
        logit=logit,
    )
