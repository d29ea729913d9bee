"""What our two HTTP servers share: errors in OpenAI's shape, and bodies that are read whole and bounded."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
LEFT = 499
"""What nginx logs for a client that left before it was answered."""


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in the shape OpenAI's clients read; `param` names the field at fault."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int, message: str, code: str, *, param: str | None = None, retry_s: float = 2.0, **beside: Any
) -> JSONResponse:
    """An error as an HTTP answer, with `beside` beside it; 429 and 503 say after how many seconds to come back."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, round(retry_s + 0.499)))
    return JSONResponse(error_body(status, message, code, param) | beside, status, headers)


def method_of(scope: Scope) -> str:
    """A request's method as labels and logs name it: anybody may send any word as one, and each would be kept."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def ambiguous(scope: Scope) -> JSONResponse | None:
    """The answer to a request that a proxy in front may have read otherwise than we do, if it is one."""
    names = [name for name, _ in scope["headers"]]
    if b"content-length" in names and b"transfer-encoding" in names:
        answer = error_response(
            400, "The request has Content-Length and Transfer-Encoding. Send one of them.", "ambiguous_request"
        )
        answer.headers["Connection"] = "close"  # RFC 9112, 6.1: what follows may not be a request
        return answer
    if names.count(b"authorization") > 1:
        return error_response(400, "The request has more than one Authorization header. Send one.", "ambiguous_request")
    return None


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The whole body, or `None` where it is larger than `most` bytes; some of that is taken in, so that its sender reads why.

    Raises `ClientDisconnect` where the client left in the middle of it: half a document must not be taken for a whole one.
    """
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size <= 8 * most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size <= most:
            pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces) if size <= most else None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, then whatever comes next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
