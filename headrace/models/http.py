"""What our two HTTP servers share: connections bounded, bodies read whole, errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import resource
import time
from collections.abc import Callable
from http import HTTPStatus
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


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error: 4xx where another request helps, 5xx where something here does not work."""
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
    """The answer to a request that does not fit its schema: names up to five fields, and says what is wrong with each."""
    assert isinstance(error, RequestValidationError)
    faults: list[str] = []
    param: str | None = None
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path", "header"))
        if fault["type"] in _NO_OBJECT or (fault["type"] == "missing" and not field):
            faults, param = ["The body is not a JSON object. Send one, with `Content-Type: application/json`"], None
            break
        faults.append(f"{field or 'body'}: {fault['msg'].removeprefix('Value error, ')}")
        param = param or field or None
    return error_response(400, "; ".join(faults[:5]) + ".", "invalid_value", param=param)


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
"""Taken in at a time from one connection, before it is others' turn: asyncio would take 256 KiB."""
HEAD_S = 10.0
"""Seconds in which the head of a request must have come, and the rest of a body that nobody reads any more."""
STALLED_S = 60.0
"""Seconds for which an answer may wait to be read."""
IN_ALL = 1_024
OF_ONE = 512
"""Connections at once, and of one address. A proxy is one address."""
_SPARE = 512  # descriptors for what is no connection: storage, models, files
CHUNKS, CHUNK_BYTES = 1_000, 32
"""A body may come in so many chunks (RFC 9112, 7.1) of any size; of more each must have so many bytes on the average."""
_CHUNKS_UNREAD = 100  # that may still come of a body which was answered already
_QUIET_S = 60.0

log = logging.getLogger("headrace.http")


def raise_descriptors() -> int:
    """Raise the soft limit on open files to the hard one; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # a hard limit above what the kernel allows by now
            return soft
    return hard


def most_connections(descriptors: int) -> tuple[int, int]:
    """How many connections there may be in all and of one address, with so many descriptors."""
    in_all = IN_ALL if descriptors < 0 else min(IN_ALL, max(descriptors - _SPARE, descriptors // 4))
    return in_all, min(OF_ONE, max(1, in_all // 2))


class Complaints:
    """An event loop's exception handler that says each kind of trouble once a minute, in a line, and how often it came."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # when last, and how often since

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        kind = f"{context.get('message') or 'trouble'}: {_named(error)}" if error else str(context.get("message") or "trouble")
        now = self._clock()
        since, times = self._said.get(kind, (now - _QUIET_S, 0))
        if now - since < _QUIET_S:
            self._said[kind] = (since, times + 1)
            return
        if len(self._said) >= 100:  # kinds are few; should a message hold something that changes, it is still bounded
            self._said.clear()
        self._said[kind] = (now, 0)
        log.error("%s%s", kind, f" ({times:,} more in the minute before)" if times else "")
        log.debug("", exc_info=error)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) and error.strerror else type(error).__name__


class QuietServer(uvicorn.Server):
    """A uvicorn server whose event loop does not repeat itself."""

    async def serve(self, sockets: Any = None) -> None:
        """Serve until told to stop."""
        asyncio.get_running_loop().set_exception_handler(Complaints())
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a connection that is gone
        await super().serve(sockets)


def config(app: Any, *, keep_alive_s: int, grace_s: int, log_level: str) -> uvicorn.Config:
    """How both servers are served. Raises the limit on open files of this process."""
    in_all, of_one = most_connections(raise_descriptors())

    class Bounded(WatchedConnection):
        most_in_all, most_of_one = in_all, of_one

    return uvicorn.Config(
        app,
        http=Bounded,
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        backlog=128,  # asyncio tries as many accepts in a row, and complains of each where no descriptor is left
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=grace_s,
    )


class Framing(h11.Connection):
    """Reads HTTP, but no body in crumbs: a chunk of one byte takes as long as one of a thousand, and needs no key."""

    _chunks = _bytes = _unread = 0
    crumbs = False
    """Whether the other side sends crumbs."""

    def next_event(self) -> Any:
        """As h11's. Raises `RemoteProtocolError` where a body comes in too many chunks for its size."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            self._unread += event.chunk_start and self.our_state is h11.DONE
            tiny = self._chunks > CHUNKS and self._bytes < self._chunks * CHUNK_BYTES
            if tiny or self._unread > _CHUNKS_UNREAD:
                self.crumbs = True
                raise h11.RemoteProtocolError("a body in crumbs")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = self._unread = 0
        return event


class WatchedConnection(H11Protocol):
    """One connection, watched as the module says."""

    most_in_all, most_of_one = IN_ALL, OF_ONE
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _asked = False  # whether anything came since the last answer
    _since = 0.0
    conn: Framing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Framing(h11.SERVER, self.config.h11_max_incomplete_event_size or HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, or turn somebody out for it."""
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
        """Go on with what came."""
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
        """Say that what came is no request, where it can still be said."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
        elif self.conn.crumbs:
            self._end(400, f"The body comes in more than {CHUNKS:,} chunks of less than {CHUNK_BYTES} bytes.", "tiny_chunks")
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The other side does not read: it has a minute to go on."""
        super().pause_writing()
        if self._stalled is None:
            self._since = self.loop.time()
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
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
        """Whether it is the other side's turn: to ask, to send the rest of a body, or to read."""
        sending = self.conn.their_state is h11.SEND_BODY and not self._idle and not self.cycle.response_started
        return self._idle or sending or self._stalled is not None

    def _watch(self) -> None:
        """Have a deadline while half a head, or the rest of a body that was answered already, is on its way."""
        state = self.conn.their_state
        begun = self._asked and bool(self.conn.trailing_data[0])
        first = self.cycle is None
        waiting = (state is h11.IDLE and (first or begun)) or (state is h11.SEND_BODY and self._idle and not first)
        if not waiting or self.transport.is_closing():
            self._unwatch()
            if self._idle and not first and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                # What came was no request, and uvicorn has stopped its own clock for it.
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
            self._end(408, f"The request did not come within {HEAD_S:.0f} s. Send it faster.", "timeout")
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """Where there are too many, close the one that has kept us waiting longest; if all are being answered, this."""
        mine = self.client[0] if self.client else ""
        own = [other for other in self.connections if isinstance(other, WatchedConnection) and (other.client or ("",))[0] == mine]
        for crowd, most in ((own, self.most_of_one), (list(self.connections), self.most_in_all)):
            if len(crowd) <= most:
                continue
            others = [o for o in crowd if isinstance(o, WatchedConnection) and o is not self and not o.transport.is_closing()]
            waiting = [other for other in others if other._keeps_us_waiting]
            if not waiting:
                self._end(503, "As many connections are open as this server takes. Come back in a moment.", "overloaded")
                return
            first = min(waiting, key=lambda other: other._since)
            first.transport.abort()
            self.connections.discard(first)

    def _end(self, status: int, message: str, code: str) -> None:
        """Say why, as our errors are said, and close."""
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
