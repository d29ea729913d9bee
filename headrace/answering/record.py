"""answer and feedback: write answers and users' verdicts to the head, from where both land for training."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.answering.rerank import Passage
from headrace.catalog import FEEDBACK, INTERACTIONS
from headrace.core.stage import stage
from headrace.errors import WrongUsage
from headrace.models.citations import Support
from headrace.models.client import Completion
from headrace.storage.ledger import Ledger
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.timeline import ASKED


def new_id() -> str:
    """The id of a new answer: 24 hex digits, of which the first 8 are the time in seconds.

    So the answers of a while have similar ids, and finding one by its id reads only the files of the table that are of its time.
    """
    return f"{int(time.time()):08x}{uuid.uuid4().hex[:16]}"


@dataclass(frozen=True)
class Answer:
    """An answered question, or a search, which has no text, with the model and index versions that made it.

    - `mode`: whether the text is quoted (`extractive`) or written (`generated`); empty for a search.
    - `key`: the API key by which all who ask with it count as one user; `None` if `user` counts.
    - `passages`: what the text is based on; `candidates`: all retrieved passages in their final order.
    - `groundedness`: the share of the text's sentences that a passage supports.
    - `similarity`: the largest cosine similarity of a passage to the question.
    - `finish_reason`: `length` if the text was cut, else `stop`.
    - `refused`: the documents contain no answer.
    - `timings_ms`: milliseconds by step; `bytes`: bytes by tier and direction.
    """

    question: str
    tenant: str
    user: str
    passages: tuple[Passage, ...]
    model_version: str
    index_version: str
    kind: str = "answer"
    filters: tuple[str, ...] = ()
    asked_as: str = ""
    mode: str = ""
    text: str = ""
    supports: tuple[Support, ...] = ()
    groundedness: float | None = None
    similarity: float | None = None
    refused: bool = False
    candidates: tuple[Passage, ...] = ()
    completion: Completion | None = None
    finish_reason: str = "stop"
    timings_ms: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    note: str = ""
    simulated: bool = False
    ranking_version: str = "none"
    key: str | None = None
    answer_id: str = field(default_factory=new_id)

    @property
    def in_full(self) -> str:
        """The question in the standalone form that was answered."""
        return self.asked_as or self.question

    @property
    def cited(self) -> frozenset[int]:
        """Numbers of the passages that the text cites, from 1."""
        return frozenset(support.number for support in self.supports if support.number is not None)

    @property
    def citations(self) -> list[dict[str, Any]]:
        """The cited passages: number, document, sources, heading, place, chunk id, and the span that supports each sentence."""
        return [
            {
                "number": number,
                "document": passage.hit.uri,
                "sources": [source._asdict() for source in passage.hit.sources],
                "heading": passage.hit.heading,
                "place": passage.hit.place,
                "chunk_id": passage.hit.chunk_id,
                "text": passage.hit.text,
                "spans": [
                    {"start": s.start, "end": s.end, "quote": passage.hit.text[s.start : s.end], "sentence": s.sentence}
                    for s in self.supports
                    if s.number == number
                ],
            }
            for number, passage in enumerate(self.passages, 1)
            if number in self.cited
        ]

    def with_passages(self) -> dict[str, Any]:
        """As `as_dict`, with the passages it is based on, numbered as the text cites them."""
        passages = [
            {"number": number, "cited": number in self.cited, **passage.as_dict()}
            for number, passage in enumerate(self.passages, 1)
        ]
        return self.as_dict() | {"passages": passages}

    def as_dict(self) -> dict[str, Any]:
        """The answer as `headrace ask --json` prints it."""
        return {
            "answer_id": self.answer_id,
            "answer": self.text,
            "kind": self.kind,
            "mode": self.mode,
            "finish_reason": self.finish_reason,
            "citations": self.citations,
            "model_version": self.model_version,
            "ranking_version": self.ranking_version,
            "generator_version": self.completion.version if self.completion else "none",
            "index_version": self.index_version,
            "timings_ms": self.timings_ms,
            "bytes": self.bytes,
            "groundedness": self.groundedness,
            "similarity": self.similarity,
            "refused": self.refused,
            **({"asked_as": self.asked_as} if self.asked_as else {}),
            **({"filters": list(self.filters)} if self.filters else {}),
            **({"note": self.note} if self.note else {}),
        }


@stage("Records each answer on the head, with its passages, tokens, versions and timings.", phase=ASKED)
def answer(
    interactions: Annotated[TopicWriter, INTERACTIONS], answers: Sequence[Answer], run: str, patience_s: float = 25.0
) -> list[tuple[int, int]]:
    """Append the answers within `patience_s` seconds; return (partition, offset) of each."""
    return interactions.append([row_of(each, run) for each in answers], key="answer_id", patience_s=patience_s)


def moved(ledger: Ledger) -> dict[str, int]:
    """Bytes by tier and direction, e.g. `{"vector_read": 1536}`."""
    total: dict[str, int] = {}
    for row in ledger.rows():
        name = f"{row.tier}_{row.direction}"
        total[name] = total.get(name, 0) + row.bytes
    return total


def row_of(answer: Answer, run: str) -> dict[str, Any]:
    """The answer as a row of its topic; `run` is the id of the run that made it."""
    completion = answer.completion
    return {
        "answer_id": answer.answer_id,
        "kind": answer.kind,
        "tenant": answer.tenant,
        "user": answer.user,
        "simulated": answer.simulated,
        "question": answer.question,
        "answer": answer.text,
        "passages": [
            {
                "chunk_id": passage.hit.chunk_id,
                "document": passage.hit.uri,
                "retrieval_score": passage.hit.score,
                "retrieval_rank": passage.retrieval_rank,
                "rerank_score": passage.rerank_score,
                "rerank_rank": passage.rerank_rank,
                "cited": number in answer.cited,
            }
            for number, passage in enumerate(answer.passages, 1)
        ],
        "prompt_tokens": list(completion.prompt_tokens) if completion else [],
        "completion_tokens": list(completion.completion_tokens) if completion else [],
        "logprobs": list(completion.logprobs) if completion else [],
        "generator_version": completion.version if completion else "none",
        "model_version": answer.model_version,
        "index_version": answer.index_version,
        "timings": [{"name": name, "ms": ms} for name, ms in answer.timings_ms.items()],
        "moved": [
            {"tier": name.split("_")[0], "direction": name.split("_")[1], "bytes": size} for name, size in answer.bytes.items()
        ],
        "run": run,
        "at": datetime.now(UTC),
        "similarity": answer.similarity,
        "groundedness": answer.groundedness,
        "filters": list(answer.filters),
        "asked_as": answer.asked_as or None,
        "sampling": _sampling(completion),
        "ranking_version": answer.ranking_version,
        "signals": [
            {name: getattr(passage.hit, name) for name in ("retrieval_share", "similarity", "fulltext")} | {"team": passage.team}
            for passage in answer.passages
        ],
        "key": answer.key,
    }


def _sampling(completion: Completion | None) -> dict[str, float] | None:
    """How tokens were chosen; `None` where these two do not say it, so that nothing learns from wrong likelihoods."""
    if completion is None or completion.sampling.penalized:
        return None
    return {"temperature": completion.sampling.temperature, "top_p": completion.sampling.top_p}


REASON_CHARACTERS = 1_000
CORRECTION_CHARACTERS = 4_000


@dataclass(frozen=True)
class Verdict:
    """Thumbs up or down on an answer, or on one of its passages (`chunk_id`).

    `consent` says whether the user allows training on it; `None` if they were not asked. `key` is set if all verdicts sent with
    that API key count as one user's. Raises `WrongUsage` if `reason` or `correction` is too long or not Unicode text.
    """

    answer_id: str
    up: bool
    tenant: str
    user: str
    chunk_id: str = ""
    reason: str = ""
    correction: str = ""
    simulated: bool = False
    consent: bool | None = None
    key: str | None = None
    verdict_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def __post_init__(self) -> None:
        for what, text, most in (
            ("reason", self.reason, REASON_CHARACTERS),
            ("correction", self.correction, CORRECTION_CHARACTERS),
        ):
            if len(text) > most:
                raise WrongUsage(f"The {what} has {len(text):,} characters.", hint=f"At most {most:,} are taken: shorten it.")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise WrongUsage(f"The {what} is not Unicode text.", hint="Send it as UTF-8.")


def repeated_id(key: str, body: dict[str, Any]) -> str:
    """The id of a verdict sent with an `Idempotency-Key`: equal for the same key and the same body."""
    canonical = json.dumps([key, body], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@stage("Records each user's verdict on the head.", phase=ASKED)
def feedback(events: Annotated[TopicWriter, FEEDBACK], verdicts: Sequence[Verdict]) -> list[tuple[int, int]]:
    """Append the verdicts; return (partition, offset) of each."""
    at = datetime.now(UTC)
    return events.append([{**vars(verdict), "at": at} for verdict in verdicts], key="answer_id")
