"""The routes that OpenAI's clients use: chat completions, models, embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from headrace.api.answers import answer_response
from headrace.api.chat import ChatCompletionRequest
from headrace.api.dependencies import InThread, Reading, Serving
from headrace.api.embeddings import EmbeddingList, EmbeddingRequest, embedding_list
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
from headrace.api.routes.questions import Pieces, last_of, pieces_of
from headrace.api.telemetry import MODEL
from headrace.api.threads import first_of, stream_from_thread

router = APIRouter()


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
    check_model(body.model, MODEL, SEARCH)
    # Many clients send `user`: it is ignored where the key may not name one.
    user = body.asker if caller.names_users else None
    more = body.headrace
    asked = service.questions.admit(
        caller,
        body.question,
        dict(request.headers),
        tenant=more.tenant,
        readers=more.readers,
        filters=more.filters,
        history=body.history,
        user=user,
        options=body.options,
    )
    if body.model == SEARCH:
        request.scope["noted"].resource = asked.answer_id
        pieces: Pieces = stream_from_thread(
            request, service, lambda put, gone: service.questions.list_passages(asked, listing, put, gone)
        )
    else:
        pieces = pieces_of(request, service, asked)
    first = await first_of(pieces)
    base = str(request.base_url).rstrip("/")
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = streamed(asked.answer_id, first, pieces, caller, base, name=body.model, usage=usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return whole(answer_response(await last_of(first, pieces), caller), base, body.model)


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embeddings(body: EmbeddingRequest, service: Serving, caller: Reading, in_thread: InThread) -> EmbeddingList:
    """OpenAI's embeddings, by the configured embedder; a text that is too long is refused, not cut."""
    check_model(body.model, EMBEDDER)
    return await in_thread(lambda: embedding_list(body, service.questions.embed(caller, body.texts, kind=body.input_type)))


@router.get("/v1/models")
async def models(caller: Reading) -> ModelList:
    """The models: one that answers, one that returns passages, one that embeds."""
    return ModelList(data=[model(name) for name in MODELS])


@router.get("/v1/models/{name}")
async def one_model(name: str, caller: Reading) -> ModelResponse:
    """A model by its name."""
    check_model(name)
    return model(name)
