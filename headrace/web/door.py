"""The door: who may come in, what every answer carries, and how errors are told."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from typing import Any

from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.errors import (
    HeadraceError,
    NotFound,
    NothingIndexed,
    Overloaded,
    RequestRefused,
    StorageFull,
    Transient,
    WrongUsage,
)

OPEN = "/health"
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
_NO_TOKEN = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Headrace: token needed</title><h1>This page needs a token</h1>
<p>Open the address that <code>headrace up</code> printed in its terminal; it carries the token.
After a restart the token is a new one.</p></html>"""

log = logging.getLogger("headrace.web")


class Door:
    """Lets in who names this machine and has the token, by header or cookie, with a body of at most `body_bytes`.

    It also puts the security headers on every answer, and answers what nobody foresaw.

    A page elsewhere that resolves its own name to 127.0.0.1 (DNS rebinding) is told by its Host header and turned away.
    """

    def __init__(self, app: ASGIApp, *, token: str, body_bytes: int) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._token = token.encode()
        # Cookies do not know ports: two servers on this machine must not overwrite each other's.
        self._cookie = f"headrace-{hashlib.sha256(self._token).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._at_the_door(scope)
        if answer is not None:
            await answer(scope, receive, guarded)
            return
        body = await _read(receive, self._body_bytes)
        if body is None:
            answer = told(413, f"The body is larger than {self._body_bytes >> 10} KiB. Send less.", "too_large")
            await answer(scope, receive, guarded)
            return
        try:
            await self._app(scope, _replay(body, receive), guarded)
        except Exception as error:  # what nobody foresaw: one line here, a plain answer there
            log.error("%s %s failed: %s: %s", scope["method"], scope["path"], type(error).__name__, error)
            log.debug("", exc_info=True)
            if not begun:
                await told(500, f"Something unforeseen happened: {type(error).__name__}.", "internal_error")(
                    scope, receive, guarded
                )

    def _at_the_door(self, scope: Scope) -> Response | None:
        """The answer to a stranger, or to somebody who brings the token in the address; `None` lets the request in."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            return told(421, "This server answers to 127.0.0.1 and localhost only. Use one of them.", "wrong_host")
        if scope["path"] == OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(given.strip()):
            return None
        brought = QueryParams(scope["query_string"]).get("token", "")
        if scope["path"] == "/" and scope["method"] == "GET" and brought and self._right(brought):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token.decode(), httponly=True, samesite="strict", path="/")
            return answer
        if self._right(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            # A page on another port of this machine counts as the same site, so its cookie comes along: its Origin tells.
            origin = headers.get("origin", f"http://{host}")
            if scope["method"] in ("GET", "HEAD") or origin.lower() == f"http://{host}".lower():
                return None
            return told(403, "This request comes from another page. Send the token as a bearer.", "wrong_origin")
        if scope["path"] == "/" and "text/html" in headers.get("accept", ""):
            return HTMLResponse(_NO_TOKEN, 401)
        return told(
            401,
            "The token is missing or wrong. Send `Authorization: Bearer TOKEN` as `headrace up` printed it.",
            "no_token",
        )

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body, or `None` where it is too large; some of that is taken in, so that its sender reads the answer."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size <= 16 * most:
        message = await receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size <= most:
            pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces) if size <= most else None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def told(status: int, message: str, code: str) -> JSONResponse:
    """An error in the shape OpenAI clients read."""
    return JSONResponse(error_body(status, message, code), status, _headers(status))


def told_of(error: HeadraceError) -> JSONResponse:
    """One of our errors as the HTTP answer it deserves."""
    status = status_of(error)
    return JSONResponse(body_of(error), status, _headers(status))


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error: 4xx where asking differently helps, 5xx where something here does not work."""
    match error:
        case NothingIndexed() | NotFound():
            return 404
        case WrongUsage():
            return 400
        case Overloaded():
            return 429
        case StorageFull():
            return 507
        case RequestRefused():
            return 502
        case Transient():
            return 503
        case _:
            return 500


def body_of(error: HeadraceError) -> dict[str, Any]:
    """The JSON that tells an error; `code` is its name, e.g. `nothing_indexed`."""
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removeprefix("_")).lower()
    return error_body(status_of(error), str(error), code)


def error_body(status: int, message: str, code: str) -> dict[str, Any]:
    """The OpenAI error shape."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "code": code}}


def _headers(status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": "2"} if status in (429, 503) else {}
