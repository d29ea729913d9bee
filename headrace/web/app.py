"""The application: routes over a `Service`, behind the door."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from headrace import __version__
from headrace.errors import HeadraceError
from headrace.web.door import OPEN, Door, body_of, told, told_of
from headrace.web.feed import feed, once
from headrace.web.service import Service

QUESTION_CHARACTERS = 4_000
BODY_BYTES = 64 << 10
TENANT = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""As in `Settings.tenant`."""
_SVG_CSP = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; frame-ancestors 'none'; sandbox"
_TOTALS_S = 1.0
_LOOK_S = 0.2
_LEFT = 499  # what nginx logs for a client that left before it was answered


def _text(given: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in given):
        raise ValueError("it holds half a character (a lone surrogate); send whole ones")
    return given


def _question(given: str) -> str:
    if not given.strip():
        raise ValueError("it is empty; write a question")
    if len(given) > QUESTION_CHARACTERS:
        raise ValueError(f"it has {len(given):,} characters; at most {QUESTION_CHARACTERS:,} are read, so shorten it")
    return _text(given.strip())


def _tenant(given: str) -> str:
    if not re.fullmatch(TENANT, given):
        raise ValueError("a tenant is named by at most 63 lower-case letters, digits and dashes")
    return given


Text = Annotated[str, AfterValidator(_text)]
Tenant = Annotated[str, AfterValidator(_tenant)]


class Body(BaseModel):
    """A request body; an unknown key is an error, since a misspelt key silently ignored costs hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(Body):
    """A question; the settings' tenant is asked where none is named."""

    question: Annotated[str, AfterValidator(_question)]
    tenant: Tenant | None = None


class AskedFor(Asked):
    """A question whose answer may be streamed."""

    stream: bool = False


class Judged(Body):
    """A verdict on an answer, or on one of its passages."""

    answer_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    up: Annotated[bool, Field(strict=True)]
    reason: Annotated[Text, Field(max_length=1_000)] = ""
    correction: Annotated[Text, Field(max_length=4_000)] = ""
    chunk_id: Annotated[Text, Field(max_length=200)] = ""


def create_app(service: Service, token: str) -> FastAPI:
    """The application that serves the API and the page; every route but `/health` needs `token`."""
    app = FastAPI(
        title="Headrace",
        version=__version__,
        description="Questions, verdicts, the live ledger and its scores. See docs/api.md.",
        # The documentation pages of FastAPI load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.service = service
    app.add_middleware(Door, token=token, body_bytes=BODY_BYTES)
    app.add_exception_handler(HeadraceError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _elsewhere)

    @app.get(OPEN)
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no token."""
        return {"status": "stopping" if service.stopping else "ok", "version": __version__}

    @app.post("/v1/ask")
    async def ask(body: AskedFor, request: Request) -> Response:
        """The answer to a question, with its citations; as server-sent events if `stream`."""
        place = service.places.enter()
        tenant = body.tenant or service.settings.tenant
        pieces = feed(request, service, lambda gone: service.ask(place, body.question, tenant, gone=gone))
        # The first piece tells whether there will be an answer: until then an error can still be an HTTP status.
        first = await anext(pieces, None)
        if first is None:
            return Response(status_code=_LEFT)
        if body.stream:
            return StreamingResponse(_told_in_pieces(first, pieces), media_type="text/event-stream")
        async with aclosing(pieces):
            async for piece in pieces:
                if not isinstance(piece, str):
                    return JSONResponse(piece)
        return Response(status_code=_LEFT)

    @app.post("/v1/search")
    async def search(body: Asked, request: Request) -> Response:
        """The passages for a question, best first, with both scores and both ranks."""
        place = service.places.enter()
        tenant = body.tenant or service.settings.tenant

        def found(gone: Any) -> Iterator[dict[str, Any] | None]:
            yield service.search(place, body.question, tenant, gone=gone)

        async with aclosing(feed(request, service, found)) as results:
            result = await anext(results, None)
        return Response(status_code=_LEFT) if result is None else JSONResponse(result)

    @app.post("/v1/feedback")
    async def judge(body: Judged, request: Request) -> Response:
        """Record a verdict on the head; says where it stands there."""
        given = body.model_dump()
        return _answered(await once(request, service, lambda: service.judge(given.pop("answer_id"), given.pop("up"), **given)))

    @app.get("/v1/ledger")
    async def ledger() -> JSONResponse:
        """What the live run has moved, a row for each stage, store, direction and tenant."""
        return JSONResponse(service.ledger())

    @app.get("/v1/runs")
    async def recorded(request: Request) -> Response:
        """The recorded runs of this home, newest first."""
        found = await once(request, service, service.runs)
        return _answered(None if found is None else {"runs": found})

    @app.get("/v1/standing")
    async def standing(request: Request, tenant: Tenant | None = None) -> Response:
        """How many passages of a tenant are indexed, and in which version of the index."""
        return _answered(await once(request, service, lambda: service.standing(tenant or service.settings.tenant)))

    @app.get("/v1/scores/{pipeline}.svg")
    async def score(pipeline: str, request: Request, run: str | None = None) -> Response:
        """A pipeline's score, drawn from the newest run that moved anything in it, or from `run`."""
        drawn = await once(request, service, lambda: service.score(pipeline, run))
        if drawn is None:
            return Response(status_code=_LEFT)
        return Response(drawn, media_type="image/svg+xml", headers={"Content-Security-Policy": _SVG_CSP})

    @app.get("/v1/events")
    async def events() -> StreamingResponse:
        """The live run's state and totals by tier, about once a second, as server-sent events named `totals`."""
        return StreamingResponse(_totals(service), media_type="text/event-stream")

    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ):
        app.add_api_route(path, _file(name, kind), include_in_schema=False, methods=["GET"], response_model=None)
    return app


def _file(name: str, kind: str) -> Any:
    content = resources.files("headrace.web").joinpath(name).read_bytes()

    async def given() -> Response:
        return Response(content, media_type=kind)

    return given


def _answered(result: dict[str, Any] | None) -> Response:
    return Response(status_code=_LEFT) if result is None else JSONResponse(result)


async def _told_in_pieces(first: str | dict[str, Any], rest: AsyncGenerator[str | dict[str, Any], None]) -> AsyncIterator[str]:
    """Events `piece` (`{"text"}`), then `answer` (the JSON answer), or `error` (an error body)."""
    async with aclosing(rest):
        yield _event(first)
        try:
            async for piece in rest:
                yield _event(piece)
        except HeadraceError as error:
            yield _named("error", body_of(error))


def _event(piece: str | dict[str, Any]) -> str:
    return _named("piece", {"text": piece}) if isinstance(piece, str) else _named("answer", piece)


def _named(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _totals(service: Service) -> AsyncIterator[str]:
    while True:
        yield _named("totals", service.totals())
        if service.stopping:
            return
        for _ in range(round(_TOTALS_S / _LOOK_S)):
            if not service.stopping:
                await asyncio.sleep(_LOOK_S)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeadraceError)
    return told_of(error)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query"))
        if fault["type"] == "json_invalid" or not field:
            faults = ["The body is not a JSON object. Send one, with `Content-Type: application/json`"]
            break
        faults.append(f"{field}: {fault['msg'].removeprefix('Value error, ')}")
    return told(400, "; ".join(faults[:5]) + ".", "invalid_value")


async def _elsewhere(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentences = {
        404: ("There is nothing at this address. See /openapi.json.", "not_found"),
        405: ("This address does not take that method. See /openapi.json.", "wrong_method"),
    }
    message, code = sentences.get(error.status_code, (f"{error.detail}.", "refused"))
    answer = told(error.status_code, message, code)
    answer.headers.update(error.headers or {})
    return answer
