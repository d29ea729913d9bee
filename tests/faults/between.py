"""Storage that breaks a promise: what stands between a client and a real server and changes what either says."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Request:
    """One HTTP request; the names of its headers are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def without(self, *names: str) -> Request:
        """The same request without some of its headers."""
        return replace(self, headers={name: value for name, value in self.headers.items() if name not in names})


@dataclass(frozen=True)
class Response:
    """One HTTP response; `size` is what a HEAD says of a body it does not send."""

    status: int
    headers: dict[str, str]
    body: bytes
    size: str | None = None


Forward = Callable[[Request], Response]


@contextlib.contextmanager
def http_between(upstream: str, change: Callable[[Request, Forward], Response]) -> Iterator[str]:
    """An HTTP server before `upstream` that answers each request as `change` says; the block gets its URL."""
    host = urlsplit(upstream).netloc

    def forward(request: Request) -> Response:
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("content-length", str(len(request.body)))
            connection.endheaders(request.body)
            answer = connection.getresponse()
            body = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, headers, body, headers.get("content-length"))
        finally:
            connection.close()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            response = change(Request(self.command, self.path, headers, body), forward)
            self.send_response(response.status)
            for name, value in response.headers.items():
                if name not in _HOP and name not in ("date", "server"):
                    self.send_header(name, value)
            size = response.size if self.command == "HEAD" and response.size else str(len(response.body))
            self.send_header("Content-Length", size)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(response.body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def signed(request: Request, access_key: str, secret_key: str, region: str) -> Request:
    """The request signed anew (AWS Signature Version 4), since a header that was signed is gone."""
    split = urlsplit(request.path)
    names = sorted(name for name in request.headers if name == "host" or name.startswith("x-amz-"))
    query = "&".join(
        f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(parse_qsl(split.query, keep_blank_values=True))
    )
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(split.path), safe="/-_.~"),
            query,
            *(f"{name}:{request.headers[name].strip()}" for name in names),
            "",
            ";".join(names),
            request.headers["x-amz-content-sha256"],
        ]
    )
    stamp = request.headers["x-amz-date"]
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    told = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return replace(request, headers={**request.headers, "authorization": told})


FETCH = 1
"""The number of Kafka's request for records."""


class KafkaBetween:
    """A Kafka broker's address before `upstream`; `asked` sees each request's number, `change` each reply with that number."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.upstream = 0
        self.asked: Callable[[int], None] = lambda kind: None
        self.change: Callable[[int, bytes], bytes] = lambda kind, reply: reply
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self.upstream))
            kinds: dict[bytes, int] = {}

            def back() -> None:
                with contextlib.suppress(OSError):
                    while (reply := _frame(server)) is not None:
                        changed = self.change(kinds.pop(reply[:4], -1), reply)
                        client.sendall(struct.pack(">i", len(changed)) + changed)
                _end(client, server)

            threading.Thread(target=back, daemon=True).start()
            while (request := _frame(client)) is not None:
                (kind,) = struct.unpack_from(">h", request)
                kinds[request[4:8]] = kind
                self.asked(kind)
                server.sendall(struct.pack(">i", len(request)) + request)
            _end(client, server)
        _end(client)


def _frame(source: socket.socket) -> bytes | None:
    head = _exactly(source, 4)
    return None if head is None else _exactly(source, *struct.unpack(">i", head))


def _exactly(source: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
