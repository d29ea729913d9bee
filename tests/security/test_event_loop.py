"""Requests that a thread has to answer, or that are small: the event loop answers everybody, and must not do it for long."""

from __future__ import annotations

import json
import sys
import threading
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError
from test_slow_words import in_time

from headrace.answering.follow_up import TURNS
from headrace.api import app  # noqa: F401  # that imports every route, with the bodies that it takes
from headrace.api.admission import AdmissionQueue
from headrace.api.auth import READ, Caller
from headrace.api.chat import ChatCompletionRequest
from headrace.api.conversation import LenientRequest
from headrace.api.questions import LOOKUPS, WAITING_LOOKUPS, QuestionService
from headrace.api.responses import ResponseRequest
from headrace.api.routes.openai import EmbeddingRequest, _embedding_list
from headrace.api.schemas import ApiRequest
from headrace.errors import NotFound, Overloaded, WrongUsage
from headrace.settings import TenantLimits
from headrace.storage.filters import Filters
from headrace.unicode import normalized

JUNK: tuple[Any, ...] = ("", "a", "\ud800", {}, [], None, -1, {"role": "user", "content": [1]})


def bodies(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from bodies(one)


@pytest.mark.parametrize("body", [*bodies(ApiRequest), *bodies(LenientRequest)], ids=lambda body: body.__name__)
def test_a_list_of_wrong_items_is_one_error(body: type[Any]) -> None:
    """A million wrong filters were a million errors: one chat of 4 MB kept all waiting for 20 s, nine times a minute."""
    for name in body.model_fields:
        for item in JUNK:
            faults: list[Any] = []
            try:
                body.model_validate({name: [item] * 5_000})
            except ValidationError as wrong:
                faults.extend(fault["loc"] for fault in wrong.errors())
            assert sum(where[:1] == (name,) for where in faults) <= 6, (name, item)


@pytest.mark.parametrize(("body", "messages"), [(ChatCompletionRequest, "messages"), (ResponseRequest, "input")])
@pytest.mark.parametrize(
    "said", [{"role": "tool"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": [{}]}], ids=str
)
def test_a_conversation_is_read_once(body: Any, messages: str, said: dict[str, Any]) -> None:
    """60 conversations of 10,000 short messages, each read six times, kept other tenants waiting for half a minute."""
    sent = {"model": "headrace", messages: [*[said] * 9_998, {"role": "user", "content": "Why?"}]}
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        asked = body.model_validate(sent)
        assert (asked.question, len(asked.history) <= TURNS, asked.options.instructions) == ("Why?", True, "")
    finally:
        sys.setprofile(None)
    assert calls < 4 * 10_000, "Python's work for each message"


@pytest.mark.parametrize(
    "metadata",
    [
        {str(number): "1" for number in range(17)},
        {"a": 1},
        {"a": {}},
        {"a": "x" * 513},
        {"x" * 65: "a"},
        {"a": "\ud800"},
        {"\ud800": "a"},
        [{}] * 5_000,
        float("nan"),
        "text",
    ],
    ids=lambda given: str(given)[:20],
)
def test_what_a_response_repeats_is_small(metadata: Any) -> None:
    """It has the metadata three times: 4 MB of keys kept all waiting for 2.4 s, and deep ones broke it off."""
    with pytest.raises(ValidationError) as refused:
        ResponseRequest.model_validate({"model": "headrace", "input": "Why?", "metadata": metadata})
    assert [fault["loc"][0] for fault in refused.value.errors()] == ["metadata"]


@pytest.mark.parametrize(("body", "messages"), [(ChatCompletionRequest, "messages"), (ResponseRequest, "input")])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_half_a_character_in_a_conversation_is_refused(body: Any, messages: str, role: str) -> None:
    """A generator's client failed on it, which was a 500."""
    before = [{"role": "user", "content": "How long?"}, {"role": role, "content": "\ud800"}]
    with pytest.raises(ValidationError, match="half a character"):
        body.model_validate({"model": "headrace", messages: [*before, {"role": "user", "content": "Why?"}]})


def test_a_turn_of_embeddings_is_for_few_characters() -> None:
    """Four texts of 4 MB, which the embedder refused, kept a question of another tenant waiting for 10 s."""
    turns: list[list[str]] = []

    class Embedder:
        def embed_whole(self, texts: list[str], kind: str) -> tuple[Any, int]:
            turns.append(texts)
            return np.array([[len(text)] for text in texts], np.float32), len(texts)

    engine, ignored = cast(Any, SimpleNamespace(embedder=Embedder())), cast(Any, SimpleNamespace(question=lambda *_, **__: None))
    nothing = cast(Any, None)
    questions = QuestionService(engine, AdmissionQueue(4, 28), ignored, nothing, nothing, nothing, lambda: False)
    texts = ["x" * length for length in (*range(1, 70), *[40_000] * 5, 150_000)]
    found: list[Any] = []
    questions.embed(CALLER, texts, found.append, lambda: False, kind="passage")
    assert [int(width) for [width] in found[0][0]] == [len(text) for text in texts]
    assert all(len(turn) == 1 or (len(turn) <= 32 and sum(map(len, turn)) <= 100_000) for turn in turns)
    assert len(turns) == 6, "the longest alone, pairs of the long ones, and the short ones, the first with the last long one"

    with pytest.raises(ValidationError, match="text 1 has 100,001 characters"):
        EmbeddingRequest(model="headrace-embedder", input=["a", "x" * 100_001])


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0301", "\u0f73"])
def test_names_of_accents_are_read_in_time(marks: str) -> None:
    """Composing takes the square of the marks of a letter, in one step for which everything waits: 0.5 s for 16,000."""
    in_time(lambda: normalized("NFC", "a" + marks * 500_000))
    for form in ("NFC", "NFD", "NFKC"):
        for text in ("", "plain", "Größe", "Gro\u0308\u00dfe", "e\u0301\u0316" * 500, "a" + marks * 10, "\ufb01\u1e69"):
            assert normalized(form, text) == unicodedata.normalize(form, text)
    assert normalized("NFC", "e\u0301" + marks * 31) == "e\u0301" + marks * 31, "no language's letter has as many"


def test_filters_have_a_length_together() -> None:
    folders = [f"document={number:02}/{'x' * 380}/" for number in range(50)]
    assert len(Filters.parse(folders).labels[0]) == 50
    with pytest.raises(WrongUsage, match="20,000 characters together"):
        Filters.parse([*folders[:-1], f"document={'x' * 1_000}/"])


CALLER = Caller("acme", "0" * 16, frozenset({READ}), TenantLimits(questions=6))


def service(verdicts: Any) -> QuestionService:
    nothing = cast(Any, None)
    engine = cast(Any, SimpleNamespace(verdicts=verdicts))
    return QuestionService(engine, AdmissionQueue(4, 28), nothing, nothing, nothing, nothing, lambda: False)


def test_the_answer_that_a_question_follows_is_not_looked_up_by_the_event_loop() -> None:
    """One of another process is looked for in a table, which may take seconds, and as long as storage is away."""
    asked = service(None).admit(CALLER, "Why?", {}, tenant=None, readers=(), after="0" * 16, user=None)
    assert (asked.after, asked.history) == ("0" * 16, ())


def test_answers_that_only_a_table_has_are_looked_up_by_few_at_a_time() -> None:
    """Each look reads the whole table, so verdicts on ids that nobody was given took all processors."""
    go_on, looked = threading.Event(), threading.Semaphore(0)
    most, looking = 0, 0
    lock = threading.Lock()

    class Slow:
        def remembers(self, answer_id: str) -> bool:
            return False

        def answer(self, answer_id: str) -> None:
            nonlocal most, looking
            with lock:
                looking += 1
                most = max(most, looking)
            looked.release()
            go_on.wait(30)
            with lock:
                looking -= 1

    questions = service(Slow())
    outcomes: list[str] = []

    def judge(number: int) -> None:
        try:
            questions.judge(CALLER, f"{number:016x}", True)
        except (NotFound, Overloaded) as error:
            outcomes.append(type(error).__name__)
            if isinstance(error, Overloaded):
                refused.release()

    refused = threading.Semaphore(0)
    threads = [threading.Thread(target=judge, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(LOOKUPS):
        assert looked.acquire(timeout=30)
    for _ in range(2):
        assert refused.acquire(timeout=30), "the tenant may ask six questions at a time"
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["NotFound"] * 6 + ["Overloaded"] * 2
    assert most == LOOKUPS < WAITING_LOOKUPS


@pytest.mark.parametrize("encoded", [False, True])
def test_embeddings_are_written_before_the_event_loop_has_them(encoded: bool) -> None:
    """As lists of numbers, 2,048 of them took it a second to write; the request has 8 KB."""
    body = EmbeddingRequest(model="headrace-embedder", input=["a", "b"], encoding_format="base64" if encoded else None)
    vectors = np.array([[0.25, -1.0], [1e-9, 3.5]], np.float32)
    written = json.loads(_embedding_list(body, (vectors, 7)))
    shown = ["AACAPgAAgL8=", "X3CJMAAAYEA="] if encoded else vectors.tolist()
    assert written == {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)],
        "model": "headrace-embedder",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
