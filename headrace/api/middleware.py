"""The middleware of every route: authentication, rate and body limits; security headers, metrics and the audit."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.api.admission import Rate, Strangers
from headrace.api.audit import Audit
from headrace.api.auth import PAGE, WRITE, Caller, Callers
from headrace.api.errors import error_response_for
from headrace.api.page import FILES
from headrace.api.telemetry import ServiceMetrics
from headrace.api.uploads import Upload, UploadSlots, too_many_uploads
from headrace.errors import HeadraceError
from headrace.models.http import LEFT, ambiguous, code_of, error_response, method_of, read_body, replay
from headrace.storage.metadata import AuditLine

OPEN = ("/health", "/health/live", "/health/ready")
UPLOADS = "/v1/documents"
OPENAI = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
_OPENAI_BYTES = 4 << 20  # clients send the whole conversation with its pictures, or many texts
_UPLOAD_MORE = 64 << 10  # bytes that a form adds to the document in it
_BODY_S = 60.0
"""Seconds for a body to arrive: a slow one holds memory that others need."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_SECURITY = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_UNTOLD = (
    "/v1/events",
    "/v1/ledger",
    "/v1/runs",
    "/v1/index",
    "/v1/diagrams/{pipeline}.svg",
    "/v1/diagrams/{pipeline}.json",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/registry",
    "/v1/rounds",
    "/v1/head",
    "/v1/check",
    "/v1/sizing",
    "/v1/feedback/{partition}/{offset}",
)
"""Routes without a line in the audit where they are answered: the page asks for them all the time."""
log = logging.getLogger("headrace.api")


@dataclass
class AuditNotes:
    """What the audit says of a request; routes fill it in."""

    resource: str = ""
    outcome: str = ""
    audited: bool = False
    """Whether its line is written already."""


class GuardedService(Protocol):
    """What the middleware needs of the service behind it."""

    callers: Callers
    page: Caller
    """The caller with the token."""
    audit: Audit
    metrics: ServiceMetrics
    rate: Rate
    strangers: Strangers


class CrossOriginMiddleware(CORSMiddleware):
    """Lets web pages of these origins call the API from a browser (CORS), with a key as every client.

    Browsers add no cookie of their own, and any header may be sent: OpenAI's client names its platform in several.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )


class AuthMiddleware:
    """Admits requests that name one of the `hosts` and bring an API key or the token, and bounds what each may send.

    Keys and the token are accepted as bearer tokens only: browsers send a cookie to every server on this machine, whatever its
    port. A web page elsewhere that resolves its own name to 127.0.0.1 (DNS rebinding) is recognised by its Host header.

    Routes find in the scope `caller`, `noted` (`AuditNotes`), and for a key `still_valid`, a function that says whether it is
    still valid. Every answer gets the security headers and is counted; unexpected errors are answered without details.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        service: GuardedService,
        body_bytes: int,
        document_bytes: int,
        hosts: Sequence[str] = ("127.0.0.1", "localhost"),
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._app = app
        self._routes = routes
        self._service = service
        self._body_bytes, self._document_bytes = body_bytes, document_bytes
        self._token = token.encode()
        self._host = re.compile(rf"({'|'.join(map(re.escape, hosts))})(:\d{{1,5}})?", re.IGNORECASE)
        self._slots = UploadSlots()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status, begun = LEFT, False

        async def guarded(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        noted = scope["noted"] = AuditNotes()
        try:
            try:
                answer = await self._admit(scope, receive, guarded)
            except HeadraceError as error:
                answer = error_response_for(error, scope.get("caller"))
                noted.outcome = code_of(error)
            except Exception as error:  # unexpected: its type is logged and answered, its details only at level DEBUG
                log.error("%s %s failed: %s", method_of(scope), _route(scope), type(error).__name__)
                log.debug("", exc_info=True)
                answer = error_response(500, f"An unexpected error occurred: {type(error).__name__}.", "internal_error")
            if answer is not None and not begun:
                await answer(scope, receive, guarded)
        finally:
            self._count(scope, noted, status, time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Let the request in, or return the answer to it."""
        answer = await self._authenticate(scope)
        if answer is not None:
            return answer
        caller: Caller | None = scope.get("caller")
        if caller is None:  # health and the page's files: no body is read for callers without a key
            await self._answer_open(scope, replay(b"", receive), send)
            return None
        if caller.key_id != PAGE:
            self._service.rate.take(caller.tenant, caller.limits.requests_per_minute)
        if scope["method"] != "PUT" or not scope["path"].startswith(UPLOADS):
            most = _OPENAI_BYTES if scope["path"] in OPENAI else self._body_bytes
            return await self._with_body(scope, receive, send, most)
        caller.require_scope(WRITE)  # before its body is read
        with self._slots.take(caller.tenant) as upload:
            return await self._with_body(scope, receive, send, self._document_bytes + _UPLOAD_MORE, upload)

    async def _with_body(
        self, scope: Scope, receive: Receive, send: Send, most: int, upload: Upload | None = None
    ) -> Response | None:
        try:
            async with asyncio.timeout(_BODY_S) as limit:
                coming = self._charged(scope, receive, most) if upload is None else upload.counted(receive, limit)
                body = await read_body(coming, most)
        except ClientDisconnect:
            return None  # nobody is there to be answered
        except TimeoutError:
            if upload is not None and upload.evicted:
                return error_response_for(too_many_uploads(), scope.get("caller"))
            return error_response(408, f"The body did not come within {_BODY_S:.0f} s. Send it faster.", "timeout")
        finally:
            if upload is not None:
                upload.limit = None
        if body is None:
            size = f"{most >> 10:,} KiB" if most < 1 << 20 else f"{most >> 20:,} MiB"
            return error_response(413, f"The body is larger than {size}. Send less.", "too_large")
        await self._app(scope, replay(body, receive), send)
        return None

    def _charged(self, scope: Scope, receive: Receive, most: int) -> Receive:
        """Count a body as a request for each `body_bytes`, before it is read.

        It holds memory while it comes, and reading it takes as long as answering many small ones. Raises `Overloaded`, and so
        does the function that is returned.
        """
        caller: Caller = scope["caller"]
        if caller.key_id == PAGE:
            return receive
        rate, per_minute = self._service.rate, caller.limits.requests_per_minute
        declared = Headers(scope=scope).get("content-length")
        if declared is not None:
            if (requests := self._requests(min(int(declared), most))) > 0:
                rate.take(caller.tenant, per_minute, requests)
            return receive
        arrived = 0

        async def charged() -> Message:
            nonlocal arrived
            message = await receive()
            before, arrived = arrived, min(arrived + len(message.get("body", b"")), most)
            if (requests := self._requests(arrived) - self._requests(before)) > 0:
                rate.take(caller.tenant, per_minute, requests)
            return message

        return charged

    def _requests(self, size: int) -> int:
        """As how many requests a body of so many bytes counts beside its own."""
        return max(0, size - 1) // self._body_bytes

    async def _answer_open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, HEAD like GET: the server, which has the request's own scope, then sends no body."""
        get_scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        await self._app(get_scope, receive, send)
        scope["route"] = get_scope.get("route")

    async def _authenticate(self, scope: Scope) -> Response | None:
        """Put the caller into the scope, unless the route is open to everybody; returns the answer to a request refused."""
        if (answer := ambiguous(scope)) is not None:
            return answer
        headers = Headers(scope=scope)
        if not self._host.fullmatch(headers.get("host", "")):
            sentence = (
                "This server does not answer to that host. Use 127.0.0.1, localhost or a name of [api] hosts in its settings."
            )
            return error_response(421, sentence, "wrong_host")
        if scope["path"] in OPEN or (scope["path"] in FILES and scope["method"] == "GET"):
            return None
        address = _address(scope)
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        credentials = credentials.strip()
        if kind.lower() == "bearer" and credentials:
            if self._is_token(credentials):
                scope["caller"] = replace(self._service.page, address=address) if address else self._service.page
                return None
            if credentials.startswith("hr_"):
                caller = await asyncio.to_thread(self._service.callers.lookup, credentials, address)
                if caller is not None:
                    scope["caller"] = caller
                    scope["still_valid"] = partial(self._service.callers.still_valid, credentials)
                    return None
            wait_s = self._service.strangers.wrong(address)
            if wait_s is not None:
                return error_response(429, "Too many wrong keys came from this address.", "too_many_wrong_keys", retry_s=wait_s)
        return error_response(
            401, "The API key is missing, wrong or revoked. Send `Authorization: Bearer KEY`.", "invalid_api_key"
        )

    def _is_token(self, credentials: str) -> bool:
        return hmac.compare_digest(credentials.encode("utf-8", "surrogateescape"), self._token)

    def _count(self, scope: Scope, noted: AuditNotes, status: int, seconds: float) -> None:
        caller: Caller | None = scope.get("caller")
        if caller is not None and "route" not in scope:  # refused before it was routed
            scope["route"] = next((route for route in self._routes if route.matches(scope)[0] is Match.FULL), None)
        tenant, route, method = caller.tenant if caller else "", _route(scope), method_of(scope)
        self._service.metrics.answered(tenant, method, route, status, seconds)
        outcome = noted.outcome or ("done" if status < 400 else "left" if status == LEFT else str(status))
        if status >= 400 and status != LEFT:
            self._service.metrics.refused(tenant, outcome)
        if caller is None or noted.audited:
            return
        if (status < 400 or status == LEFT) and (not route.startswith("/v1/") or route in _UNTOLD):
            return
        action = f"{method} {route}"
        self._service.audit.later(AuditLine(caller.by, action, noted.resource, outcome))


def _address(scope: Scope) -> str:
    """The address that a request comes from, or "".

    A proxy puts it into a header, and a client that reaches the port without one can put up to 64 KiB of anything there. The
    audit keeps it, so only an IP address is taken.
    """
    host = scope["client"][0] if scope.get("client") else ""
    try:
        return str(ip_address(host.partition("%")[0]))  # after % an IPv6 address may have any text
    except ValueError:
        return ""


def _route(scope: Scope) -> str:
    """The pattern that a request's path matched: paths name documents, which are not for logs and labels."""
    return getattr(scope.get("route"), "path", None) or "other"
