"""rerank: the champion cross-encoder's order of the passages, or retrieval's own where there is no champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from headrace.answering.retrieve import ASKED
from headrace.catalog import MODELS
from headrace.core.stage import stage
from headrace.errors import Transient
from headrace.models.client import Reranker
from headrace.models.combination import combined_order
from headrace.storage.meter import ReportedReader
from headrace.storage.vectors.search import Hit

NONE = "none"


@dataclass(frozen=True)
class Passage:
    """A passage with the score and rank of retrieval and, where a re-ranker scored it, those of the re-ranker.

    `rerank_score` is the cross-encoder's raw logit; ranks start at 1.
    """

    hit: Hit
    retrieval_rank: int
    rerank_score: float | None = None
    rerank_rank: int | None = None

    def as_dict(self) -> dict[str, object]:
        """The passage under the JSON keys of the command-line contract."""
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
    """Passages in the order that stands, the version that ordered them ("none": retrieval's own), and a note if it fell back."""

    passages: tuple[Passage, ...]
    model_version: str
    note: str = ""


@stage("Orders the passages by the champion re-ranker, whose score is weighed with retrieval's.", phase=ASKED)
def rerank(
    models: Annotated[ReportedReader, MODELS], question: str, hits: tuple[Hit, ...], reranker: Reranker, answer_id: str = ""
) -> Reranked:
    """Order the passages for one answer, by the version that its id falls to.

    A re-ranker that is down or slow is left out, and the note says so: an answer is worth more.
    """
    as_retrieved = tuple(Passage(hit, rank) for rank, hit in enumerate(hits, 1))
    if not hits:
        return Reranked((), NONE)
    try:
        ranking = reranker.rank(question, [hit.text for hit in hits], answer_id=answer_id)
    except Transient as error:
        return Reranked(as_retrieved, NONE, f"the re-ranker did not answer, retrieval order stands: {error.message}")
    models.take(ranking.storage)
    if ranking.logits is None:
        return Reranked(as_retrieved, NONE)
    order = combined_order([hit.score for hit in hits], ranking.logits, ranking.retrieval_weight or 0.0)
    passages = tuple(Passage(hits[i], i + 1, rerank_score=ranking.logits[i], rerank_rank=rank) for rank, i in enumerate(order, 1))
    return Reranked(passages, ranking.version)
