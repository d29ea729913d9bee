"""How well each way of ranking finds the documents that are known to be relevant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import ir_measures
from ir_measures import RR, R, nDCG

from headrace.answering.rerank import rerank
from headrace.catalog import CHUNKS, INDEXES, MODELS
from headrace.core.progress import Bars
from headrace.core.stage import stage
from headrace.documents.embedders import endpoint_for
from headrace.documents.generations import active_reader
from headrace.models.client import Embedder, Reranker
from headrace.simulate.beir import BeirQuestion
from headrace.simulate.interval import mean_with_interval
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.reported import ReportedReader
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import Hit, VectorReader

MEASURES: Mapping[str, Any] = {"ndcg_at_10": nDCG @ 10, "recall_at_5": R @ 5, "mrr_at_10": RR @ 10}
RANKINGS = ("dense", "fulltext", "fusion", "reranked")
_CHUNKS = 100
_EMBED_BATCH = 64


@dataclass(frozen=True)
class RankingQuality:
    """One ranking: each measure's mean with its 95 % interval, and who ordered it."""

    ranking: str
    questions: int
    measures: dict[str, tuple[float, float, float]]
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row under the JSON keys of the command-line contract."""
        row: dict[str, Any] = {"ranking": self.ranking, "questions": self.questions}
        for name, (mean, low, high) in self.measures.items():
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        return row | ({"model_version": self.version} if self.version else {})


@stage("Ranks the documents of an evaluation set for each of its questions, in four ways.")
def measure_retrieval(
    vectors: Annotated[VectorReader, CHUNKS],
    indexes: Annotated[IndexReader, INDEXES],
    models: Annotated[ReportedReader, MODELS],
    bars: Bars,
    tenant: str,
    questions: Sequence[BeirQuestion],
    document_of: Mapping[str, str],
    embedder: ModelEndpoint,
    reranker: Reranker,
    depth: int,
) -> list[RankingQuality]:
    """Measure dense, full-text, fused and re-ranked retrieval; `document_of` maps a document's uri to its id.

    A document stands where its best chunk stands. The re-ranker orders the best `depth` passages of fusion, as in serving.
    Raises `BadSettings` where the embedder that made the index cannot be asked.
    """
    standing = indexes.recent()
    vectors = active_reader(standing, vectors)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in RANKINGS}
    version = ""
    embedded: list[Any] = []
    with Embedder(endpoint_for(embedder, standing.serving.embedder) if standing.serving else embedder) as client:
        for start in range(0, len(questions), _EMBED_BATCH):
            texts = [question.text for question in questions[start : start + _EMBED_BATCH]]
            embedded.extend(client.embed(texts, kind="query"))
    numbered = list(enumerate(questions))
    for number, question in bars.track(numbered, "rank", total=len(questions), of="questions"):
        text, embedding = question.text, embedded[number]
        hits: dict[str, Sequence[Hit]] = {
            "dense": vectors.dense(embedding, tenant=tenant, most=_CHUNKS),
            "fulltext": vectors.fulltext(text, tenant=tenant, most=_CHUNKS),
            "fusion": vectors.fusion(text, embedding, tenant=tenant, most=_CHUNKS),
        }
        reranked = rerank(models, text, tuple(hits["fusion"][:depth]), reranker)
        version = reranked.model_version
        hits["reranked"] = [passage.hit for passage in reranked.passages]
        for name in RANKINGS:
            found[name][question.id] = _documents(hits[name], document_of)
    qrels = {question.id: question.relevant for question in questions}
    return [_measured(name, qrels, found[name], version if name == "reranked" else "") for name in RANKINGS]


def _documents(hits: Sequence[Hit], document_of: Mapping[str, str]) -> dict[str, float]:
    """Document → a score that falls with the rank of its best chunk."""
    ranked: dict[str, float] = {}
    for rank, hit in enumerate(hits):
        ranked.setdefault(document_of[hit.uri], float(-rank))
    return ranked


def _measured(name: str, qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], version: str) -> RankingQuality:
    values: dict[str, dict[str, float]] = {measure: dict.fromkeys(qrels, 0.0) for measure in MEASURES}
    of = {str(measure): label for label, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        values[of[str(metric.measure)]][metric.query_id] = metric.value
    intervals = {label: mean_with_interval(list(by_question.values())) for label, by_question in values.items()}
    return RankingQuality(name, len(qrels), intervals, version)
