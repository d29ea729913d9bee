"""The embedded model server's HTTP side: NIM and OpenAI-style endpoints in front of three models."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from headrace.errors import HeadraceError, NotFound, RequestRefused
from headrace.models import chat, wire
from headrace.models.door import Door, Metrics, refusal
from headrace.models.hosted import Call, Models
from headrace.models.http import LEFT, told
from headrace.storage.ledger import Ledger

T = TypeVar("T")


async def _while_connected(request: Request, call: Call, work: Awaitable[T]) -> T | None:
    """The result of `work`, or `None` if the client left first; `call` then says so."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        call.gone = not task.done()
        for open in (task, watch):
            open.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_model(given: str, role: str) -> None:
    if given.rpartition("/")[2].lower() not in (role, wire.ROLES[role].lower()):
        raise NotFound(f"This server has no {role} {given!r}.", hint=f"Ask for {role!r}.")


def create(models: Models, *, key: str) -> FastAPI:
    """The application. `key` is the bearer token; without it only health answers."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        models.warm()
        yield
        models.stop()

    app = FastAPI(title="Headrace models", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Door, key=key, metrics=metrics)

    @app.exception_handler(HeadraceError)
    async def refused(_: Request, error: HeadraceError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'] if part != 'body') or 'body'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        return told(400, "; ".join(faults[:5]) + ".", "invalid_value")

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> JSONResponse:
        return told(error.status_code, f"{error.detail}.", "not_found")

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return told(500, f"The model server failed: {type(error).__name__}.", "internal_error")

    @app.get("/v1/health/live")
    async def live() -> JSONResponse:
        return JSONResponse({"object": "health.response", "message": "live", "live": True})

    @app.get("/v1/health/ready")
    async def ready() -> JSONResponse:
        message = "ready" if models.ready else "starting"
        body = {"object": "health.response", "message": message, "ready": models.ready}
        return JSONResponse(body, 200 if models.ready else 503)

    @app.get("/v1/metrics")
    async def counters() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def listed() -> JSONResponse:
        data = [
            {"id": role, "object": "model", "created": 0, "owned_by": "headrace", "root": name}
            for role, name in wire.ROLES.items()
        ]
        return JSONResponse({"object": "list", "data": data})

    @app.post("/v1/embeddings")
    async def embeddings(body: wire.EmbeddingsRequest, request: Request) -> Response:
        name, _, kind = body.model.rpartition("-") if body.model.endswith(("-query", "-passage")) else (body.model, "", "")
        _check_model(name, "embedder")
        if body.dimensions not in (None, 384):
            raise RequestRefused("The model's vectors have 384 dimensions.", hint="Leave dimensions out.")
        with models.embedding.place():
            call = Call(models.embedding)
            urgent = "query" in (body.input_type, kind)
            answer = await _while_connected(request, call, _embed(models, body.texts, body.truncate, urgent=urgent))
        if answer is None:
            return Response(status_code=LEFT)
        vectors, tokens = answer
        if body.encoding_format == "base64":
            encoded: list[Any] = [base64.b64encode(vector).decode() for vector in vectors]
        else:
            encoded = vectors.tolist()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(encoded)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": wire.EMBEDDER, "usage": usage})

    @app.post("/v1/ranking")
    async def ranking(body: wire.RankingRequest, request: Request) -> Response:
        name, _, version = body.model.partition("@")
        _check_model(name, "reranker")
        ledger = Ledger()

        def rank() -> Any:
            passages = [passage.text for passage in body.passages]
            cut = body.truncate == "END"
            return models.rerankers().rank(body.query.text, passages, ledger, version=version or None, cut=cut)

        with models.ranking.place():
            try:
                ranked = await _while_connected(request, Call(models.ranking), models.ranking.run(rank))
            except NotFound as error:
                code = "model_not_found" if version else wire.NO_CHAMPION
                return told(404, str(error), code, headrace={"storage": ledger.export()})
        if ranked is None:
            return Response(status_code=LEFT)
        order = sorted(range(len(ranked.logits)), key=lambda index: -ranked.logits[index])
        answer = {
            "rankings": [{"index": index, "logit": ranked.logits[index]} for index in order],
            "model": wire.RERANKER,
            "usage": {"prompt_tokens": ranked.tokens, "total_tokens": ranked.tokens},
            "headrace": {
                "version": ranked.version,
                "retrieval_weight": ranked.retrieval_weight,
                "storage": ledger.export(),
            },
        }
        return JSONResponse(answer)

    @app.post("/v1/chat/completions")
    async def completions(body: wire.ChatRequest, request: Request) -> Response:
        _check_model(body.model, "generator")
        call = Call(models.generating)
        events = chat.answer(models, body, call)
        # The first event tells whether there will be an answer: until then an error can still be an HTTP status.
        first = await _while_connected(request, call, anext(events, None))
        if first is None:
            return Response(status_code=LEFT)
        if body.stream:
            return StreamingResponse(chat.as_stream(first, events), media_type="text/event-stream")
        async with aclosing(events):
            answer = await _while_connected(request, call, chat.as_whole(first, events))
        return JSONResponse(answer) if answer is not None else Response(status_code=LEFT)

    return app


async def _embed(models: Models, texts: Sequence[str], truncate: str, *, urgent: bool) -> tuple[Any, int]:
    """Vectors of the texts and how many tokens were read; by batches, so that an urgent request waits for one only."""
    lane = models.embedding
    await lane.run(models.embedder, urgent=urgent)
    from headrace.models import embedder

    pieces = await asyncio.to_thread(embedder.word_pieces, texts, truncate)
    vectors = np.empty((len(pieces), 384), dtype="<f4")
    for batch in embedder.batches(pieces):
        part = [pieces[position] for position in batch]
        vectors[batch] = await lane.run(partial(_embed_batch, models, part), urgent=urgent)
    return vectors, sum(map(len, pieces))


def _embed_batch(models: Models, pieces: list[list[int]]) -> Any:
    return models.embedder().embed(pieces)
