"""The embedded model server's HTTP side: NIM and OpenAI-style endpoints in front of three lanes, one per model."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.catalog import KV_CACHE
from headrace.errors import (
    HeadraceError,
    MissingPart,
    NotFound,
    Overloaded,
    RequestRefused,
    Unavailable,
    WrongUsage,
)
from headrace.models import wire
from headrace.models.lane import Lane
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

if TYPE_CHECKING:  # these import torch, which takes seconds: the lanes do it while the server already answers
    from headrace.models.embedder import MiniLM
    from headrace.models.generator import SmolLM
    from headrace.models.reranker import Rerankers

T = TypeVar("T")
_Report = dict[str, Any]

log = logging.getLogger("headrace.models")


@dataclass
class EndpointsFile:
    """The endpoints the platform wrote; read when first needed, and again when the file changed."""

    path: Path | None
    _stamp: tuple[int, int] | None = None
    _read: Endpoints | None = None

    def __call__(self) -> Endpoints:
        """The endpoints. Raises `Unavailable` where there are none yet."""
        hint = "Start the platform with `headrace up` and try again."
        if self.path is None:
            raise Unavailable("The model server was not told where storage is.", hint=hint)
        try:
            status = self.path.stat()
            if self._read is None or self._stamp != (status.st_mtime_ns, status.st_size):
                self._read = Endpoints.model_validate_json(self.path.read_bytes())
                self._stamp = (status.st_mtime_ns, status.st_size)
        except (OSError, ValidationError):
            raise Unavailable("The model server cannot read where storage is.", hint=hint) from None
        return self._read


@dataclass
class Call:
    """One request under way; `cancelled` turns true when nobody waits for its answer any more."""

    lane: Lane
    gone: bool = False

    def cancelled(self) -> bool:
        """Whether to stop working on it."""
        return self.gone or self.lane.stopping


@dataclass
class Models:
    """The three models, each behind its lane and loaded on first use."""

    endpoints: EndpointsFile
    cache: Path
    threads: int
    ready: bool = False
    embedding: Lane = field(default_factory=lambda: Lane("embedder", places=32))
    ranking: Lane = field(default_factory=lambda: Lane("re-ranker"))
    generating: Lane = field(default_factory=lambda: Lane("generator"))
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _warmed: threading.Event = field(default_factory=threading.Event)
    _embedder: MiniLM | None = None
    _rerankers: Rerankers | None = None
    _generator: SmolLM | None = None
    _reported: set[str] = field(default_factory=set)

    def warm(self) -> None:
        """Begin loading torch, then the embedder, then the generator."""
        self.embedding.submit(self._import_torch)
        warm = self.embedding.submit(partial(self._warm, self.embedder))
        warm.add_done_callback(lambda _: self._warmed.set())
        warm.add_done_callback(lambda _: self.generating.submit(partial(self._warm, self.generator)))

    def stop(self) -> None:
        """End every lane's work soon. Safe to call in a signal handler."""
        for lane in (self.embedding, self.ranking, self.generating):
            lane.stop()

    def embedder(self) -> MiniLM:
        """The embedder; called on its lane only, as the two below."""
        if self._embedder is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models.embedder import MiniLM

                self._embedder = MiniLM()
            log.info("loaded the embedder in %.1f s", time.perf_counter() - started)
        return self._embedder

    def rerankers(self) -> Rerankers:
        """The re-ranker's versions."""
        if self._rerankers is None:
            # Not under the lock: the generator may hold it for long, and most of this was imported with the embedder.
            self._warmed.wait()
            from headrace.models.reranker import Rerankers

            self._rerankers = Rerankers(self.endpoints, self.cache, self._loading)
        return self._rerankers

    def generator(self) -> SmolLM:
        """The generator."""
        if self._generator is None:
            with self._loading:
                started = time.perf_counter()
                from headrace.models import generator

                self._generator = generator.load(self.cache)
            log.info("loaded the generator in %.1f s", time.perf_counter() - started)
        return self._generator

    def kv_files(self, ledger: Ledger, tenant: str) -> tuple[FileWriter, int] | None:
        """The KV cache's files and how many bytes they may take, or `None` where there is no storage."""
        try:
            endpoints = self.endpoints()
        except Unavailable as error:
            if "kv" not in self._reported:
                self._reported.add("kv")
                log.warning("prompts are not cached: %s", error)
            return None
        return FileWriter(KV_CACHE, endpoints, Meter(ledger, "models", tenant)), endpoints.kv_cache_bytes

    def _import_torch(self) -> None:
        started = time.perf_counter()
        try:
            with self._loading:
                import torch

                torch.set_num_threads(self.threads)
        except ImportError as error:
            log.error("torch cannot be imported: %s; run `make install`", error)
            return
        self.ready = True
        log.info("imported torch in %.1f s", time.perf_counter() - started)

    def _warm(self, load: Callable[[], object]) -> None:
        try:
            load()
        except HeadraceError as error:
            log.error("%s", error)


@dataclass
class Metrics:
    """Requests by route and status, and the seconds they took."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds

    def text(self) -> str:
        """The counters in Prometheus' text format."""
        lines = [
            "# HELP headrace_models_requests_total Requests answered.",
            "# TYPE headrace_models_requests_total counter",
            *(
                f'headrace_models_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self.requests.items())
            ),
            "# HELP headrace_models_request_seconds_total Seconds from a request's arrival to the end of its answer.",
            "# TYPE headrace_models_request_seconds_total counter",
            *(
                f'headrace_models_request_seconds_total{{route="{route}"}} {seconds:.6f}'
                for route, seconds in sorted(self.seconds.items())
            ),
        ]
        return "\n".join(lines) + "\n"


_OPEN = ("/v1/health/ready", "/v1/health/live")
_ROUTES = (*_OPEN, "/v1/metrics", "/v1/models", "/v1/embeddings", "/v1/ranking", "/v1/chat/completions")


class Door:
    """Lets in who has the key, with bodies of bounded size, and counts and logs every answer."""

    def __init__(self, app: ASGIApp, *, key: str, metrics: Metrics) -> None:
        self._app = app
        self._key = key.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        started = time.perf_counter()
        status = 499  # what nginx logs for a client that left before it was answered

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            answer = self._refuse_stranger(scope)
            if answer is None:
                body = await _read_body(receive)
                if body is None:
                    answer = _error(
                        413,
                        f"The body is larger than {wire.BODY_BYTES_MAX >> 20} MiB.",
                        "invalid_request_error",
                        "too_large",
                    )
            if answer is not None:
                await answer(scope, receive, counted)
            else:
                await self._app(scope, _replay(body or b"", receive), counted)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.count(route, status, seconds)
            if route not in _OPEN:
                log.info("%s %s %d in %.3f s", scope["method"], route, status, seconds)

    def _refuse_stranger(self, scope: Scope) -> Response | None:
        if scope["path"] in _OPEN:
            return None
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            return None
        return _error(401, "The API key is missing or wrong.", "authentication_error", "invalid_api_key")


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or `None` where it is too large; even that is taken in, so that its sender reads the answer."""
    pieces, size = [], 0
    while size <= 8 * wire.BODY_BYTES_MAX:
        message = await receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size <= wire.BODY_BYTES_MAX:
            pieces.append(piece)
        if not message.get("more_body", False):
            break
    return b"".join(pieces) if size <= wire.BODY_BYTES_MAX else None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _error(status: int, message: str, type: str, code: str, **more: Any) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(wire.error_body(message, type=type, code=code) | more, status, headers)


def _refusal(error: HeadraceError) -> JSONResponse:
    """The HTTP answer for an error of ours."""
    match error:
        case Overloaded():
            return _error(429, str(error), "rate_limit_error", "overloaded")
        case NotFound():
            return _error(404, str(error), "invalid_request_error", "model_not_found")
        case RequestRefused() | WrongUsage():
            return _error(400, str(error), "invalid_request_error", "invalid_value")
        case MissingPart():
            return _error(503, str(error), "server_error", wire.MISSING_PART)
        case Unavailable():
            return _error(503, str(error), "server_error", wire.UNAVAILABLE)
        case _:
            return _error(500, str(error), "server_error", "internal_error")


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
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'] if part != 'body') or 'body'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        return _error(400, "; ".join(faults[:5]) + ".", "invalid_request_error", "invalid_value")

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, f"{error.detail}.", "invalid_request_error", "not_found")

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return _error(500, f"The model server failed: {type(error).__name__}.", "server_error", "internal_error")

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
            return Response(status_code=499)
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
                more = {"headrace": {"storage": ledger.export()}}
                return _error(404, str(error), "invalid_request_error", code, **more)
        if ranked is None:
            return Response(status_code=499)
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
    async def chat(body: wire.ChatRequest, request: Request) -> Response:
        _check_model(body.model, "generator")
        call = Call(models.generating)
        events = _answer(models, body, call)
        # The first event tells whether there will be an answer: until then an error can still be an HTTP status.
        first = await _while_connected(request, call, anext(events, None))
        if first is None:
            return Response(status_code=499)
        if body.stream:
            return StreamingResponse(_as_stream(first, events), media_type="text/event-stream")
        async with aclosing(events):
            answer = await _while_connected(request, call, _as_whole(first, events))
        return JSONResponse(answer) if answer is not None else Response(status_code=499)

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


_Event = tuple[str, Any]  # ("begin", id) ("text", piece) ("end", the report)


async def _answer(models: Models, body: wire.ChatRequest, call: Call) -> AsyncGenerator[_Event, None]:
    """The events of one answer: its beginning, its pieces, its report. Raises what the generator raises."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[_Event | None] = asyncio.Queue()

    def put(event: _Event | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def generate() -> None:
        if call.cancelled():
            return
        ledger = Ledger()
        model = models.generator()
        from headrace.models.generator import Cancelled, Generation, Sampling
        from headrace.models.kv_cache import KvCache

        extras = body.headrace
        generation = Generation(model.prompt([(message.role, message.text) for message in body.messages]))
        files = models.kv_files(ledger, extras.tenant) if extras.cache else None
        cache = None
        if files is not None:
            cache = KvCache(files[0], model=model.version, tenant=extras.tenant, shape=model.shape, limit_bytes=files[1])
        pieces = model.generate(
            generation.prompt_tokens,
            Sampling(body.limit, body.temperature, body.top_p, body.frequency_penalty, body.seed, tuple(body.stops)),
            cache=cache,
            cancelled=call.cancelled,
            into=generation,
        )
        try:
            for piece in pieces:
                put(("text", piece))
        except Cancelled:
            log.info("an answer was given up after %d tokens: its client left", len(generation.completion_tokens))
            return
        report = {
            "finish_reason": generation.finish_reason,
            "usage": {
                "prompt_tokens": len(generation.prompt_tokens),
                "completion_tokens": len(generation.completion_tokens),
                "total_tokens": len(generation.prompt_tokens) + len(generation.completion_tokens),
                "prompt_tokens_details": {"cached_tokens": generation.reused_tokens},
            },
            "headrace": {
                "version": model.version,
                "prompt_tokens": generation.prompt_tokens,
                "completion_tokens": generation.completion_tokens,
                "logprobs": generation.logprobs,
                "storage": ledger.export(),
                "reused_tokens": generation.reused_tokens,
                "timings_ms": generation.timings_ms,
            },
        }
        put(("end", report))

    with models.generating.place():
        job = asyncio.ensure_future(models.generating.run(generate))
        job.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await job  # raises what went wrong
            if models.generating.stopping:
                raise Unavailable("The model server is stopping.", hint="Start it and ask again.")
        finally:
            call.gone = True
            job.cancel()


def _now() -> tuple[str, int]:
    return f"chatcmpl-{secrets.token_hex(12)}", int(time.time())


async def _as_stream(first: _Event, events: AsyncGenerator[_Event, None]) -> AsyncIterator[bytes]:
    """Server-sent events of one answer."""
    name, created = _now()
    base = {"id": name, "object": "chat.completion.chunk", "created": created, "model": wire.GENERATOR}

    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _data(base | {"choices": [choice]} | more)

    async with aclosing(events):
        yield chunk({"role": "assistant", "content": ""})
        try:
            async for kind, given in _chain(first, events):
                if kind == "text":
                    yield chunk({"content": given})
                else:
                    yield chunk({}, given["finish_reason"], usage=given["usage"], headrace=given["headrace"])
        except HeadraceError as error:
            yield _data(json.loads(bytes(_refusal(error).body)))
        yield b"data: [DONE]\n\n"


def _data(value: _Report) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _as_whole(first: _Event, events: AsyncIterator[_Event]) -> _Report:
    """One answer as one body."""
    name, created = _now()
    pieces: list[str] = []
    report: _Report = {}
    async for kind, given in _chain(first, events):
        if kind == "text":
            pieces.append(given)
        else:
            report = given
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(pieces)},
        "finish_reason": report["finish_reason"],
    }
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": wire.GENERATOR,
        "choices": [choice],
        "usage": report["usage"],
        "headrace": report["headrace"],
    }


async def _chain(first: _Event, rest: AsyncIterator[_Event]) -> AsyncIterator[_Event]:
    yield first
    async for event in rest:
        yield event
