"""An evaluation from folder to figures: its documents indexed for a tenant of their own, then its questions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from headrace.answering.engine import QueryEngine
from headrace.answering.record import Answer
from headrace.core.runner import Runner
from headrace.documents.indexing import index_documents
from headrace.errors import WrongUsage
from headrace.models.client import Reranker
from headrace.settings import Inference
from headrace.simulate.answers import AnswersMeasured, measure_answers
from headrace.simulate.beir import BeirFolder, BeirQuestion
from headrace.simulate.retrieval import RankingQuality, measure_retrieval

_USER = "evaluation"


def retrieval(runner: Runner, folder: BeirFolder, settings: Inference) -> list[RankingQuality]:
    """Measure every ranking on every question; the documents stay indexed, so that a second time is quick."""
    document_of = indexed(runner, folder, settings)
    found: list[RankingQuality] = runner.run(
        measure_retrieval,
        tenant=folder.tenant,
        questions=folder.questions,
        document_of=document_of,
        embedder=runner.endpoints.embedder,
        reranker=Reranker(runner.endpoints.reranker),
        depth=settings.retrieve,
    )
    return found


def answers(runner: Runner, engine: QueryEngine, folder: BeirFolder, settings: Inference, limit: int | None) -> AnswersMeasured:
    """Ask and measure; nothing of it is recorded as an interaction, for nothing may be trained on it.

    Raises `WrongUsage` where no question has known answers.
    """
    questions = spread([question for question in folder.questions if question.answers], limit)
    if not questions:
        raise WrongUsage(f'No question of {folder.path} has "answers".', hint="Measure `headrace eval retrieval` instead.")
    document_of = indexed(runner, folder, settings)
    given = []
    for question in runner.bars.track(questions, "ask", total=len(questions), of="questions"):
        *_, answer = engine.ask(question.text, tenant=folder.tenant, user=_USER, simulated=True, record=False)
        assert isinstance(answer, Answer)
        given.append(answer)
    return measure_answers(questions, given, document_of)


def indexed(runner: Runner, folder: BeirFolder, settings: Inference) -> dict[str, str]:
    """Index the folder's documents; returns uri → document id."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / folder.tenant
        place.mkdir()
        names = folder.write(place)
        index_documents(runner, [place], tenant=folder.tenant, settings=settings)
    return {f"{folder.tenant}/{name}": document for name, document in names.items()}


def spread(questions: list[BeirQuestion], limit: int | None) -> list[BeirQuestion]:
    """At most `limit` of them, evenly spread: neighbours are often about the same document."""
    if limit is None or limit >= len(questions):
        return questions
    return [questions[index * len(questions) // limit] for index in range(limit)]
