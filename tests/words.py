"""A model endpoint for tests of what is around the models: HTTP, embeddings by words, answers that quote. It starts at once."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from http_thread import on_thread

from headrace.settings import Endpoint, ModelSettings


class Gate:
    """Open at first. Who waits while it is shut goes on when it is opened, or at the next `step`, which lets nobody else through.

    An event that is set and cleared is no step: it stays set for as long as the thread between the two waits for a core.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._steps = 0

    def open(self) -> None:
        self._set(True)

    def shut(self) -> None:
        self._set(False)

    def step(self) -> None:
        """Let those through who wait now."""
        with self._changed:
            self._steps += 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._changed:
            met = self._steps
            self._changed.wait_for(lambda: self._open or self._steps > met, seconds)

    def _set(self, is_open: bool) -> None:
        with self._changed:
            self._open = is_open
            self._changed.notify_all()


class Words(ThreadingHTTPServer):
    """Answers embeddings, rankings and chats at `url`.

    A chat quotes the sentence of the prompt's passages that has most words of the question. Each request for embeddings of
    passages takes `delay` seconds longer, and one of several passages waits while the `gate` is shut; each word of an answer
    takes `pause` seconds. A request for embeddings of a text that holds a word of `refused` is answered with its status, and any
    where that word is empty. `batches` counts requests of several passages, `chats` are the bodies that were sent, and `left`
    counts the answers that were not waited for. While it `fails`, chats are answered with 500.
    """

    daemon_threads = True
    delay = 0.0
    pause = 0.0
    fails = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.chats: list[dict[str, Any]] = []
        self.batches = self.left = 0
        self.refused: dict[str, int] = {}
        self.gate = Gate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed leave no traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The base URL, up to and including `/v1`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def models(self) -> ModelSettings:
        """Settings that have this endpoint for every model; embeddings are 384 wide."""
        endpoint = Endpoint(type="endpoint", url=self.url, model="words-384")
        return ModelSettings(embedder=endpoint, reranker=endpoint, generator=endpoint)

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


def quotation(prompt: str) -> str:
    """The sentence of the passages that shares most words with the question."""
    passages, _, question = prompt.removesuffix("\nAnswer:").rpartition("\n\nQuestion: ")
    wanted = set(re.findall(r"\w+", question.lower()))
    sentences = [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+|\n+", passages) if sentence.strip()]
    return max(sentences, key=lambda one: len(wanted & set(re.findall(r"\w+", one.lower()))), default="I cannot say.")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Words

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/ranking"):
            return self.answer(404, {"error": {"message": "no champion yet", "type": "not_found_error", "code": "no_champion"}})
        if self.path.endswith("/chat/completions"):
            if self.server.fails:
                return self.answer(500, {"error": {"message": "broken", "type": "server_error", "code": "broken"}})
            return self.chat(asked)
        for word, status in self.server.refused.items():
            if any(word in text for text in asked["input"]):
                return self.answer(status, {"error": {"message": f"no {word}", "type": "t", "code": "c"}})
        if asked.get("input_type") == "passage":
            time.sleep(self.server.delay)
            if len(asked["input"]) > 1:
                self.server.batches += 1
                self.server.gate.wait(60)
        if asked.get("truncate") == "NONE" and any(len(text.split()) > 512 for text in asked["input"]):
            return self.answer(400, {"error": {"message": "a text has more than 512 words", "type": "t", "code": "c"}})
        width = int(asked["model"].rpartition("-")[2])
        data = [{"index": index, "embedding": embedding(text, width)} for index, text in enumerate(asked["input"])]
        return self.answer(
            200, {"data": data, "model": asked["model"], "usage": {"prompt_tokens": len(" ".join(asked["input"]).split())}}
        )

    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def chat(self, asked: dict[str, Any]) -> None:
        self.server.chats.append(asked)
        prompt = asked["messages"][-1]["content"]
        words = re.findall(r"\S+\s*", quotation(prompt))
        pieces = words[: 2 * asked["max_tokens"]]  # tokens are counted as half a word, so that few are enough for a sentence
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(pieces)}
        usage["total_tokens"] = sum(usage.values())
        chunks = [*({"content": piece} for piece in pieces), {}]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for delta in chunks:
                time.sleep(self.server.pause)
                ended = {} if delta else {"usage": usage}
                choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop" if pieces == words else "length"}
                self.event(json.dumps({"model": asked["model"], "choices": [choice], **ended}))
            self.event("[DONE]")
        except OSError:
            self.server.left += 1
        self.close_connection = True

    def event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

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
    with on_thread(Words()) as server:
        yield server
