"""The responses to questions: what a search found, and an answer with its citations, as their caller may see them."""

from __future__ import annotations

import re

from headrace.answering.engine import NOT_STORED
from headrace.answering.record import Answer
from headrace.answering.rerank import Passage
from headrace.answering.unrecorded import NOTE
from headrace.api.auth import Caller
from headrace.api.schemas import ApiResponse
from headrace.api.telemetry import tokens


class SourceResponse(ApiResponse):
    """A document that holds a passage, and the page, slide or sheet, if it has such parts."""

    document: str
    place: str


class CitedSpan(ApiResponse):
    """A sentence of the answer and the characters of the passage that support it."""

    start: int
    end: int
    quote: str
    sentence: str


class CitationResponse(ApiResponse):
    """A passage that the answer cites."""

    number: int
    document: str
    sources: list[SourceResponse]
    heading: str
    place: str
    chunk_id: str
    text: str
    spans: list[CitedSpan]


class PassageResponse(ApiResponse):
    """A passage, with both scores and both ranks; `sources` are the documents that hold this text, `document` first.

    `retrieval_score` is the score by which retrieval ordered the passages, as `headrace search` prints it. Only a key with the
    scope `admin` gets it: how it weighs a word tells how rare the word is in other tenants' documents.
    """

    number: int
    chunk_id: str
    document: str
    sources: list[SourceResponse]
    heading: str
    place: str
    text: str
    retrieval_score: float | None
    retrieval_rank: int
    rerank_score: float | None
    rerank_rank: int | None


class CitedPassage(PassageResponse):
    """A passage that the answer is based on, and whether the answer cites it."""

    cited: bool


class CandidatePassage(PassageResponse):
    """A retrieved passage in its final order. `used` is its number among the answer's passages; otherwise `dropped` says why."""

    used: int | None
    dropped: str


class TokenUsage(ApiResponse):
    """Tokens of an answer, as OpenAI counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class FoundResponse(ApiResponse):
    """The common fields of a search and an answer; `note` says what was left out, if anything.

    `kind` is answer or search; small_talk or task if it was not a question. `asked_as` is the rewritten follow-up question.
    """

    answer_id: str
    model_version: str
    ranking_version: str
    index_version: str
    timings_ms: dict[str, float]
    bytes: dict[str, int]
    groundedness: float | None
    similarity: float | None
    refused: bool
    kind: str = "answer"
    asked_as: str = ""
    filters: tuple[str, ...] = ()
    note: str = ""


class SearchResponse(FoundResponse):
    """The passages for a question."""

    passages: list[PassageResponse]


class AnswerDetails(FoundResponse):
    """Details of an answer that OpenAI's shape does not have."""

    citations: list[CitationResponse]
    generator_version: str
    mode: str


class AnswerResponse(AnswerDetails):
    """The answer to a question."""

    answer: str
    passages: list[CitedPassage]
    usage: TokenUsage
    finish_reason: str
    candidates: tuple[CandidatePassage, ...] = ()


def search_response(found: Answer, caller: Caller) -> SearchResponse:
    """The result of a search, as this caller may see it."""
    passages = [{"number": number, **_shown(passage, caller)} for number, passage in enumerate(found.passages, 1)]
    return SearchResponse.model_validate({**found.as_dict(), "note": note_for(found.note, caller), "passages": passages})


def answer_response(answer: Answer, caller: Caller, *, candidates: bool = False) -> AnswerResponse:
    """An answer, as this caller may see it, with all retrieved `candidates` where asked for."""
    passages = [
        {"number": number, "cited": number in answer.cited, **_shown(passage, caller)}
        for number, passage in enumerate(answer.passages, 1)
    ]
    read, written, cached = tokens(answer)
    usage = TokenUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details={"cached_tokens": cached},
    )
    note = note_for(answer.note, caller)
    return AnswerResponse.model_validate(
        {
            **answer.as_dict(),
            "note": note,
            "passages": passages,
            "usage": usage,
            "candidates": _candidates(answer, caller) if candidates else [],
        }
    )


def _candidates(answer: Answer, caller: Caller) -> list[dict[str, object]]:
    """Every retrieved passage, and why those were left out that the answer is not based on."""
    numbers = {passage.hit.chunk_id: number for number, passage in enumerate(answer.passages, 1)}
    quoted = answer.mode == "extractive"
    found = []
    for number, passage in enumerate(answer.candidates, 1):
        used = numbers.get(passage.hit.chunk_id)
        where = f"rank {number} of {len(answer.candidates)}"
        if used is not None:
            dropped = ""
        elif quoted:
            dropped = f"{where}, and nothing in it answers better than the quoted words"
        else:
            dropped = f"{where}, and the generator reads the first {len(numbers)} (inference.passages)"
        found.append({"number": number, **_shown(passage, caller), "used": used, "dropped": dropped})
    return found


def note_for(note: str, caller: Caller) -> str:
    """An answer's note for this caller: the reason why a re-ranker did not answer holds addresses, for admins only."""
    return note if caller.admin else _INSIDE.sub(r"\1", note)


_INSIDE = re.compile(rf"((?:retrieval|re-ranker's) order is kept|{NOT_STORED}): .*?(?=; (?:{NOTE}|{NOT_STORED})|\Z)", re.DOTALL)


def _shown(passage: Passage, caller: Caller) -> dict[str, object]:
    return passage.as_dict() if caller.admin else {**passage.as_dict(), "retrieval_score": None}
