"""Shared by the API and the model server: bounded connections, whole request bodies, errors in OpenAI's format."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import resource
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from headrace.errors import (
    BadDocument,
    Forbidden,
    HeadraceError,
    NotFound,
    NothingIndexed,
    Overloaded,
    QuotaReached,
    RequestRefused,
    StorageFull,
    Transient,
    WrongUsage,
    kind_of,
)
from headrace.models.handshakes import Handshakes

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
LEFT = 499
"""The status that nginx logs for a client that disconnected before the response."""


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's format; `param` names the field at fault."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if code == "model_not_found":
        kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int, message: str, code: str, *, param: str | None = None, retry_s: float = 2.0, **beside: Any
) -> JSONResponse:
    """An error response, with the fields `beside` next to the error; 429 and 503 have Retry-After."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, round(retry_s + 0.499)))
    return JSONResponse(error_body(status, message, code, param) | beside, status, headers)


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error: 4xx if the request is at fault, 5xx if the service is."""
    match error:
        case NothingIndexed() | NotFound():
            return 404
        case WrongUsage() | BadDocument():
            return 400
        case Forbidden() | QuotaReached():
            return 403
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


def code_of(error: HeadraceError) -> str:
    """The code of an error: its name, like `nothing_indexed`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind_of(error)).lower()


_NO_OBJECT = frozenset({"json_invalid", "model_attributes_type"})


async def malformed(_: Request, error: Exception) -> JSONResponse:
    """The response to a request that does not match its schema; it names up to five fields with their faults."""
    assert isinstance(error, RequestValidationError)
    faults: list[str] = []
    param: str | None = None
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"][1:]))  # the first part says where: body, query, path or header
        if fault["type"] in _NO_OBJECT or (fault["type"] == "missing" and not field):
            faults, param = ["The body is not a JSON object. Send one, with `Content-Type: application/json`"], None
            break
        faults.append(f"{field or 'body'}: {fault['msg'].removeprefix('Value error, ')}")
        param = param or field or None
    return error_response(400, "; ".join(faults[:5]) + ".", "invalid_value", param=param)


def method_of(scope: Scope) -> str:
    """A request's method for labels and logs: "other" for unknown ones, since a client may send any word."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def ambiguous(scope: Scope) -> JSONResponse | None:
    """The response to a request that a proxy might read differently from this server; `None` for other requests."""
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
    """The whole body, or `None` if it exceeds `most` bytes; some of the rest is read, so that the client receives the error.

    Raises `ClientDisconnect` if the client disconnects before the end: half a document must not pass for a whole one.
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
    """A `receive` that returns a body that was already read, then what `receive` returns."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


HEAD_BYTES = 64 << 10
READ_BYTES = 16 << 10
"""Read at a time from one connection before the others' turn; asyncio would read 256 KiB."""
HEAD_S = 10.0
"""Seconds for the head of a request to arrive, and for the rest of a body after its response."""
STALLED_S = 60.0
"""Seconds that a client may leave a response unread."""
IN_ALL = 1_024
OF_ONE = 512
"""The most connections at once, in all and from one address. A proxy is one address."""
_SPARE = 512  # file descriptors for storage, models and files
CHUNKS, CHUNK_BYTES = 1_000, 32
"""A body may have so many chunks (RFC 9112, 7.1) of any size; with more, they must average so many bytes."""
_CHUNKS_UNREAD = 100  # chunks of a body that may still arrive after its response
_QUIET_S = 60.0

log = logging.getLogger("headrace.http")


def raise_descriptors() -> int:
    """Raise the soft limit on open files to the hard one; returns the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # the hard limit is above what the kernel now allows
            return soft
    return hard


def most_connections(descriptors: int) -> tuple[int, int]:
    """The most connections in all and from one address, given the limit on file descriptors."""
    in_all = IN_ALL if descriptors < 0 else min(IN_ALL, max(descriptors - _SPARE, descriptors // 4))
    return in_all, min(OF_ONE, max(1, in_all // 2))


class Complaints:
    """An event loop's exception handler that logs each kind of error once a minute, in one line with its count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # when last logged, and how often since

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        kind = f"{context.get('message') or 'trouble'}: {_named(error)}" if error else str(context.get("message") or "trouble")
        now = self._clock()
        since, times = self._said.get(kind, (now - _QUIET_S, 0))
        if now - since < _QUIET_S:
            self._said[kind] = (since, times + 1)
            return
        if len(self._said) >= 100:  # kinds are few; this bounds them even if a message varies
            self._said.clear()
        self._said[kind] = (now, 0)
        log.error("%s%s", kind, f" ({times:,} more in the minute before)" if times else "")
        log.debug("", exc_info=error)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) and error.strerror else type(error).__name__


class QuietServer(uvicorn.Server):
    """A uvicorn server whose event loop does not repeat itself."""

    async def serve(self, sockets: Any = None) -> None:
        """Serve until a signal or `should_exit`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(Complaints())
        if self.config.is_ssl:
            Handshakes(loop)
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a connection that is gone
        await super().serve(sockets)


def config(
    app: Any,
    *,
    keep_alive_s: int,
    grace_s: int,
    log_level: str,
    certificate: Path | None = None,
    key: Path | None = None,
) -> uvicorn.Config:
    """The uvicorn configuration of both servers. Raises this process's limit on open files."""
    in_all, of_one = most_connections(raise_descriptors())

    class Bounded(WatchedConnection):
        most_in_all, most_of_one = in_all, of_one

    return uvicorn.Config(
        app,
        loop="asyncio",  # the limits on connections are of its own transports
        http=Bounded,
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        backlog=128,  # asyncio tries as many accepts in a row and logs each one that finds no descriptor left
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=grace_s,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


class Framing(h11.Connection):
    """Reads HTTP and rejects bodies in tiny chunks: a chunk of one byte costs as much as one of a thousand."""

    _chunks = _bytes = _unread = 0
    tiny_chunks = False
    """Whether a body was rejected for its tiny chunks."""

    def next_event(self) -> Any:
        """As h11's. Raises `RemoteProtocolError` if a body has too many chunks for its size."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            self._unread += event.chunk_start and self.our_state is h11.DONE
            tiny = self._chunks > CHUNKS and self._bytes < self._chunks * CHUNK_BYTES
            if tiny or self._unread > _CHUNKS_UNREAD:
                self.tiny_chunks = True
                raise h11.RemoteProtocolError("a body in tiny chunks")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = self._unread = 0
        return event


class WatchedConnection(H11Protocol):
    """One connection with deadlines: for a request's head, for the rest of a body, and for a client that does not read."""

    most_in_all, most_of_one = IN_ALL, OF_ONE
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _asked = False  # whether any bytes arrived since the last response
    _since = 0.0
    conn: Framing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Framing(h11.SERVER, self.config.h11_max_incomplete_event_size or HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; close another or this one if there are too many."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of asyncio's own transport
        self._since = self.loop.time()
        self._make_room()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read bytes, and set or clear the deadline."""
        self._asked = True
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._since = self.loop.time()
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        self._asked = False
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Respond that the bytes are not a request, if no response has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
        elif self.conn.tiny_chunks:
            self._end(400, f"The body has more than {CHUNKS:,} chunks of less than {CHUNK_BYTES} bytes.", "tiny_chunks")
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The client has stopped reading: it has a minute to continue."""
        super().pause_writing()
        if self._stalled is None:
            self._since = self.loop.time()
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _keeps_us_waiting(self) -> bool:
        """Whether the client is expected to act: send a request, send the rest of a body, or read."""
        sending = self.conn.their_state is h11.SEND_BODY and not self._idle and not self.cycle.response_started
        return self._idle or sending or self._stalled is not None

    def _watch(self) -> None:
        """Keep a deadline while part of a head, or the rest of a body after its response, is outstanding."""
        state = self.conn.their_state
        begun = self._asked and bool(self.conn.trailing_data[0])
        first = self.cycle is None
        waiting = (state is h11.IDLE and (first or begun)) or (state is h11.SEND_BODY and self._idle and not first)
        if not waiting or self.transport.is_closing():
            self._unwatch()
            if self._idle and not first and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                # The bytes were not a request, and uvicorn has stopped its own timer.
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._late)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or not self._idle:
            return
        if self.cycle is None and self._asked:
            self._end(408, f"The request did not arrive within {HEAD_S:.0f} s. Send it faster.", "timeout")
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """If there are too many connections, close the one that has been idle longest, or this one if none is idle."""
        mine = self.client[0] if self.client else ""
        own = [other for other in self.connections if isinstance(other, WatchedConnection) and (other.client or ("",))[0] == mine]
        for crowd, most in ((own, self.most_of_one), (list(self.connections), self.most_in_all)):
            if len(crowd) <= most:
                continue
            others = [o for o in crowd if isinstance(o, WatchedConnection) and o is not self and not o.transport.is_closing()]
            waiting = [other for other in others if other._keeps_us_waiting]
            if not waiting:
                self._end(503, "This server has as many connections as it accepts. Try again in a moment.", "overloaded")
                return
            first = min(waiting, key=lambda other: other._since)
            first.transport.abort()
            self.connections.discard(first)

    def _end(self, status: int, message: str, code: str) -> None:
        """Send an error response and close."""
        body = json.dumps(error_body(status, message, code)).encode()
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 2"] if status == 503 else []),
        ]
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self.transport.close()
