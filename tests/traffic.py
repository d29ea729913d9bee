"""Simulated users of a running `headrace up`: they ask about the handbook and judge every passage they are shown."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from conftest import _PLACES, _THINGS
from serving import Api


def indexed(api: Api, docs: Path) -> None:
    """Put the handbook and wait until it answers."""
    client = api.client()
    for path in sorted(docs.iterdir()):
        client.put(f"/v1/documents/{path.name}", content=path.read_bytes()).raise_for_status()
    for path in sorted(docs.iterdir()):
        assert api.indexed(client, path.name)["status"] == "indexed"


def questions() -> Iterator[tuple[str, str, str]]:
    """(question, the document, the words) that answer it; the 72 of them, again and again."""
    for place, thing in itertools.cycle(itertools.product(_PLACES, _THINGS)):
        yield f"What was done to the {thing} at the {place} station?", f"{thing}.md", f"at the {place} station"


class Traffic:
    """Asks and judges in a thread until stopped: questions `answered`, of them `meanwhile` a round was made, and `errors`."""

    def __init__(self, api: Api, *, pause_s: float = 0.05) -> None:
        self.answered = 0
        self.verdicts = 0
        self.meanwhile = 0
        self.errors: list[str] = []
        self.told: list[dict[str, Any]] = []
        """What the loop said of itself, as often as it was asked."""
        self._client = api.client()
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def loop(self) -> dict[str, Any]:
        """What the loop tells now."""
        told: dict[str, Any] = self._client.get("/v1/loop").raise_for_status().json()
        self.told.append(told)
        return told

    def _go_on(self) -> None:
        for number, (question, document, words) in enumerate(questions()):
            if self._stop.wait(self._pause_s):
                return
            user = f"simulated-{number % 4}"
            try:
                body = {"question": question, "simulated_user": user}
                found = self._client.post("/v1/search", json=body).raise_for_status().json()
                self.answered += 1
                self.meanwhile += bool(self.told) and self.told[-1]["state"] == "training"
                for passage in found["passages"]:
                    up = passage["document"] == document and words in f"{passage['heading']} {passage['text']}"
                    if number % 3 == 0:  # or retrieval's order would be perfect, and nothing could be learned
                        up = passage is found["passages"][-1]
                    given = {"answer_id": found["answer_id"], "chunk_id": passage["chunk_id"], "up": up, "simulated_user": user}
                    self._client.post("/v1/feedback", json=given).raise_for_status()
                    self.verdicts += 1
            except httpx.HTTPStatusError as error:
                self.errors.append(f"{error.response.status_code} {error.response.text}")
            except httpx.HTTPError as error:
                if not self._stop.is_set():
                    self.errors.append(repr(error))


def until(seconds: float, what: Callable[[], Any], why: Callable[[], Any], *, every_s: float = 0.1) -> None:
    """Wait until `what()` is true; where that takes longer than `seconds`, fail with what `why()` says.

    A look that takes long is taken less often: it shares the processor with what it waits for.
    """
    end = time.monotonic() + seconds
    looked = time.monotonic()
    while not what():
        now = time.monotonic()
        assert now < end, why()
        time.sleep(max(every_s, 2 * (now - looked)))
        looked = time.monotonic()
