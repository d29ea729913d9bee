"""The embedded model server's routes: NIM and OpenAI-style endpoints for three models."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from headrace.errors import HeadraceError, NotFound, RequestRefused
from headrace.models import wire
from headrace.models.cards import RerankerCard
from headrace.models.http import LEFT, error_response, malformed
from headrace.models.pointer import NONE
from headrace.models.server import chat
from headrace.models.server.hosted import Call, HostedModels
from headrace.models.server.middleware import ModelAuthMiddleware, ModelServerMetrics, error_response_for
from headrace.storage.ledger import Ledger

if TYPE_CHECKING:
    from headrace.models.server.encoders import Scores

T = TypeVar("T")
_FEW = 8
"""Texts of a query that goes before passages: of a question, not of a client that embeds many."""


async def _while_connected(request: Request, call: Call, work: Awaitable[T]) -> T | None:
    """The result of `work`, or `None` if the client disconnects first; `call.gone` is then true."""
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


def _version(model: str, role: str) -> str:
    """The version in a request's `model`, or "". Raises `NotFound` for another model."""
    name, _, version = model.partition("@")
    if name.rpartition("/")[2].lower() not in (role, wire.ROLES[role].lower()):
        raise NotFound(f"This server has no {role} {model!r}.", hint=f"Ask for {role!r}.")
    return version


def create(models: HostedModels, *, key: str) -> FastAPI:
    """The application. `key` is the bearer token; without it only the health routes answer."""
    metrics = ModelServerMetrics()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        models.warm()
        for releases in (models.rerankers, models.generators):  # the index says which embedder it needs
            releases.refresh()
        yield
        models.stop()

    app = FastAPI(title="Headrace models", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ModelAuthMiddleware, key=key, metrics=metrics)

    app.add_exception_handler(RequestValidationError, malformed)

    @app.exception_handler(HeadraceError)
    async def refused(_: Request, error: HeadraceError) -> JSONResponse:
        return error_response_for(error)

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, f"{error.detail}.", "not_found")

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"The model server failed: {type(error).__name__}.", "internal_error")

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
        return PlainTextResponse(metrics.text() + models.kv.metrics_text(), media_type="text/plain; version=0.0.4")

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
        version = _version(name, "embedder")
        ledger = Ledger()
        with models.embedding.slot():
            call = Call(models.embedding)
            urgent = "query" in (body.input_type, kind) and len(body.texts) <= _FEW
            answer = await _while_connected(request, call, _embed(models, body, version, ledger, urgent=urgent))
        if answer is None:
            return Response(status_code=LEFT)
        vectors, tokens = answer
        if body.encoding_format == "base64":
            encoded: list[Any] = [base64.b64encode(vector).decode() for vector in vectors]
        else:
            encoded = vectors.tolist()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(encoded)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        extras = {"version": version or NONE, "storage": ledger.export()}
        return JSONResponse({"object": "list", "data": data, "model": wire.EMBEDDER, "usage": usage, "headrace": extras})

    @app.post("/v1/ranking")
    async def ranking(body: wire.RankingRequest, request: Request) -> Response:
        version = _version(body.model, "reranker")
        ledger = Ledger()
        with models.ranking.slot():
            try:
                ranked = await _while_connected(request, Call(models.ranking), _rank(models, body, version, ledger))
            except NotFound as error:
                code = "model_not_found" if version not in ("", NONE) else wire.NO_CHAMPION
                return error_response(404, str(error), code, headrace={"storage": ledger.export()})
        if ranked is None:
            return Response(status_code=LEFT)
        card, scores = ranked
        order = sorted(range(len(scores.logits)), key=lambda index: -scores.logits[index])
        answer = {
            "rankings": [{"index": index, "logit": scores.logits[index]} for index in order],
            "model": wire.RERANKER,
            "usage": {"prompt_tokens": scores.tokens, "total_tokens": scores.tokens},
            "headrace": {
                "version": card.version,
                "ranking": card.ranking.model_dump(),
                "storage": ledger.export(),
            },
        }
        return JSONResponse(answer)

    @app.post("/v1/chat/completions")
    async def completions(body: wire.ChatRequest, request: Request) -> Response:
        version = _version(body.model, "generator")
        call = Call(models.generating)
        events = chat.answer(models, body, version, call)
        # Until the first event an error can still be an HTTP status.
        first = await _while_connected(request, call, anext(events, None))
        if first is None:
            return Response(status_code=LEFT)
        if body.stream:
            return StreamingResponse(chat.as_stream(first, events), media_type="text/event-stream")
        async with aclosing(events):
            answer = await _while_connected(request, call, chat.as_whole(first, events))
        return JSONResponse(answer) if answer is not None else Response(status_code=LEFT)

    @app.post("/v1/kv/settle")
    async def settle(body: wire.SettleRequest) -> JSONResponse:
        entries = await asyncio.to_thread(models.kv.settle, body.run, body.seconds)
        return JSONResponse({"object": "kv.settled", "headrace": {"storage": entries}})

    return app


async def _rank(models: HostedModels, body: wire.RankingRequest, version: str, ledger: Ledger) -> tuple[RerankerCard, Scores]:
    """The card of the version that ranks, and its scores. Raises `NotFound` if no re-ranker was promoted."""
    release = await models.rerankers.requested(version, body.headrace.answer_id, ledger)
    if release is None:
        raise NotFound(
            "No re-ranker was promoted yet; passages stay in retrieval order.",
            hint="Give feedback on answers, then run `headrace train`.",
        )
    passages = [passage.text for passage in body.passages]
    score = partial(release.model.score, body.query.text, passages, cut=body.truncate == "END")
    return release.card, await models.ranking.run(score)


async def _embed(
    models: HostedModels, body: wire.EmbeddingsRequest, version: str, ledger: Ledger, *, urgent: bool
) -> tuple[Any, int]:
    """The texts' vectors and number of tokens; in batches, so that an urgent request waits for one batch only."""
    queue = models.embedding
    if version in ("", NONE):
        model = await queue.run(models.embedder, urgent=urgent)
    else:
        model = (await models.embedders.by_name(version, ledger)).model
    if body.dimensions not in (None, model.width):
        raise RequestRefused(f"The model's vectors have {model.width} dimensions.", hint="Leave dimensions out.")
    from headrace.models.server.encoders import batches

    pieces = await asyncio.to_thread(model.word_pieces, body.texts, body.truncate)
    vectors = np.empty((len(pieces), model.width), dtype="<f4")
    for batch in batches(pieces):
        part = [pieces[position] for position in batch]
        vectors[batch] = await queue.run(partial(model.embed, part), urgent=urgent)
    return vectors, sum(map(len, pieces))
