"""A model endpoint for tests of what stands around the models: real HTTP, embeddings by words, no champion. It starts at once."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from headrace.settings import Endpoint, Models


class Words(ThreadingHTTPServer):
    """Answers embeddings and rankings at `url`; each request for embeddings of passages takes `delay` seconds longer."""

    daemon_threads = True
    delay = 0.0

    @property
    def url(self) -> str:
        """The base URL, up to and including `/v1`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def models(self) -> Models:
        """Settings that have this endpoint for every model; embeddings are 384 wide."""
        endpoint = Endpoint(type="endpoint", url=self.url, model="words-384")
        return Models(embedder=endpoint, reranker=endpoint, generator=endpoint)

    @property
    def env(self) -> dict[str, str]:
        """The same settings for another process."""
        given = {"TYPE": "endpoint", "URL": self.url, "MODEL": "words-384"}
        return {f"HEADRACE_MODELS__{model}__{k}": v for model in ("EMBEDDER", "RERANKER", "GENERATOR") for k, v in given.items()}


def embedding(text: str, width: int) -> list[float]:
    """Unit length; texts that share words are near, and none is far from all."""
    vector = np.full(width, 0.1 / width**0.5)
    for word in re.findall(r"\w+", text.lower()):
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % width] += 1
    numbers: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return numbers


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Words

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/ranking"):
            return self.answer(404, {"error": {"message": "no champion yet", "type": "not_found_error", "code": "no_champion"}})
        if asked.get("input_type") == "passage":
            time.sleep(self.server.delay)
        width = int(asked["model"].rpartition("-")[2])
        data = [{"index": index, "embedding": embedding(text, width)} for index, text in enumerate(asked["input"])]
        return self.answer(200, {"data": data, "model": asked["model"], "usage": {}})

    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def words() -> Iterator[Words]:
    """The endpoint, served while the block runs."""
    with Words(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
