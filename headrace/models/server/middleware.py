"""Middleware of the embedded server: its key, the limit on bodies, its metrics, and error responses."""

from __future__ import annotations

import hmac
import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.errors import HeadraceError, MissingPart, NotFound, RequestRefused, WrongUsage
from headrace.models import wire
from headrace.models.http import LEFT, ambiguous, code_of, error_response, method_of, read_body, replay, status_of

log = logging.getLogger("headrace.models")


@dataclass
class ModelServerMetrics:
    """Counts of requests by route and status, and their duration in seconds."""

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
_ROUTES = (*_OPEN, "/v1/metrics", "/v1/models", "/v1/embeddings", "/v1/ranking", "/v1/chat/completions", "/v1/kv/settle")


class ModelAuthMiddleware:
    """Admits requests with the key and a body of limited size; counts and logs every response."""

    def __init__(self, app: ASGIApp, *, key: str, metrics: ModelServerMetrics) -> None:
        self._app = app
        self._key = key.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        started = time.perf_counter()
        status = LEFT

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            answer = ambiguous(scope) or self._unauthorized(scope)
            if answer is None:
                body = await read_body(receive, wire.BODY_BYTES_MAX)
                if body is None:
                    answer = error_response(413, f"The body is larger than {wire.BODY_BYTES_MAX >> 20} MiB.", "too_large")
            if answer is not None:
                await answer(scope, receive, counted)
            else:
                await self._app(scope, replay(body or b"", receive), counted)
        except ClientDisconnect:
            pass  # there is no client to respond to
        finally:
            seconds = time.perf_counter() - started
            self._metrics.count(route, status, seconds)
            if route not in _OPEN and status != 401:  # requests without the key are counted only: they must not fill the log
                log.info("%s %s %d in %.3f s", method_of(scope), route, status, seconds)

    def _unauthorized(self, scope: Scope) -> Response | None:
        """The response to a request without the key; `None` for other requests."""
        if scope["path"] in _OPEN:
            return None
        credentials = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = credentials.partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            return None
        return error_response(401, "The API key is missing or wrong.", "invalid_api_key")


_STATUSES: dict[type[HeadraceError], tuple[int, str]] = {
    NotFound: (404, "model_not_found"),
    RequestRefused: (400, "invalid_value"),  # raised by this server itself
    WrongUsage: (400, "invalid_value"),
    MissingPart: (503, wire.MISSING_PART),
}
"""Status and code of errors for which this server differs from `http.py`."""


def error_response_for(error: HeadraceError) -> JSONResponse:
    """The HTTP response for an error."""
    own = (pair for kind, pair in _STATUSES.items() if isinstance(error, kind))
    status, code = next(own, (status_of(error), code_of(error)))
    return error_response(status, str(error), code, retry_s=1.0 if status == 429 else 2.0)
