"""A model endpoint that lies, never ends or leads elsewhere: it costs its own answer, and neither memory nor everybody's time."""

from __future__ import annotations

import json
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from model_endpoint import Server, embeddings, events, piece, rankings, said, served

from headrace.errors import HeadraceError, RequestRefused, Unavailable
from headrace.models import connection
from headrace.models.client import Completion, Embedder, Generator, Reranker
from headrace.storage.endpoints import ModelEndpoint

ASK = [{"role": "user", "content": "What?"}]
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as script:
        yield script


@contextmanager
def raw(say: Callable[[socket.socket], None], timeout_s: float = 1.0) -> Iterator[ModelEndpoint]:
    """An endpoint that reads a request's head and then sends what it likes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            say(connection)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listening:
        yield ModelEndpoint(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", model="m", timeout_s=timeout_s)


def endless(head: bytes, data: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def say(connection: socket.socket) -> None:
        connection.sendall(head + b"\r\n")
        while True:
            connection.sendall(data)
            threading.Event().wait(pause)  # other tests replace time.sleep

    return say


def embedded(endpoint: ModelEndpoint) -> None:
    with Embedder(endpoint) as client:
        client.embed(["a"], kind="query")


def ranked(endpoint: ModelEndpoint) -> None:
    with Reranker(endpoint) as client:
        client.rank("q", ["a"])


def written(endpoint: ModelEndpoint) -> None:
    with Generator(endpoint) as client:
        list(client.stream(ASK, max_tokens=8))


every_client = pytest.mark.parametrize("ask", [embedded, ranked, written])
Ask = Callable[[ModelEndpoint], None]


@every_client
@pytest.mark.parametrize(
    ("head", "data"),
    [
        (JSON, b"[" * 65536),
        (SSE, b"a" * 65536),  # a line without an end
        (SSE, b"data: x\n" * 8192),  # an event without an end
        (b"HTTP/1.1 500 No\r\n", b"x" * 65536),
    ],
)
def test_a_response_without_an_end_is_given_up_before_it_fills_the_memory(
    ask: Ask, head: bytes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection._RESPONSE_BYTES == 32 << 20
    monkeypatch.setattr(connection, "_RESPONSE_BYTES", 2 << 20)  # a sixteenth, of both bounds
    with raw(endless(head, data), timeout_s=60.0) as endpoint:
        tracemalloc.start()
        try:
            with pytest.raises(HeadraceError):
                ask(endpoint)
            assert tracemalloc.get_traced_memory()[1] < 25 << 20
        finally:
            tracemalloc.stop()


@every_client
@pytest.mark.parametrize(("head", "data"), [(JSON, b" "), (SSE, b":\n\n"), (b"HTTP/1.1 500 No\r\n", b" ")])
def test_a_response_that_comes_byte_by_byte_has_the_endpoints_time_and_no_more(ask: Ask, head: bytes, data: bytes) -> None:
    with raw(endless(head, data, pause=0.1)) as endpoint:
        began = time.monotonic()
        with pytest.raises(HeadraceError) as raised:
            ask(endpoint)
        assert isinstance(raised.value, Unavailable) or (ask is written and head == JSON)
        assert time.monotonic() - began < 8


def test_an_answer_longer_than_was_asked_for_is_broken_off() -> None:
    event = b'data: {"choices": [{"delta": {"content": "' + b"na " * 100 + b'"}}]}\n\n'
    with raw(endless(SSE, event), timeout_s=60.0) as endpoint, pytest.raises(RequestRefused, match="more than the 8 tokens"):
        written(endpoint)


@every_client
def test_a_body_that_would_unpack_to_gigabytes_is_not_unpacked(server: Server, ask: Ask) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(bomb.compress(b" " * (1 << 20)) for _ in range(64)) + bomb.flush()
    server.answer = lambda path, body: (200, {"content-type": "application/json", "content-encoding": "gzip"}, packed)
    tracemalloc.start()
    try:
        with pytest.raises(RequestRefused, match="a compressed body"):
            ask(server.endpoint())
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@every_client
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_goes_nowhere_else(server: Server, ask: Ask, status: int) -> None:
    with served() as elsewhere:
        elsewhere.answer = lambda path, body: embeddings(body)
        server.answer = lambda path, body: (status, {"location": f"{elsewhere.url}/embeddings"}, b"")
        with pytest.raises(RequestRefused, match=str(status)):
            ask(server.endpoint(api_key="secret"))
        assert elsewhere.seen == []
        assert elsewhere.keys == []


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0, float("nan")]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0, float("inf")]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [[1.0]]}, {"index": 1, "embedding": [[2.0]]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": "AAAA"}],
        [1, 2],
        {"index": 0},
    ],
)
def test_what_is_no_embedding_does_not_get_into_an_index(server: Server, data: Any) -> None:
    server.answer = lambda path, body: said(200, {"data": data})
    with pytest.raises(RequestRefused):
        server.embedder().embed(["a", "b"], kind="passage")


@pytest.mark.parametrize("logit", [float("nan"), float("-inf"), "nan", None, 10**400, [1]])
def test_a_logit_is_a_number(server: Server, logit: Any) -> None:
    server.answer = lambda path, body: rankings(logit, 1.0)
    with pytest.raises(RequestRefused):
        server.reranker().rank("q", ["a", "b"])


BAD_EXTRAS: list[Any] = [
    {"storage": [{"store": "models"}]},
    {"storage": 7},
    {"ranking": "much"},
    {"ranking": {"weights": {"reranker": float("nan")}}},
    {"timings_ms": {"a": float("nan")}},
    {"prompt_tokens": [1 << 80]},
    {"storage": [{"stage": "s", "store": "models", "tier": "object", "direction": "read", "tenant": "t", "ops": 1, "bytes": 1,
                  "max_s": 1.0, "latency": {"1000000000": 1}, "estimated": False}]},
]  # fmt: skip


@pytest.mark.parametrize("extras", BAD_EXTRAS)
def test_a_foreign_server_does_not_write_our_ledger(server: Server, extras: Any) -> None:
    server.answer = lambda path, body: rankings(2.0, 1.0, headrace=extras)
    found = server.reranker().rank("q", ["a", "b"])
    assert (found.logits, found.ranking, found.storage) == ((2.0, 1.0), None, [])
    server.answer = lambda path, body: events(piece("yes", "stop", headrace=extras))
    with pytest.raises(RequestRefused):
        list(server.generator().stream(ASK, max_tokens=8))


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": 7},
        {"choices": [7]},
        {"choices": [{"delta": 7}]},
        {"choices": [{"delta": {"content": 7}}]},
        {"error": {"message": 7}, "status": "x"},
        {"error": 7, "status": [1]},
        {"usage": 7},
        {"usage": {"prompt_tokens": "many"}},
        [1],
    ],
)
def test_an_event_of_another_shape_is_refused(server: Server, chunk: Any) -> None:
    server.answer = lambda path, body: events(chunk, piece("yes", "stop"))
    with pytest.raises(HeadraceError):
        list(server.generator().stream(ASK, max_tokens=8))


def test_a_body_nested_deeply_is_refused(server: Server) -> None:
    server.answer = lambda path, body: (200, {}, b"[" * 500_000)
    with pytest.raises(RequestRefused):
        server.embedder().embed(["a"], kind="query")
    deep = json.dumps({"a": 0}).encode()[:-1] + b',"b":' + b"[" * 500_000
    server.answer = lambda path, body: (200, {"content-type": "text/event-stream"}, b"data: " + deep + b"\n\n")
    with pytest.raises(RequestRefused):
        list(server.generator().stream(ASK, max_tokens=8))


def test_what_a_right_endpoint_says_is_still_read(server: Server) -> None:
    server.answer = lambda path, body: events(piece("yes", "stop", usage={"prompt_tokens": 3}, headrace={"version": "v000007"}))
    *_, done = server.generator().stream(ASK, max_tokens=8)
    assert isinstance(done, Completion)
    assert (done.text, done.version, done.usage) == ("yes", "v000007", {"prompt_tokens": 3})
