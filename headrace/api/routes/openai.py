"""The routes that OpenAI's clients use: chat completions, responses, models, embeddings."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError, to_json

from headrace.api.answers import answer_response
from headrace.api.auth import Caller
from headrace.api.chat import ChatCompletionRequest
from headrace.api.conversation import OpenAIRequest
from headrace.api.dependencies import Reading, Serving
from headrace.api.openai import (
    EMBEDDER,
    MODELS,
    SEARCH,
    ChatCompletion,
    ModelList,
    ModelResponse,
    check_model,
    listing,
    model,
    streamed,
    whole,
)
from headrace.api.openapi import EXAMPLES
from headrace.api.questions import AdmittedQuestion
from headrace.api.responses import ResponseObject, ResponseRequest, begun, ended, events
from headrace.api.routes.questions import Pieces, last_of, pieces_of
from headrace.api.schemas import ApiRequest, ApiResponse, Text
from headrace.api.service import Service
from headrace.api.telemetry import MODEL
from headrace.api.threads import first_of, stream_from_thread
from headrace.errors import WrongUsage
from headrace.models.client import Vectors

router = APIRouter()

_TEXTS = 2_048
_CHARACTERS = 100_000
"""Of a text: more than embedders read. The embedder took 6 s to refuse one of 4 MB."""


class EmbeddingRequest(ApiRequest):
    """Texts to embed; `input_type` (NVIDIA NIM's) matters to embedders that embed queries and passages differently."""

    model: Annotated[str, Field(max_length=200, examples=[EMBEDDER])]
    input: Text | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=_TEXTS)]
    input_type: Literal["query", "passage"] = "passage"
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = None
    user: Any = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts_only(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > _TEXTS:
            return value  # refused for its length
        if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
            sentence = "Unsupported value: '{param}' does not support token ids with this model. Send texts."
            raise PydanticCustomError("unsupported_value", sentence, {"param": "input"})
        for number, text in enumerate([value] if isinstance(value, str) else value if isinstance(value, list) else ()):
            if isinstance(text, str) and len(text) > _CHARACTERS:
                raise ValueError(f"text {number} has {len(text):,} characters; shorten it to {_CHARACTERS:,}")
            if isinstance(text, str) and not text.strip():
                raise ValueError(f"text {number} is empty; leave it out")
        return value

    @property
    def texts(self) -> list[str]:
        """The texts, one or more."""
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingList(ApiResponse):
    """The embeddings in the order of the texts; each is a list of numbers, or base64 of little-endian float32."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]


def _embedding_list(body: EmbeddingRequest, embedded: tuple[Vectors, int]) -> bytes:
    """The response's JSON. Raises `WrongUsage` where another number of dimensions is asked for than there are.

    The embeddings are written one by one, on the request's thread: 2,048 have 16 MB, and written at once by the event loop they
    kept everything else waiting for a second.
    """
    vectors, tokens = embedded
    if body.dimensions not in (None, vectors.shape[1]):
        raise WrongUsage(f"The embeddings have {vectors.shape[1]} dimensions.", hint="Leave `dimensions` out.")
    encoded = body.encoding_format == "base64"
    data = (
        to_json(
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()) if encoded else vector.tolist(),
            }
        )
        for index, vector in enumerate(vectors)
    )
    beside = EmbeddingList(data=[], model=EMBEDDER, usage={"prompt_tokens": tokens, "total_tokens": tokens})
    before, behind = beside.model_dump_json().encode().split(b"[]", 1)
    return b"".join((before, b"[", b",".join(data), b"]", behind))


@router.post(
    "/v1/chat/completions",
    responses=EXAMPLES["chat"],
    response_model=ChatCompletion,
    response_model_exclude_defaults=True,
)
async def chat_completions(
    body: ChatCompletionRequest, request: Request, service: Serving, caller: Reading
) -> ChatCompletion | Response:
    """OpenAI's chat completions: the last message with role `user` is the question; `headrace` has citations and versions."""
    asked = _admitted(body, request, service, caller)
    pieces = _pieces(body, request, service, asked)
    first = await first_of(pieces)
    base = str(request.base_url).rstrip("/")
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = streamed(asked.answer_id, first, pieces, caller, base, name=body.model, usage=usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return whole(answer_response(await last_of(first, pieces), caller), base, body.model)


@router.post(
    "/v1/responses",
    responses=EXAMPLES["responses"],
    response_model=ResponseObject,
)
async def responses(body: ResponseRequest, request: Request, service: Serving, caller: Reading) -> ResponseObject | Response:
    """OpenAI's responses: the last message of the input is the question; `headrace` has citations and versions."""
    asked = _admitted(body, request, service, caller, after=body.after)
    pieces = _pieces(body, request, service, asked)
    first = await first_of(pieces)
    base = str(request.base_url).rstrip("/")
    response = begun(asked.answer_id, body)
    if body.stream:
        return StreamingResponse(events(response, first, pieces, caller, base), media_type="text/event-stream")
    return ended(response, answer_response(await last_of(first, pieces), caller), base)


def _admitted(
    body: ChatCompletionRequest | ResponseRequest,
    request: Request,
    service: Service,
    caller: Caller,
    *,
    after: str | None = None,
) -> AdmittedQuestion:
    check_model(body.model, MODEL, SEARCH)
    more = body.headrace
    return service.questions.admit(
        caller,
        body.question,
        dict(request.headers),
        tenant=more.tenant,
        readers=more.readers,
        filters=more.filters,
        history=body.history,
        after=after,
        user=body.asker if caller.names_users else None,  # many clients send `user`: it is ignored where the key may not name one
        options=body.options,
    )


def _pieces(body: OpenAIRequest, request: Request, service: Service, asked: AdmittedQuestion) -> Pieces:
    if body.model != SEARCH:
        return pieces_of(request, service, asked)
    request.scope["noted"].resource = asked.answer_id
    return stream_from_thread(request, service, lambda put, gone: service.questions.list_passages(asked, listing, put, gone))


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embeddings(body: EmbeddingRequest, request: Request, service: Serving, caller: Reading) -> Response:
    """OpenAI's embeddings, by the configured embedder; a text that is too long is refused, not cut."""
    check_model(body.model, EMBEDDER)

    def work(put: Callable[[bytes], None], gone: Callable[[], bool]) -> None:
        service.questions.embed(caller, body.texts, lambda found: put(_embedding_list(body, found)), gone, kind=body.input_type)

    async with aclosing(stream_from_thread(request, service, work)) as results:
        made: bytes = await first_of(results)
    return Response(made, media_type="application/json")


@router.get("/v1/models")
async def models(caller: Reading) -> ModelList:
    """The models: one that answers, one that returns passages, one that embeds."""
    return ModelList(data=[model(name) for name in MODELS])


@router.get("/v1/models/{name}")
async def one_model(name: str, caller: Reading) -> ModelResponse:
    """A model by its name."""
    check_model(name)
    return model(name)
