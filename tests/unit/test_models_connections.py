"""Connections without a request, and what is said of trouble: a real server in a thread, its times made short."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send
from traffic import until

from headrace.models import handshakes, http
from headrace.models.http import Complaints, QuietServer, WatchedConnection, config, most_connections
from headrace.platform.certificates import certificate_of
from headrace.platform.home import Home

WHOLE = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = b"GET /a HTTP/1.1\r\nHost: a\r\n"


class App:
    """Answers at once, or, at /wait, when it is let go on, at /body after it; at /much with more than a socket holds."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/body":
            await receive()
            await receive()
        if scope["path"] == "/wait":
            self.waiting += 1
            await asyncio.to_thread(self.go_on.wait, 30)
        pieces = 400 if scope["path"] == "/much" else 1
        headers = [(b"content-length", str(pieces * 65_536).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for left in reversed(range(pieces)):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": bool(left)})


Opened = Callable[[bytes], socket.socket]


@pytest.fixture
def app() -> App:
    return App()


@contextmanager
def served(app: App, pem: Path | None = None) -> Iterator[Opened]:
    """A server on loopback, with TLS if it has a certificate; yields what opens a connection to it and sends something."""
    made = config(app, keep_alive_s=30, grace_s=1, log_level="critical", certificate=pem, key=pem)
    server = QuietServer(made)
    opened: list[socket.socket] = []

    def open_one(first: bytes) -> socket.socket:
        one = socket.create_connection(listening.getsockname(), timeout=20)
        opened.append(one)
        if first:
            one.sendall(first)
        return one

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(60, lambda: server.started, lambda: "it does not start", every_s=0.01)
            yield open_one
        finally:
            app.go_on.set()
            for one in opened:
                one.close()
            server.should_exit = server.force_exit = True
            thread.join(20)


def rest_of(one: socket.socket) -> bytes:
    """Everything until the other side closes."""
    got = b""
    try:
        while piece := one.recv(1 << 20):
            got += piece
    except ConnectionError:
        pass
    return got


def answer_of(one: socket.socket) -> bytes:
    """The first line of one answer to `WHOLE`, read to its end."""
    got = b""
    while len(got.partition(b"\r\n\r\n")[2]) < 65_536:
        piece = one.recv(1 << 20)
        assert piece, got[:100]
        got += piece
    return got.partition(b"\r\n")[0]


def cut_off(one: socket.socket, dripped: bytes) -> bool:
    """Whether a connection is closed while these bytes are sent, one every twentieth of a second."""
    try:
        for byte in dripped:
            one.sendall(bytes([byte]))
            threading.Event().wait(0.05)
    except OSError:
        return True
    return False


def test_half_a_head_is_waited_for_so_long_and_no_longer(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.3)
    with served(app) as opened:
        half, silent, dripping = opened(HALF), opened(b""), opened(HALF[:10])
        told = rest_of(half)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "timeout"' in told
        assert rest_of(silent) == b""
        assert cut_off(dripping, HALF[10:] * 10), "a byte now and then is no request either"


def test_handshakes_that_nobody_goes_on_with_keep_nobody_out(app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(handshakes, "OF_ONE", 4)
    home = Home(tmp_path / "home")
    home.prepare()
    context = ssl.create_default_context(cafile=str(certificate_of(home)))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with served(app, certificate_of(home)) as opened:
        silent = [opened(b"") for _ in range(12)]
        for one in silent[:8]:
            assert rest_of(one) == b"", "those that came after it took its place"
        with context.wrap_socket(opened(b"")) as client:
            client.sendall(WHOLE)
            assert answer_of(client) == b"HTTP/1.1 200 OK"
            monkeypatch.setattr(handshakes, "SECONDS", 0.3)
            assert rest_of(opened(b"")) == b"", "it is waited for so long and no longer"
            client.sendall(WHOLE)
            assert answer_of(client) == b"HTTP/1.1 200 OK", "who is connected stays so"


def test_a_connection_that_was_answered_may_wait_for_its_next_request(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.2)
    with served(app) as opened:
        one, late = opened(WHOLE), opened(b"")
        assert answer_of(one) == b"HTTP/1.1 200 OK"
        assert rest_of(late) == b"", "so long has passed"
        one.sendall(WHOLE)
        assert answer_of(one) == b"HTTP/1.1 200 OK", "it was kept"
        one.sendall(HALF)
        rest_of(one)  # ends: half a head is half a head, also the second time


def test_a_body_that_nobody_reads_holds_no_connection(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.3)
    with served(app) as opened:
        one = opened(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        assert one.recv(100).startswith(b"HTTP/1.1 200")
        assert cut_off(one, b"x" * 200)


def test_an_answer_that_is_not_read_holds_no_connection(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STALLED_S", 0.3)
    with served(app) as opened:
        one = opened(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
        threading.Event().wait(1.0)  # meanwhile it is not read, and longer than it may be
        assert len(rest_of(one)) < 400 * 65_536


def test_who_waits_without_a_request_makes_room_and_who_is_answered_stays(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "most_connections", lambda _: (6, 4))
    with served(app) as opened:
        busy = opened(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        until(60, lambda: app.waiting == 1, lambda: app.waiting)
        halves = [opened(HALF) for _ in range(40)]
        for _ in range(3):
            assert opened(WHOLE).recv(100).startswith(b"HTTP/1.1 200"), "a newcomer is let in all the time"
        assert rest_of(halves[0]) == b""
        more = [opened(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(3)]
        until(60, lambda: app.waiting == 4, lambda: app.waiting)
        assert rest_of(opened(b"")).startswith(b"HTTP/1.1 503 "), "where all have a request it is the newcomer that goes"
        app.go_on.set()
        for one in (busy, *more):
            assert one.recv(100).startswith(b"HTTP/1.1 200")


def test_who_is_slow_in_sending_or_reading_makes_room(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "most_connections", lambda _: (6, 4))
    with served(app) as opened:
        busy = opened(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        until(60, lambda: app.waiting == 1, lambda: app.waiting)
        for slow in (
            b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            many = [opened(slow) for _ in range(12)]
            for one in many[-2:] if b"much" in slow else ():
                assert one.recv(100).startswith(b"HTTP/1.1 200")
            assert opened(WHOLE).recv(100).startswith(b"HTTP/1.1 200"), "a newcomer is let in"
        app.go_on.set()
        assert busy.recv(100).startswith(b"HTTP/1.1 200"), "who is being answered stays"


def test_there_are_as_many_connections_as_descriptors_allow() -> None:
    assert most_connections(1 << 20) == most_connections(-1) == (http.IN_ALL, http.OF_ONE)
    assert most_connections(1_024) == (512, 256)
    assert all(one < in_all < number for number in (64, 256, 1_024, 4_096) for in_all, one in [most_connections(number)])


def test_the_limit_on_open_files_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
        assert http.raise_descriptors() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_trouble_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints(lambda: now)
    loop = asyncio.new_event_loop()
    trouble = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
    with caplog.at_level(logging.ERROR):
        for _ in range(10_000):
            complaints(loop, trouble)
        assert [record.getMessage() for record in caplog.records] == [
            "socket.accept() out of system resource: OSError: Too many open files"
        ]
        complaints(loop, {"message": "something else"})
        now = 61.0
        complaints(loop, trouble)
    loop.close()
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "something else",
        "socket.accept() out of system resource: OSError: Too many open files (9,999 more in the minute before)",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_it_is_uvicorns_protocol_that_is_watched() -> None:
    assert issubclass(config(App(), keep_alive_s=1, grace_s=1, log_level="critical").http, WatchedConnection)  # type: ignore[arg-type]
