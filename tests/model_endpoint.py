"""A model endpoint that answers what a test tells it to, over real HTTP, and remembers what it was asked."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from words import embedding

from headrace.models.client import Embedder, Generator, Reranker
from headrace.storage.endpoints import ModelEndpoint

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """Answers each request with what `answer` makes of its path and body; notes what it was sent."""

    url: str
    answer: Callable[[str, dict[str, Any]], Answer] = lambda path, body: (500, {}, b"")
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    clients: ExitStack = field(default_factory=ExitStack)

    def embedder(self, *, batch: int = 64, **given: Any) -> Embedder:
        return self.clients.enter_context(Embedder(self.endpoint(**given), batch=batch))

    def reranker(self, **given: Any) -> Reranker:
        return self.clients.enter_context(Reranker(self.endpoint(**given)))

    def generator(self, **given: Any) -> Generator:
        return self.clients.enter_context(Generator(self.endpoint(), **given))

    def endpoint(self, **given: Any) -> ModelEndpoint:
        return ModelEndpoint(**{"url": self.url, "model": "m", "timeout_s": 5.0} | given)

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies that were sent to a path, e.g. `ranking`."""
        return [body for asked, body in self.seen if asked.endswith(path)]


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that left."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def served() -> Iterator[Server]:
    """The endpoint, served while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.give(*script.answer(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            script.seen.append((self.path, body))
            script.keys.append(self.headers.get("authorization", ""))
            self.give(*script.answer(self.path, body))

        def give(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            with suppress(BrokenPipeError):  # a client that did not wait
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = _Quiet(("127.0.0.1", 0), Handler)
    script = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    with script.clients:
        yield script
    http.shutdown()
    thread.join()
    http.server_close()


def said(status: int, body: Any, **headers: str) -> Answer:
    return status, {"content-type": "application/json", **headers}, json.dumps(body).encode()


def refused(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    return said(status, {"error": {"message": message, "type": "t", "code": code}}, **headers)


def embeddings(body: dict[str, Any], *, encoded: bool = True) -> Answer:
    """Each text's embedding holds its length: (length, 1)."""
    data = []
    for index, text in enumerate(body["input"]):
        vector = np.array([len(text), 1], "<f4")
        given = base64.b64encode(vector.tobytes()).decode() if encoded else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": given})
    return said(200, {"object": "list", "data": data[::-1], "model": "m"})


def rankings(*logits: float, **beside: Any) -> Answer:
    """One logit for each passage, in their order."""
    return said(200, {"rankings": [{"index": index, "logit": logit} for index, logit in enumerate(logits)], **beside})


def events(*chunks: Any, done: bool = True) -> Answer:
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    body = "".join([*lines, "data: [DONE]\n\n"] if done else lines)
    return 200, {"content-type": "text/event-stream"}, body.encode()


def piece(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}


@dataclass
class Voices:
    """What a foreign embedder, re-ranker and generator answer: embeddings by words, and what the test sets.

    `text` is the generator's answer, or makes it from the last message; `logits` scores the passages of a question, and without
    it the re-ranker says that it has no champion yet. `finish` is why the generator ended, `extras` what Headrace's own server
    would say besides.
    """

    text: str | Callable[[str], str] = "I cannot say."
    logits: Callable[[str, list[str]], Sequence[float]] | None = None
    finish: str = "stop"
    extras: dict[str, Any] = field(default_factory=dict)

    def __call__(self, path: str, body: dict[str, Any]) -> Answer:
        if path.endswith("/embeddings"):
            width = int(body["model"].rpartition("-")[2])
            data = [{"index": index, "embedding": embedding(text, width)} for index, text in enumerate(body["input"])]
            return said(200, {"data": data, "model": body["model"]})
        if path.endswith("/ranking"):
            if self.logits is None:
                return refused(404, "no_champion", "no champion yet")
            return rankings(*self.logits(body["query"]["text"], [passage["text"] for passage in body["passages"]]))
        if path.endswith("/chat/completions"):
            text = self.text if isinstance(self.text, str) else self.text(body["messages"][-1]["content"])
            return events(piece(text), piece("", self.finish, headrace=self.extras))
        return said(200, {"status": "ok"})
