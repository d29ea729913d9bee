"""The door of the embedded server: who may come in, with how much, and in what words a request is turned away."""

from __future__ import annotations

import hmac
import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

log = logging.getLogger("headrace.models")


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
                    answer = turn_away(
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
        return turn_away(401, "The API key is missing or wrong.", "authentication_error", "invalid_api_key")


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


def turn_away(status: int, message: str, type: str, code: str, **more: Any) -> JSONResponse:
    """An error answer in OpenAI's shape, with `more` beside it."""
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(wire.error_body(message, type=type, code=code) | more, status, headers)


def refusal(fault: HeadraceError) -> JSONResponse:
    """The HTTP answer for an error of ours."""
    match fault:
        case Overloaded():
            return turn_away(429, str(fault), "rate_limit_error", "overloaded")
        case NotFound():
            return turn_away(404, str(fault), "invalid_request_error", "model_not_found")
        case RequestRefused() | WrongUsage():
            return turn_away(400, str(fault), "invalid_request_error", "invalid_value")
        case MissingPart():
            return turn_away(503, str(fault), "server_error", wire.MISSING_PART)
        case Unavailable():
            return turn_away(503, str(fault), "server_error", wire.UNAVAILABLE)
        case _:
            return turn_away(500, str(fault), "server_error", "internal_error")
