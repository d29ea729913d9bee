"""Evaluation on a folder: indexes its documents for their own tenant, then asks its questions and measures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ir_measures
from ir_measures import RR, R, nDCG

from headrace.answering.engine import QueryEngine
from headrace.answering.record import Answer
from headrace.answering.rerank import Reranked, rerank
from headrace.catalog import CHUNKS, INDEXES, MODELS
from headrace.core.progress import ProgressBars
from headrace.core.runner import Runner
from headrace.core.stage import stage
from headrace.core.statistics import Interval, interval
from headrace.documents.generations import active_reader, endpoint_for
from headrace.documents.index import index_documents
from headrace.errors import WrongUsage
from headrace.models.client import Embedder, Reranker
from headrace.models.measures import exact_match, f1, unmarked
from headrace.models.pointer import NONE
from headrace.models.served_ranking import RankingReader
from headrace.settings import Inference
from headrace.simulate.beir import BeirFolder, BeirQuestion
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.vectors.generations import IndexReader
from headrace.storage.vectors.handles import VectorReader
from headrace.storage.vectors.search import Hit

_SEED = 17


@dataclass(frozen=True)
class AnswersMeasured:
    """Means with 95 % intervals over the questions asked; a measure without any values is zero."""

    questions: int
    measures: dict[str, Interval]

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys."""
        figures: dict[str, Any] = {"questions": self.questions}
        for name, of in self.measures.items():
            figures |= {name: of.mean, f"{name}_low": of.low, f"{name}_high": of.high}
        return figures


def measure_answers(
    questions: Sequence[BeirQuestion], answers: Sequence[Answer], document_of: Mapping[str, str]
) -> AnswersMeasured:
    """Measure answers, given in the order of their questions.

    exact_match and f1 are SQuAD's (Rajpurkar et al. 2016) over all answers, with refusals counted as wrong; citation_precision is
    the share of an answer's citations whose document is relevant, over answers that cite; groundedness is the share of an
    answer's sentences supported by a passage, over answers that are not refusals.
    """
    texts = [unmarked(answer.text) for answer in answers]
    cited = [[{document_of.get(s["document"]) for s in c["sources"]} for c in answer.citations] for answer in answers]
    values = {
        "exact_match": [_best(exact_match, text, q) for text, q in zip(texts, questions, strict=True)],
        "f1": [_best(f1, text, q) for text, q in zip(texts, questions, strict=True)],
        "citation_precision": [
            sum(not same.isdisjoint(question.relevant) for same in documents) / len(documents)
            for documents, question in zip(cited, questions, strict=True)
            if documents
        ],
        "groundedness": [answer.groundedness for answer in answers if not answer.refused and answer.groundedness is not None],
        "refusal_rate": [float(answer.refused) for answer in answers],
    }
    return AnswersMeasured(len(questions), {name: interval(figures, _SEED) for name, figures in values.items()})


def _best(measure: Any, text: str, question: BeirQuestion) -> float:
    return max((float(measure(text, known)) for known in question.answers), default=0.0)


MEASURES: Mapping[str, Any] = {"ndcg_at_10": nDCG @ 10, "recall_at_5": R @ 5, "mrr_at_10": RR @ 10}
RANKINGS = ("dense", "fulltext", "fusion", "reranked")
_CHUNKS = 100
_EMBED_BATCH = 64


@dataclass(frozen=True)
class RankingQuality:
    """One ranking: each measure's mean with its 95 % interval, and the re-ranker's version."""

    ranking: str
    questions: int
    measures: dict[str, Interval]
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row under the CLI's JSON keys."""
        row: dict[str, Any] = {"ranking": self.ranking, "questions": self.questions}
        for name, of in self.measures.items():
            row |= {name: of.mean, f"{name}_low": of.low, f"{name}_high": of.high}
        return row | ({"model_version": self.version} if self.version else {})


@stage("Ranks an evaluation set's documents for each question, in four ways.")
def measure_retrieval(
    vectors: Annotated[VectorReader, CHUNKS],
    indexes: Annotated[IndexReader, INDEXES],
    models: Annotated[RankingReader, MODELS],
    bars: ProgressBars,
    tenant: str,
    questions: Sequence[BeirQuestion],
    document_of: Mapping[str, str],
    embedder: ModelEndpoint,
    reranker: Reranker,
    depth: int,
    by_rank: bool = False,
) -> list[RankingQuality]:
    """Measure dense, full-text, fused and re-ranked retrieval; `document_of` maps a document's uri to its id.

    A document has the rank of its best chunk. The re-ranker orders the best `depth` passages of fusion, as in serving. Raises
    `BadSettings` if the index's embedder is not available.
    """
    indexed = indexes.recent()
    vectors = active_reader(indexed, vectors)
    figures: dict[str, dict[str, dict[str, float]]] = {name: {} for name in RANKINGS}
    version = ""
    embedded: list[Any] = []
    with Embedder(endpoint_for(embedder, indexed.serving.embedder) if indexed.serving else embedder) as client:
        for start in range(0, len(questions), _EMBED_BATCH):
            texts = [question.text for question in questions[start : start + _EMBED_BATCH]]
            embedded.extend(client.embed(texts, kind="query"))
    numbered = list(enumerate(questions))
    for number, question in bars.track(numbered, "rank", total=len(questions), of="questions"):
        text, embedding = question.text, embedded[number]
        hits: dict[str, Sequence[Hit]] = {
            "dense": vectors.dense(embedding, tenant=tenant, most=_CHUNKS),
            "fulltext": vectors.fulltext(text, tenant=tenant, most=_CHUNKS),
            "fusion": vectors.fusion(text, embedding, tenant=tenant, most=_CHUNKS, by_rank=by_rank),
        }
        reranked = rerank(models, text, tuple(hits["fusion"][:depth]), reranker)
        version = _versions(reranked)
        hits["reranked"] = [passage.hit for passage in reranked.passages]
        for name in RANKINGS:
            figures[name][question.id] = _documents(hits[name], document_of)
    qrels = {question.id: question.relevant for question in questions}
    return [_measured(name, qrels, figures[name], version if name == "reranked" else "") for name in RANKINGS]


def _versions(reranked: Reranked) -> str:
    """What ordered the passages: the re-ranker, the ranking, both, or "none"."""
    ranking = [] if reranked.ranking_version == NONE else [f"ranking {reranked.ranking_version}"]
    scorer = [] if reranked.model_version == NONE else [reranked.model_version]
    return ", ".join(scorer + ranking) or NONE


def _documents(hits: Sequence[Hit], document_of: Mapping[str, str]) -> dict[str, float]:
    """Scores by document, decreasing with the rank of its best chunk; copies of a text follow one another."""
    ranked: dict[str, float] = {}
    for source in (source for hit in hits for source in hit.sources):
        ranked.setdefault(document_of[source.document], float(-len(ranked)))
    return ranked


def _measured(name: str, qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], version: str) -> RankingQuality:
    values: dict[str, dict[str, float]] = {measure: dict.fromkeys(qrels, 0.0) for measure in MEASURES}
    of = {str(measure): label for label, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        values[of[str(metric.measure)]][metric.query_id] = metric.value
    intervals = {label: interval(list(by_question.values()), _SEED) for label, by_question in values.items()}
    return RankingQuality(name, len(qrels), intervals, version)


_USER = "evaluation"


def retrieval(runner: Runner, folder: BeirFolder, settings: Inference) -> list[RankingQuality]:
    """Measure every ranking on every question; the documents stay indexed, so that a repeat is fast."""
    document_of = indexed(runner, folder, settings)
    rankings: list[RankingQuality] = runner.run(
        measure_retrieval,
        tenant=folder.tenant,
        questions=folder.questions,
        document_of=document_of,
        embedder=runner.endpoints.embedder,
        reranker=Reranker(runner.endpoints.reranker),
        depth=settings.retrieve,
        by_rank=settings.fusion == "ranks",
    )
    return rankings


def answers(runner: Runner, engine: QueryEngine, folder: BeirFolder, settings: Inference, limit: int | None) -> AnswersMeasured:
    """Ask and measure. The answers are not recorded as interactions, so that no training uses them.

    Raises `WrongUsage` if no question has known answers.
    """
    questions = spread([question for question in folder.questions if question.answers], limit)
    if not questions:
        raise WrongUsage(f'No question of {folder.path} has "answers".', hint="Measure `headrace eval retrieval` instead.")
    document_of = indexed(runner, folder, settings)
    answers_ = []
    for question in runner.bars.track(questions, "ask", total=len(questions), of="questions"):
        *_, answer = engine.ask(question.text, tenant=folder.tenant, user=_USER, simulated=True, record=False)
        assert isinstance(answer, Answer)
        answers_.append(answer)
    return measure_answers(questions, answers_, document_of)


def indexed(runner: Runner, folder: BeirFolder, settings: Inference) -> dict[str, str]:
    """Index the folder's documents; returns uri → document id."""
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / folder.tenant
        target.mkdir()
        names = folder.write(target)
        index_documents(runner, [target], tenant=folder.tenant, settings=settings)
    return {f"{folder.tenant}/{name}": document for name, document in names.items()}


def spread(questions: list[BeirQuestion], limit: int | None) -> list[BeirQuestion]:
    """At most `limit` questions, evenly spread, since neighbours are often about the same document."""
    if limit is None or limit >= len(questions):
        return questions
    return [questions[index * len(questions) // limit] for index in range(limit)]
