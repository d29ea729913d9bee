"""The door: who may come in, how often and with how much, what every answer carries, and how errors are told."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol

from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.api.admission import Rate, Strangers
from headrace.api.audit import Audit
from headrace.api.auth import PAGE, WRITE, Caller, Callers
from headrace.api.telemetry import ServiceMetrics
from headrace.errors import HeadraceError, Overloaded
from headrace.models.http import (
    LEFT,
    ambiguous,
    code_of,
    error_body,
    error_response,
    method_of,
    read_body,
    replay,
    status_of,
)
from headrace.storage.metadata import AuditLine

OPEN = ("/health", "/health/live", "/health/ready")
PAGE_FILES = ("/", "/page.css", "/page.js")
"""The page as it is for everybody: it holds nothing, and asks with the token that its address brings."""
UPLOADS = "/v1/documents"
_UPLOADS_AT_ONCE = 4
_UPLOADS_OF_ONE = 2
_UPLOAD_S = 2.0
"""Seconds for which no upload is held to be slow."""
_UPLOAD_MORE = 64 << 10  # what a form adds to the document in it
_BODY_S = 60.0
"""Seconds in which a body must have come: who dawdles holds memory that others need."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
_SECURITY = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
log = logging.getLogger("headrace.api")


@dataclass
class AuditNotes:
    """What the audit is to say of a request; routes fill it in."""

    resource: str = ""
    outcome: str = ""
    audited: bool = False
    """Whether the line is written already."""


@dataclass(eq=False)
class _Upload:
    """A document on its way in: how much of its body has come, and, while more is to come, until when it may."""

    tenant: str
    began: float = field(default_factory=time.monotonic)
    bytes: int = 0
    limit: asyncio.Timeout | None = None
    evicted: bool = False

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def taking(self, receive: Receive, limit: asyncio.Timeout) -> Receive:
        """Count what comes by `receive`, for which `limit` is the time."""
        self.limit = limit

        async def counted() -> Message:
            message = await receive()
            self.bytes += len(message.get("body", b""))
            return message

        return counted

    def evict(self) -> None:
        """Have it end now, for somebody else."""
        assert self.limit is not None
        self.evicted = True
        with contextlib.suppress(RuntimeError):  # its time was over in this very moment
            self.limit.reschedule(asyncio.get_running_loop().time())
        self.limit = None


def _too_many_uploads() -> Overloaded:
    return Overloaded("As many documents are being taken in as this machine takes.", hint="Send them one after another.")


class GuardedService(Protocol):
    """What the door needs of the service behind it."""

    callers: Callers
    page: Caller
    """Who comes with the token."""
    audit: Audit
    metrics: ServiceMetrics
    rate: Rate
    strangers: Strangers


class AuthMiddleware:
    """Lets in who names this machine and has an API key or the token, and bounds what each may send.

    Both come as bearers and in no other way: a cookie would go to every server on this machine, whatever its port.

    The caller stands in the scope as `caller`, with `AuditNotes` beside it, and as `still_valid` a function that says whether the
    key is still a right one. It also puts the security headers on every answer, counts it, and answers what nobody foresaw.

    A page elsewhere that resolves its own name to 127.0.0.1 (DNS rebinding) is told by its Host header and turned away.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        service: GuardedService,
        body_bytes: int,
        document_bytes: int,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._app = app
        self._routes = routes
        self._service = service
        self._body_bytes, self._document_bytes = body_bytes, document_bytes
        self._token = token.encode()
        self._uploads: list[_Upload] = []

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
            except Exception as error:  # what nobody foresaw: one line here, a plain answer there
                log.error("%s %s failed: %s", method_of(scope), _route(scope), type(error).__name__)
                log.debug("", exc_info=True)
                answer = error_response(500, f"Something unforeseen happened: {type(error).__name__}.", "internal_error")
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
        if caller is None:  # health and the page's files: nobody waits for a body that a stranger has announced
            await self._answered(scope, replay(b"", receive), send)
            return None
        if caller.key_id != PAGE:
            self._service.rate.take(caller.tenant, caller.limits.requests_per_minute)
        if scope["method"] != "PUT" or not scope["path"].startswith(UPLOADS):
            return await self._with_body(scope, receive, send, self._body_bytes)
        caller.require_scope(WRITE)  # before its body is taken in
        with self._upload(caller.tenant) as upload:
            return await self._with_body(scope, receive, send, self._document_bytes + _UPLOAD_MORE, upload)

    async def _with_body(
        self, scope: Scope, receive: Receive, send: Send, most: int, upload: _Upload | None = None
    ) -> Response | None:
        try:
            async with asyncio.timeout(_BODY_S) as limit:
                if upload is not None:
                    receive = upload.taking(receive, limit)
                body = await read_body(receive, most)
        except ClientDisconnect:
            return None  # nobody is there to be answered
        except TimeoutError:
            if upload is not None and upload.evicted:
                return error_response_for(_too_many_uploads(), scope.get("caller"))
            return error_response(408, f"The body did not come within {_BODY_S:.0f} s. Send it faster.", "timeout")
        finally:
            if upload is not None:
                upload.limit = None
        if body is None:
            size = f"{most >> 10:,} KiB" if most < 1 << 20 else f"{most >> 20:,} MiB"
            return error_response(413, f"The body is larger than {size}. Send less.", "too_large")
        await self._app(scope, replay(body, receive), send)
        return None

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD like GET; that no body goes out, the server sees to by the scope it holds."""
        get_scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        await self._app(get_scope, receive, send)
        scope["route"] = get_scope.get("route")

    @contextmanager
    def _upload(self, tenant: str) -> Iterator[_Upload]:
        """Bound the documents that are in memory at once.

        A tenant that has none under way gets in where there is no room, too, and the one goes whose body comes most slowly:
        two tenants that send nothing could else keep all others out.
        """
        own = sum(upload.tenant == tenant for upload in self._uploads)
        if own >= _UPLOADS_OF_ONE:
            raise _too_many_uploads()
        if len(self._uploads) >= _UPLOADS_AT_ONCE:
            coming = [upload for upload in self._uploads if upload.limit is not None and upload.seconds >= _UPLOAD_S]
            if own or not coming:
                raise _too_many_uploads()
            min(coming, key=lambda upload: upload.bytes / upload.seconds).evict()
        upload = _Upload(tenant)
        self._uploads.append(upload)
        try:
            yield upload
        finally:
            if upload in self._uploads:
                self._uploads.remove(upload)

    async def _authenticate(self, scope: Scope) -> Response | None:
        """The answer to a stranger; `None` lets the request in."""
        if (answer := ambiguous(scope)) is not None:
            return answer
        headers = Headers(scope=scope)
        if not _HOST.fullmatch(headers.get("host", "")):
            return error_response(421, "This server answers to 127.0.0.1 and localhost only. Use one of them.", "wrong_host")
        if scope["path"] in OPEN or (scope["path"] in PAGE_FILES and scope["method"] == "GET"):
            return None
        address = _address(scope)
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        credentials = credentials.strip()
        if kind.lower() == "bearer" and credentials:
            if self._is_valid(credentials):
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

    def _is_valid(self, credentials: str) -> bool:
        return hmac.compare_digest(credentials.encode("utf-8", "surrogateescape"), self._token)

    def _count(self, scope: Scope, noted: AuditNotes, status: int, seconds: float) -> None:
        caller: Caller | None = scope.get("caller")
        if caller is not None and "route" not in scope:  # refused before it was looked for
            scope["route"] = next((route for route in self._routes if route.matches(scope)[0] is Match.FULL), None)
        tenant, route, method = caller.tenant if caller else "", _route(scope), method_of(scope)
        self._service.metrics.answered(tenant, method, route, status, seconds)
        outcome = noted.outcome or ("done" if status < 400 else "left" if status == LEFT else str(status))
        if status >= 400 and status != LEFT:
            self._service.metrics.refused(tenant, outcome)
        # What the page asks for all the time says nothing of who did what.
        if caller is None or noted.audited or not route.startswith("/v1/") or route in _UNTOLD:
            return
        action = f"{method} {route}"
        self._service.audit.later(AuditLine(caller.by, action, noted.resource, outcome))


_UNTOLD = (
    "/v1/events",
    "/v1/ledger",
    "/v1/runs",
    "/v1/index",
    "/v1/diagrams/{pipeline}.svg",
    "/v1/models",
    "/v1/models/{name}",
)


def _address(scope: Scope) -> str:
    """Where a request comes from; empty where nobody says.

    A proxy says it in a header, and whoever can reach the port without one writes there what he likes, up to 64 KiB. The audit
    keeps it, so what is no address is left out.
    """
    told = scope["client"][0] if scope.get("client") else ""
    try:
        return str(ip_address(told.partition("%")[0]))  # behind % an IPv6 address may have any text
    except ValueError:
        return ""


def _route(scope: Scope) -> str:
    """The pattern a request's address matched: addresses name documents, and those are not for logs and labels."""
    return getattr(scope.get("route"), "path", None) or "other"


def error_response_for(error: HeadraceError, caller: Caller | None) -> JSONResponse:
    """One of our errors as the HTTP answer it deserves, in words for this caller."""
    retry_s = error.retry_s if isinstance(error, Overloaded) else 2.0
    return error_response(status_of(error), words_for(error, caller), code_of(error), retry_s=retry_s)


def words_for(error: HeadraceError, caller: Caller | None) -> str:
    """What a caller is told of an error: whoever may see the whole service all of it, others nothing of what is inside.

    Errors of storage and models name addresses, paths and what libraries said. Those go to the log.
    """
    status = status_of(error)
    # A model that is busy says where it is; our own refusals never do.
    if (status < 500 and "://" not in str(error)) or (caller is not None and caller.admin):
        return str(error)
    log.warning("%s was told in general: %s", code_of(error), error)
    return _IN_GENERAL.get(status, "The service is not set up for this. Ask whoever runs it.")


_IN_GENERAL = {
    429: "The models have as much to do as they take. Try again in a moment.",
    502: "A model refused the request. Ask whoever runs this service.",
    503: "A part of the service does not answer. Try again in a moment.",
    507: "No space is left in the service's storage. Ask whoever runs it.",
}


def body_of(error: HeadraceError, caller: Caller | None) -> dict[str, Any]:
    """The JSON that tells a caller an error."""
    return error_body(status_of(error), words_for(error, caller), code_of(error))
