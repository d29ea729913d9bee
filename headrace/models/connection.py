"""One connection to a NIM or OpenAI-style model endpoint: requests, retries of transient faults, and Headrace's errors.

It is synchronous, safe to share between threads, and keeps connections alive.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from ssl import SSLContext
from typing import Any
from urllib.parse import urlparse

from headrace.errors import HeadraceError, MissingPart, Overloaded, RequestRefused, Unavailable
from headrace.lean_httpx import httpx
from headrace.models.wire import MISSING_PART, UNAVAILABLE, ResponseExtras
from headrace.retry import backoff
from headrace.storage.endpoints import ModelEndpoint

_TRIES = 4
_BACKOFF_S = 0.2
_LONGEST_WAIT_S = 5.0
_CONNECT_S = 5.0
_RESPONSE_BYTES = 32 << 20
"""Most bytes of a response: 64 embeddings of 8,192 numbers as text are 13 MB."""

_LAST = ("headrace", "cache_salt")
"""Fields that say whose prompt it is, by which servers keep prefix caches apart."""


@cache
def _trusted() -> SSLContext:
    """The trusted certificates. Read once, since it takes as long as some requests; plain HTTP does not need them."""
    return httpx.create_ssl_context()


class EndpointConnection:
    """One endpoint: sends JSON, retries transient faults, and raises Headrace's errors."""

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self.endpoint = endpoint
        self._url = endpoint.url.rstrip("/")
        self.left_out: set[str] = set()
        """Fields that the server rejected by name, and without which it accepted a request."""
        # A few kilobytes can unpack to gigabytes.
        headers = {"Accept-Encoding": "identity"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(_CONNECT_S, endpoint.timeout_s)),
            # A proxy from the environment is not used for a server on this machine.
            trust_env=not _loopback(self._url),
            verify=_trusted() if self._url.startswith("https:") else False,
        )
        # httpx leaves its sockets to the garbage collection, and a service makes a client for each pass over documents.
        self.close = weakref.finalize(self, self._http.close)
        """Closes the connections, which otherwise end with this object."""

    def post(self, path: str, body: Mapping[str, Any], *, optional: Sequence[str] = ()) -> dict[str, Any]:
        """POST JSON, return JSON. Raises `Unavailable`, `Overloaded`, `RequestRefused` or `MissingPart`."""
        with self.open(path, body, optional=optional) as response:
            with self.faults(path):
                data = response.read()
            try:
                answer = json.loads(data)
            except (ValueError, RecursionError):
                answer = None
            if not isinstance(answer, dict):
                raise RequestRefused(
                    f"{self._url}{path} returned something that is not a JSON object.", hint="Does the url end in /v1?"
                )
            return answer

    @contextmanager
    def open(self, path: str, body: Mapping[str, Any], *, optional: Sequence[str] = ()) -> Iterator[httpx.Response]:
        """POST JSON and yield the response once its status is 2xx; its body is not read yet."""
        response = self._send(path, body, optional)
        try:
            yield response
        finally:
            response.close()

    def ready(self, seconds: float) -> bool:
        """Whether the endpoint says it is ready, or answers but has no such route."""
        try:
            response = self._http.get(f"{self._url}/health/ready", timeout=seconds)
        except httpx.TransportError:
            return False
        return response.status_code < 500

    def _send(self, path: str, body: Mapping[str, Any], optional: Sequence[str]) -> httpx.Response:
        tries = 0
        without: set[str] = set()  # for good once the server accepts the request without them: it may repeat what it was sent
        while True:
            content = {name: value for name, value in body.items() if name not in self.left_out | without}
            tries += 1
            try:
                with self.faults(path):
                    response = self._http.send(self._http.build_request("POST", self._url + path, json=content), stream=True)
                    response.stream = BoundedBody(response, self.endpoint.timeout_s)
            except Unavailable as error:
                if tries >= _TRIES or not isinstance(error.__cause__, httpx.ConnectError):
                    raise
                time.sleep(_pause(tries))
                continue
            if response.is_success:
                self.left_out |= without
                return response
            with self.faults(path):
                try:
                    reply = ErrorReply.read(response)
                finally:
                    response.close()
            unknown = {name for name in optional if name in content and name in reply.message}
            if reply.status in (400, 422) and unknown:
                # One after the other, and last what keeps tenants apart: a message that repeats the request names all of it.
                without |= unknown.difference(_LAST) or {next(name for name in _LAST if name in unknown)}
                tries = 0
                continue
            if reply.busy and tries < _TRIES:
                time.sleep(_pause(tries, reply.retry_after))
                continue
            raise reply.error(self._url + path)

    @contextmanager
    def faults(self, path: str) -> Iterator[None]:
        """Turn httpx's errors, while the block talks to `path`, into `Unavailable` or `RequestRefused`."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"{self._url}{path} did not answer within {self.endpoint.timeout_s:g} s.",
                hint="Is the server busy or still loading? Raise timeout_s under [models] or try again.",
            ) from error
        except _TooMuch as error:
            raise RequestRefused(
                f"{self._url}{path} returned {error}.", hint="Check the endpoint's url and model under [models]."
            ) from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"{self._url}{path} cannot be reached: {str(error) or type(error).__name__}.",
                hint="Check that the model server runs and that its url under [models] is right.",
            ) from error


class _TooMuch(Exception):
    """A response exceeds every limit of a valid one; its message completes "the endpoint returned …"."""


class BoundedBody(httpx.SyncByteStream):
    """The body of a response, bounded in bytes and time. httpx limits no size and restarts its timeout at each byte."""

    def __init__(self, response: httpx.Response, seconds: float) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise _TooMuch("a compressed body, which was not asked for")
        self._stream = response.stream
        self.until = time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)
        left = _RESPONSE_BYTES
        for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise _TooMuch(f"more than {_RESPONSE_BYTES >> 20} MiB")
            if time.monotonic() > self.until:
                raise httpx.ReadTimeout("the body did not come in time")
            yield piece

    def close(self) -> None:
        """Close the connection."""
        assert isinstance(self._stream, httpx.SyncByteStream)
        self._stream.close()


@dataclass(frozen=True)
class ErrorReply:
    """A server's error response: HTTP status, OpenAI error code and message."""

    status: int
    code: str
    message: str
    retry_after: float | None = None
    storage: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, response: httpx.Response) -> ErrorReply:
        """Read any of the formats in use: OpenAI's `error`, FastAPI's `detail`, or plain text."""
        text = response.read()[:65536].decode("utf-8", "replace")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = text
        try:
            retry_after: float | None = float(response.headers.get("retry-after", ""))
        except ValueError:
            retry_after = None
        return cls.from_body(response.status_code, body, retry_after)

    @classmethod
    def from_body(cls, status: int, body: Any, retry_after: float | None = None) -> ErrorReply:
        """Read a decoded body."""
        code, message = "", body
        storage: tuple[dict[str, Any], ...] = ()
        if isinstance(body, dict):
            message = body.get("error", body.get("detail", body.get("message", body)))
            storage = tuple(extras_of(body).entries)
            if isinstance(message, dict):
                code = str(message.get("code") or "")
                message = message.get("message", message)
        if not isinstance(message, str):
            message = json.dumps(message)
        message = message.encode("utf-8", "replace").decode()  # JSON may hold halves of characters, which nothing else can
        return cls(status, code, message.strip()[:500] or "no reason given", retry_after, storage)

    @property
    def busy(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status == 429 or (self.status == 503 and self.code not in (MISSING_PART, UNAVAILABLE))

    def error(self, url: str) -> HeadraceError:
        """The error to raise, of errors.py."""
        if self.code == MISSING_PART:
            return MissingPart(self.message)
        sentence = f"{url} answered {self.status}: {self.message.rstrip('.')}."
        if self.busy:
            return Overloaded(sentence, hint="Try again in a moment, or send less at once.")
        if self.code == UNAVAILABLE:  # its message says what to do
            return Unavailable(sentence)
        if self.status >= 500:
            return EndpointFailure(self, sentence, hint="Look into that server's log and try again.")
        if self.status in (401, 403):
            return EndpointRefusal(self, sentence, hint="Check the endpoint's api_key under [models].")
        if self.status == 404:
            return EndpointRefusal(self, sentence, hint="Check the endpoint's url (it ends in /v1) and model under [models].")
        return EndpointRefusal(self, sentence, hint="Check the endpoint's model under [models] and what was sent.")


class EndpointRefusal(RequestRefused):
    """The endpoint rejected the request; `reply` is its response."""

    def __init__(self, reply: ErrorReply, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


class EndpointFailure(Unavailable):
    """The endpoint failed with a fault of its own (5xx); `reply` is its response."""

    def __init__(self, reply: ErrorReply, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


def wait_ready(endpoint: ModelEndpoint, seconds: float) -> None:
    """Wait until `/v1/health/ready` answers: an embedded server may still be importing torch. Raises `Unavailable`."""
    connection = EndpointConnection(endpoint)
    until = time.monotonic() + seconds
    try:
        while not connection.ready(max(0.1, min(2.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise Unavailable(
                    f"The model server at {endpoint.url} was not ready within {seconds:g} s.",
                    hint="Look into its log under the home's logs directory, then run the command again.",
                )
            time.sleep(0.05)
    finally:
        connection.close()


def extras_of(body: Mapping[str, Any]) -> ResponseExtras:
    """What the server reports under `headrace`; empty unless it has the form that Headrace's own server sends."""
    try:
        return ResponseExtras.model_validate(body.get("headrace") or {})
    except ValueError:
        return ResponseExtras()


def _pause(tries: int, retry_after: float | None = None) -> float:
    own = backoff(tries, first_s=_BACKOFF_S, longest_s=_LONGEST_WAIT_S, spread=0.2)
    return min(_LONGEST_WAIT_S, max(own, retry_after or 0.0))


def _loopback(url: str) -> bool:
    host = urlparse(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
