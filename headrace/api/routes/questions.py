"""The routes of questions and verdicts in Headrace's own shape."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator, Field

from headrace.answering.follow_up import Turn
from headrace.answering.options import DEFAULT, AnswerOptions
from headrace.answering.record import CORRECTION_CHARACTERS, REASON_CHARACTERS, Answer
from headrace.answering.verdicts import RecordedVerdict
from headrace.api.answers import AnswerResponse, SearchResponse, answer_response, search_response
from headrace.api.auth import Caller
from headrace.api.dependencies import InThread, Reading, Serving
from headrace.api.errors import body_of
from headrace.api.openapi import EXAMPLES
from headrace.api.questions import AdmittedQuestion
from headrace.api.schemas import (
    QUESTION_CHARACTERS,
    AnswerModeName,
    ApiRequest,
    ApiResponse,
    FilterTexts,
    Question,
    Readers,
    TenantName,
    Text,
    user_of,
)
from headrace.api.service import Service
from headrace.api.threads import first_of, stream_from_thread
from headrace.errors import HeadraceError

router = APIRouter()

Pieces = AsyncGenerator[str | Answer, None]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Unique for each verdict, and the same each time that verdict is sent."),
]


ANSWER_ID = r"^[0-9a-f]{16}([0-9a-f]{8})?$"  # older ids have 16 digits
SIMULATED = r"^simulated-[a-z0-9-]{1,53}$"
"""Names of simulated users, which cannot be confused with people or keys."""
SimulatedUser = Annotated[str, Field(pattern=SIMULATED, examples=["simulated-07"])]
User = Annotated[str, AfterValidator(user_of), Field(examples=["ann"])]


class HistoryTurn(ApiRequest):
    """A question that was asked before, and its answer."""

    question: Annotated[Text, Field(max_length=QUESTION_CHARACTERS)]
    answer: Text = ""


class AskRequest(ApiRequest):
    """A question to the key's tenant; a key with the scope `admin` may name another.

    `readers` are those on whose behalf it is asked: a user and their groups, who may read documents that are closed to others.
    `filters` select documents, as `key=value`, `document=FOLDER/`, `kind=pdf`, `changed>=2026-01-31`: the same key again means
    any of its values, different keys mean all of them. A question may follow up on a `history`, of which the newest turns count,
    or on the answer `after`, of the same tenant and user: it is then asked so that it stands alone, as `asked_as` says.
    `user` is who asks, with the scope `users`; otherwise the key is recorded. `simulated_user` (scope `simulate`) says that a
    program asks, which plays a user: answers and verdicts are then recorded as simulated.
    """

    question: Annotated[Question, Field(examples=["How long are backups kept?"])]
    tenant: TenantName | None = None
    readers: Readers = ()
    filters: FilterTexts = ()
    history: Annotated[tuple[HistoryTurn, ...], Field(fail_fast=True, max_length=50)] = ()
    after: Annotated[str, Field(pattern=ANSWER_ID, examples=["7b12e77fe7c341bf"])] | None = None
    user: User | None = None
    simulated_user: SimulatedUser | None = None


class AskedFor(AskRequest):
    """A question whose answer may be streamed; `candidates` asks for all passages that were retrieved, too.

    `answers` overrides whether passages are quoted or the generator writes, which the settings decide otherwise.
    """

    stream: bool = False
    candidates: bool = False
    answers: AnswerModeName | None = None


class FeedbackRequest(ApiRequest):
    """A verdict on an answer, or on one of its passages; with `tenant` only if the answer is that tenant's, for admins."""

    answer_id: Annotated[str, Field(pattern=ANSWER_ID, examples=["7b12e77fe7c341bf"])]
    up: Annotated[bool, Field(strict=True)]
    reason: Annotated[Text, Field(max_length=REASON_CHARACTERS)] = ""
    correction: Annotated[Text, Field(max_length=CORRECTION_CHARACTERS)] = ""
    chunk_id: Annotated[Text, Field(max_length=200)] = ""
    consent: Annotated[bool | None, Field(strict=True)] = None
    tenant: TenantName | None = None
    user: User | None = None
    simulated_user: SimulatedUser | None = None


class VerdictResponse(ApiResponse):
    """How far a verdict has come: on the head, in its table (`landed`), in a training round (`round`, for admins)."""

    partition: int
    offset: int
    landed: bool
    verdict_id: str | None = None
    answer_id: str | None = None
    up: bool | None = None
    at: datetime | None = None
    round: int | None = None


@router.post("/v1/ask", responses=EXAMPLES["ask"], response_model=AnswerResponse, response_model_exclude_defaults=True)
async def ask(body: AskedFor, request: Request, service: Serving, caller: Reading) -> AnswerResponse | Response:
    """The answer to a question, with its citations; as server-sent events if `stream`."""
    pieces = pieces_of(request, service, _admitted(body, request, service, caller))
    first = await first_of(pieces)
    if body.stream:
        return StreamingResponse(_events(first, pieces, caller, candidates=body.candidates), media_type="text/event-stream")
    return answer_response(await last_of(first, pieces), caller, candidates=body.candidates)


@router.post("/v1/search", responses=EXAMPLES["search"], response_model_exclude_defaults=True)
async def search(body: AskRequest, request: Request, service: Serving, caller: Reading) -> SearchResponse:
    """The passages for a question, best first, with both scores and both ranks."""
    asked = _admitted(body, request, service, caller)
    async with aclosing(
        stream_from_thread(request, service, lambda put, gone: service.questions.search(asked, put, gone))
    ) as results:
        found: Answer = await first_of(results)
    request.scope["noted"].resource = found.answer_id
    return search_response(found, caller)


@router.post("/v1/feedback", responses=EXAMPLES["feedback"])
async def judge(
    body: FeedbackRequest,
    request: Request,
    service: Serving,
    caller: Reading,
    in_thread: InThread,
    idempotency_key: IdempotencyKey = None,
) -> RecordedVerdict:
    """Record a verdict on the head; returns its partition and offset.

    With the header `Idempotency-Key` it can be sent again if no response arrived: it is recorded once.
    """
    request.scope["noted"].resource = body.answer_id
    return await in_thread(lambda: service.questions.judge(caller, **body.model_dump(), key=idempotency_key))


@router.get("/v1/feedback/{partition}/{offset}", response_model_exclude_defaults=True)
async def verdict(
    partition: Annotated[int, Path(ge=0, lt=1 << 31)],
    offset: Annotated[int, Path(ge=0, lt=1 << 63)],
    service: Serving,
    caller: Reading,
    in_thread: InThread,
) -> VerdictResponse:
    """How far a verdict has come, by its partition and offset: landed in its table, and which training round had it."""

    def work() -> VerdictResponse:
        found = service.events.verdict(None if caller.admin else caller.tenant, partition, offset)
        if found is None:
            return VerdictResponse(partition=partition, offset=offset, landed=False)
        if caller.readers is not None:  # the answer may be one that was made for others
            found = {name: value for name, value in found.items() if name != "answer_id"}
        number = service.training.round_after(partition, offset) if caller.admin else None
        return VerdictResponse(partition=partition, offset=offset, landed=True, round=number, **found)

    return await in_thread(work)


def _admitted(body: AskRequest, request: Request, service: Service, caller: Caller) -> AdmittedQuestion:
    return service.questions.admit(
        caller,
        body.question,
        dict(request.headers),
        tenant=body.tenant,
        readers=body.readers,
        filters=body.filters,
        history=[Turn(turn.question, turn.answer) for turn in body.history],
        after=body.after,
        user=body.user,
        simulated=body.simulated_user,
        options=AnswerOptions(mode=body.answers) if isinstance(body, AskedFor) else DEFAULT,
    )


def pieces_of(request: Request, service: Service, asked: AdmittedQuestion) -> Pieces:
    """The pieces of an answer's text as they come, then the answer."""
    request.scope["noted"].resource = asked.answer_id
    return stream_from_thread(request, service, lambda put, gone: service.questions.ask(asked, put, gone))


async def last_of(first: str | Answer, rest: Pieces) -> Answer:
    """The answer at the end of its pieces."""
    last = first
    async with aclosing(rest):
        async for piece in rest:
            last = piece
    assert isinstance(last, Answer)
    return last


async def _events(first: str | Answer, rest: Pieces, caller: Caller, *, candidates: bool) -> AsyncIterator[str]:
    """Events `piece` (`{"text"}`), then `answer` (the JSON answer), or `error` (an error body)."""

    def encoded(piece: str | Answer) -> str:
        if isinstance(piece, str):
            return event("piece", {"text": piece})
        answer = answer_response(piece, caller, candidates=candidates)
        return event("answer", answer.model_dump(mode="json", exclude_defaults=True))

    async with aclosing(rest):
        yield encoded(first)
        try:
            async for piece in rest:
                yield encoded(piece)
        except HeadraceError as error:
            yield event("error", body_of(error, caller))


def event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event with a name and JSON."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
