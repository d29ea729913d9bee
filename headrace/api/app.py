"""The application: routes over a `Service`, behind the door."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib import resources
from types import FrameType
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from headrace import __version__
from headrace.answering.record import new_id
from headrace.api.auth import ADMIN, READ, Caller, caller_of
from headrace.api.middleware import AuthMiddleware, body_of, code_of, error_response_for
from headrace.api.openai import Chat, check_model, model, streamed, whole
from headrace.api.routes.documents import add_documents
from headrace.api.routes.health import Health, add_health
from headrace.api.routes.tenants import add_tenants
from headrace.api.routes.training import add_loop, loop_told
from headrace.api.schemas import EXAMPLES, AskedFor, AskRequest, FeedbackRequest, Tenant, described
from headrace.api.service import Service
from headrace.api.threads import run_in_thread, stream_from_thread
from headrace.errors import HeadraceError, WrongUsage
from headrace.models import http
from headrace.models.http import LEFT, error_response

Pieces = AsyncGenerator[str | dict[str, Any], None]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="The same for each sending of one verdict, another for each verdict."),
]
BODY_BYTES = 64 << 10
_SVG_CSP = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; frame-ancestors 'none'; sandbox"
_TOTALS_S = 1.0
_LOOK_S = 0.2
_HEALTH_S = 5.0  # the page need not know sooner


def create_app(service: Service, token: str) -> FastAPI:
    """The application that serves the API and the page; every route but health needs an API key, or `token`."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="Headrace",
        version=__version__,
        description="Questions, documents, verdicts, tenants, and what moved. See docs/how-to/use-the-api.md.",
        lifespan=life,
        # The documentation pages of FastAPI load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.service = service
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    app.add_middleware(
        AuthMiddleware,
        token=token,
        service=service,
        body_bytes=BODY_BYTES,
        document_bytes=service.settings.inference.document_bytes,
        routes=app.routes,
    )
    app.add_exception_handler(HeadraceError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _elsewhere)

    health = add_health(app, service)

    def asked(
        request: Request,
        question: str,
        named: str | None,
        readers: Sequence[str],
        user: str | None,
        simulated: str | None = None,
    ) -> tuple[str, Pieces]:
        """The answer's id and its pieces, once a place is taken for the question."""
        caller = caller_of(request)
        caller.may(READ)
        tenant, readers = caller.whose(named), caller.asks_as(readers)
        who = service.who(caller, user, simulated)
        place = service.places.enter(tenant, caller.limits.questions, question)
        headers = dict(request.headers)
        answer_id = new_id()

        def work(gone: Callable[[], bool]) -> Iterator[str | dict[str, Any]]:
            stream = service.ask(
                place, question, caller, tenant, gone=gone, headers=headers, readers=readers, who=who, answer_id=answer_id
            )
            return _noting(stream, request)

        return answer_id, stream_from_thread(request, service, work)

    @app.post("/v1/chat/completions", responses=EXAMPLES["chat"])
    async def chat_completions(body: Chat, request: Request) -> Response:
        """OpenAI's chat completions: the last message of the user's is the question; `headrace` has citations and versions."""
        check_model(body.model)
        # Many clients send `user`: of a key that may not name one it is left aside.
        user = body.asker if caller_of(request).names_users else None
        answer_id, pieces = asked(request, body.question, body.headrace.tenant, body.headrace.readers, user)
        first = await anext(pieces, None)
        if first is None:
            return Response(status_code=LEFT)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            told_in_chunks = streamed(answer_id, first, pieces, caller_of(request), usage=usage)
            return StreamingResponse(told_in_chunks, media_type="text/event-stream")
        answer = await _whole(first, pieces)
        return Response(status_code=LEFT) if answer is None else JSONResponse(whole(answer))

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        """The one model there is."""
        caller_of(request).may(READ)
        return JSONResponse({"object": "list", "data": [model()]})

    @app.get("/v1/models/{name}")
    async def one_model(name: str, request: Request) -> JSONResponse:
        """A model by its name."""
        caller_of(request).may(READ)
        check_model(name)
        return JSONResponse(model())

    @app.post("/v1/ask", responses=EXAMPLES["ask"])
    async def ask(body: AskedFor, request: Request) -> Response:
        """The answer to a question, with its citations; as server-sent events if `stream`."""
        _, pieces = asked(request, body.question, body.tenant, body.readers, body.user, body.simulated_user)
        # The first piece tells whether there will be an answer: until then an error can still be an HTTP status.
        first = await anext(pieces, None)
        if first is None:
            return Response(status_code=LEFT)
        if body.stream:
            return StreamingResponse(_told_in_pieces(first, pieces, caller_of(request)), media_type="text/event-stream")
        return _answered(await _whole(first, pieces))

    @app.post("/v1/search", responses=EXAMPLES["search"])
    async def search(body: AskRequest, request: Request) -> Response:
        """The passages for a question, best first, with both scores and both ranks."""
        caller = caller_of(request)
        caller.may(READ)
        tenant, readers = caller.whose(body.tenant), caller.asks_as(body.readers)
        who = service.who(caller, body.user, body.simulated_user)
        place = service.places.enter(tenant, caller.limits.questions, body.question)
        headers = dict(request.headers)

        def found(gone: Callable[[], bool]) -> Iterator[dict[str, Any] | None]:
            yield service.search(
                place,
                body.question,
                caller,
                tenant,
                gone=gone,
                headers=headers,
                readers=readers,
                who=who,
            )

        async with aclosing(stream_from_thread(request, service, found)) as results:
            result = await anext(results, None)
        if result is not None:
            request.scope["noted"].resource = result["answer_id"]
        return _answered(result)

    @app.post("/v1/feedback", responses=EXAMPLES["feedback"])
    async def judge(body: FeedbackRequest, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Record a verdict on the head; says where it stands there.

        With the header `Idempotency-Key` it may be sent again, should its answer not come: it is recorded once.
        """
        caller = caller_of(request)
        caller.may(READ)
        given = body.model_dump()
        request.scope["noted"].resource = body.answer_id
        answer_id, up = given.pop("answer_id"), given.pop("up")
        return _answered(
            await run_in_thread(request, service, lambda: service.judge(caller, answer_id, up, key=idempotency_key, **given))
        )

    add_documents(app, service)
    add_tenants(app, service, health)
    add_loop(app, service)

    @app.get("/v1/ledger")
    async def ledger(request: Request) -> JSONResponse:
        """What the live run has moved, a row for each stage, store, direction and tenant."""
        caller_of(request).may(ADMIN)
        return JSONResponse(service.ledger())

    @app.get("/v1/runs")
    async def recorded(request: Request) -> Response:
        """The recorded runs of this home, newest first."""
        caller_of(request).may(ADMIN)
        found = await run_in_thread(request, service, service.runs)
        return _answered(None if found is None else {"runs": found})

    @app.get("/v1/standing")
    async def standing(request: Request, tenant: Tenant | None = None) -> Response:
        """How many passages of a tenant are indexed, and in which version of the index."""
        caller = caller_of(request)
        caller.may(READ)
        whose = caller.whose(tenant)
        return _answered(await run_in_thread(request, service, lambda: service.standing(caller, whose)))

    @app.get("/v1/diagrams/{pipeline}.svg")
    async def diagram(pipeline: str, request: Request, run: str | None = None) -> Response:
        """A pipeline's diagram, drawn from the newest run that moved anything in it, or from `run`."""
        caller_of(request).may(ADMIN)
        drawn = await run_in_thread(request, service, lambda: service.diagram(pipeline, run))
        if drawn is None:
            return Response(status_code=LEFT)
        return Response(drawn, media_type="image/svg+xml", headers={"Content-Security-Policy": _SVG_CSP})

    @app.get("/v1/events")
    async def events(request: Request) -> StreamingResponse:
        """Server-sent events: `totals`, the live run by tier, about once a second; `loop` (as /v1/loop) and `health` (as
        /health/ready) where they have changed."""
        caller_of(request).may(ADMIN)
        stands: Callable[[], bool] = request.scope.get("standing", lambda: True)
        told_of_all = _totals(service, lambda: loop_told(app, service), health, stands)
        return StreamingResponse(told_of_all, media_type="text/event-stream")

    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        app.add_api_route(path, _file(f"static/{name}", kind), include_in_schema=False, methods=["GET"], response_model=None)
    return app


def _noting(pieces: Iterator[str | dict[str, Any]], request: Request) -> Iterator[str | dict[str, Any]]:
    """The pieces, the answer's id kept for the audit as it passes."""
    for piece in pieces:
        if not isinstance(piece, str):
            request.scope["noted"].resource = piece["answer_id"]
        yield piece


async def _whole(first: str | dict[str, Any], rest: Pieces) -> dict[str, Any] | None:
    """The answer at the end of its pieces, or `None` if the client left."""
    if not isinstance(first, str):
        return first
    async with aclosing(rest):
        async for piece in rest:
            if not isinstance(piece, str):
                return piece
    return None


def _file(name: str, kind: str) -> Any:
    content = resources.files("headrace.api").joinpath(name).read_bytes()

    async def given() -> Response:
        return Response(content, media_type=kind)

    return given


def _answered(result: dict[str, Any] | None) -> Response:
    return Response(status_code=LEFT) if result is None else JSONResponse(result)


async def _told_in_pieces(first: str | dict[str, Any], rest: Pieces, caller: Caller) -> AsyncIterator[str]:
    """Events `piece` (`{"text"}`), then `answer` (the JSON answer), or `error` (an error body)."""
    async with aclosing(rest):
        yield _event(first)
        try:
            async for piece in rest:
                yield _event(piece)
        except HeadraceError as error:
            yield _named("error", body_of(error, caller))


def _event(piece: str | dict[str, Any]) -> str:
    return _named("piece", {"text": piece}) if isinstance(piece, str) else _named("answer", piece)


def _named(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _totals(
    service: Service, loop: Callable[[], dict[str, Any]], health: Health, stands: Callable[[], bool]
) -> AsyncIterator[str]:
    """The events of `/v1/events`, until the service stops or the key that asks for them is no longer valid."""
    before: dict[str, Any] = {}
    healthy: dict[str, Any] = {}
    while True:
        yield _named("totals", service.totals())
        if (told := await asyncio.to_thread(loop)) != before:
            before = told
            yield _named("loop", told)
        if (told := await health.told(_HEALTH_S)) != healthy:
            healthy = told
            yield _named("health", told)
        if service.stopping:
            return
        for _ in range(round(_TOTALS_S / _LOOK_S)):
            if not service.stopping:
                await asyncio.sleep(_LOOK_S)
                if not await asyncio.to_thread(stands):
                    return


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeadraceError)
    request.scope["noted"].outcome = code_of(error)
    return error_response_for(error, request.scope.get("caller"))


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults: list[str] = []
    param: str | None = None
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path", "header"))
        if fault["type"] == "json_invalid" or not field:
            faults, param = ["The body is not a JSON object. Send one, with `Content-Type: application/json`"], None
            break
        faults.append(f"{field}: {fault['msg'].removeprefix('Value error, ')}")
        param = param or field
    return error_response(400, "; ".join(faults[:5]) + ".", "invalid_value", param=param)


async def _elsewhere(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentences = {
        404: ("There is nothing at this address. See /openapi.json.", "not_found"),
        405: ("This address does not take that method. See /openapi.json.", "wrong_method"),
    }
    message, code = sentences.get(error.status_code, (f"{error.detail}.", "refused"))
    answer = error_response(error.status_code, message, code)
    answer.headers.update(error.headers or {})
    return answer


_GRACE_S = 2
_WATCH_S = 1.0


def serve(app: FastAPI, port: int, *, ended: Callable[[], bool] = lambda: False) -> None:
    """Serve until SIGINT or SIGTERM, or until `ended` (asked about once a second), then return.

    Raises `WrongUsage` where the port is taken.
    """
    service: Service = app.state.service

    class ApiServer(http.QuietServer):
        # Uvicorn would raise the signal again once it has stopped; here stopping is all that was asked for.
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.stop()
            self.force_exit = self.should_exit
            self.should_exit = True

    config = http.config(app, keep_alive_s=30, grace_s=_GRACE_S, log_level="critical")
    with bound(port) as listening:
        # A command line ends on SIGPIPE; a server must outlive a browser that goes away in mid-answer.
        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        server = ApiServer(config)
        served = threading.Event()

        def watch() -> None:
            while not served.wait(_WATCH_S):
                if ended():
                    service.stop()
                    server.should_exit = True
                    return

        threading.Thread(target=watch, name="watch", daemon=True).start()
        try:
            server.run(sockets=[listening])
        finally:
            served.set()
            service.stop()
            signal.signal(signal.SIGPIPE, before)


def bound(port: int) -> socket.socket:
    """A socket that holds 127.0.0.1:`port`. Raises `WrongUsage` where another program does."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio sees to this only for sockets it made itself; without it each body waits 40 ms for its headers' receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)  # uvicorn listens later; until then SO_REUSEADDR would let a second server bind too
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise WrongUsage(f"Port {port} is taken.", hint="Choose another: headrace up --port N") from None
        if error.errno == errno.EACCES:
            raise WrongUsage(f"Port {port} is not for you to open.", hint="Choose one above 1023: headrace up --port N") from None
        raise
    return listening
