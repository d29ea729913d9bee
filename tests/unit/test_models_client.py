"""The model clients against a real HTTP server on loopback that answers what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from model_endpoint import Answer, Server, embeddings, events, piece, rankings, refused, said, served

from headrace.catalog import KV_CACHE
from headrace.errors import MissingPart, Overloaded, RequestRefused, Unavailable
from headrace.models import connection
from headrace.models.client import Completion, Embedder, Reranker, SamplingParameters
from headrace.models.connection import wait_ready
from headrace.models.ranking import RankingWeights
from headrace.models.wire import ResponseExtras
from headrace.storage.endpoints import ModelEndpoint
from headrace.storage.ledger import Direction, Ledger


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the clients would have waited before they asked again; here they do not wait."""
    found: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", found.append)
    return found


MOVED = {"stage": "models", "store": "models", "tier": "object", "direction": "read", "tenant": "", "ops": 1, "bytes": 7,
         "seconds": 0.5, "max_s": 0.5, "latency": {3: 1}, "estimated": False}  # fmt: skip


def test_what_the_server_moved_arrives_whole() -> None:
    ledger = Ledger()
    for seconds in (0.25, 0.75):
        ledger.count("models", KV_CACHE, Direction.WRITE, bytes=7, seconds=seconds)
    extras = ResponseExtras.model_validate_json(json.dumps({"storage": ledger.export()}))
    there = Ledger()
    there.fold(extras.entries)
    assert there.export() == ledger.export()


def test_no_client_loads_torch() -> None:
    # A command of the CLI must start fast.
    code = "import sys, headrace.models.client, headrace.models.tokens; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "sentence_transformers"} & set(loaded)


@pytest.mark.parametrize("encoded", [True, False])
def test_embeddings_come_in_the_order_of_the_texts(server: Server, encoded: bool) -> None:
    server.answer = lambda path, body: embeddings(body, encoded=encoded)
    texts = ["x" * length for length in (3, 90, 1, 17, 5)]
    vectors = server.embedder(api_key="secret", batch=2).embed(texts, kind="passage")
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [3, 90, 1, 17, 5]
    assert [path for path, _ in server.seen] == ["/v1/embeddings"] * 3
    assert server.seen[0][1] | {"input": []} == {
        "model": "m",
        "input": [],
        "input_type": "passage",
        "truncate": "END",
        "encoding_format": "base64",
    }
    assert set(server.keys) == {"Bearer secret"}


def test_no_texts_need_no_server() -> None:
    nowhere = ModelEndpoint(url="http://127.0.0.1:1/v1", model="m")
    assert Embedder(nowhere).embed([], kind="query").shape[0] == 0
    assert Reranker(nowhere).rank("q", []).logits == ()


def test_a_field_the_server_does_not_know_is_left_out_from_then_on(server: Server) -> None:
    def openai(path: str, body: dict[str, Any]) -> Answer:
        for name in ("input_type", "truncate"):
            if name in body:
                return refused(400, "unknown", f"Unrecognized request argument supplied: {name}")
        return embeddings(body)

    server.answer = openai
    embedder = server.embedder()
    assert embedder.embed(["ab"], kind="query")[0, 0] == 2
    assert len(server.seen) == 3
    embedder.embed(["ab"], kind="query")
    assert len(server.seen) == 4


@pytest.mark.parametrize("number", [1e-40, 1e-25, 1e30, 3e38])
def test_embeddings_of_no_length_that_can_be_computed_are_refused(server: Server, number: float) -> None:
    """1e-40, in each place, was infinitely near to every question, also once the endpoint had been mended."""
    made = [0.0] * 3
    server.answer = lambda path, body: said(200, {"data": [{"index": 0, "embedding": made}]})
    assert server.embedder().embed(["a"], kind="passage").tolist() == [made]
    made = [number] * 3
    with pytest.raises(RequestRefused, match="of a length near 0 or infinity"):
        server.embedder().embed(["a"], kind="passage")


def test_a_message_that_repeats_the_request_takes_no_field_from_all(server: Server) -> None:
    """As vLLM's do. Whoever has one request refused would put an end to the salt that keeps tenants' prompts apart."""

    def repeats(path: str, body: dict[str, Any]) -> Answer:
        if "seed" in body or len(body["messages"][0]["content"]) > 100:
            return refused(400, "invalid", f"it cannot be: {json.dumps(body)}")
        return events(piece("Yes.", "stop"))

    server.answer = repeats
    generator = server.generator(salt_key=b"key")

    def asked(question: str, seed: int | None = None) -> dict[str, Any]:
        with contextlib.suppress(RequestRefused):
            list(generator.stream([{"role": "user", "content": question}], max_tokens=9, sampling=SamplingParameters(seed=seed)))
        return server.seen[-1][1]

    asked("why? " * 100)
    assert {"cache_salt", "headrace", "stream_options"} <= asked("why?").keys(), "it was the question's fault"
    assert {"cache_salt", "headrace"} <= asked("why?", seed=-1).keys()
    assert {"cache_salt", "headrace"} <= asked("why?").keys(), "the server takes it without the seed"


def test_a_reason_that_nothing_else_can_hold_is_one_all_the_same(server: Server) -> None:
    server.answer = lambda path, body: (400, {}, b'{"error": {"message": "bad \\ud800 text"}}')
    with pytest.raises(RequestRefused, match=r"bad \? text"):
        server.embedder().embed(["a"], kind="query")
    server.answer = lambda path, body: (400, {}, b"[" * 60_000)
    with pytest.raises(RequestRefused, match="answered 400"):
        server.embedder().embed(["a"], kind="query")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (refused(400, "invalid_value", "input is empty"), RequestRefused, "input is empty"),
        (said(422, {"detail": [{"loc": ["body"], "msg": "odd"}]}), RequestRefused, "odd"),
        (refused(401, "invalid_api_key", "wrong key"), RequestRefused, "api_key"),
        (refused(404, "model_not_found", "no model m"), RequestRefused, "no model m"),
        (said(413, {"message": "too large"}), RequestRefused, "too large"),
        (refused(503, "missing_part", "Not installed. Run `make install`."), MissingPart, "make install"),
        (refused(503, "unavailable", "storage is down"), Unavailable, "storage is down"),
        ((500, {}, b"<html>oops"), Unavailable, "oops"),
        ((200, {}, b"hello"), RequestRefused, "not a JSON object"),
        (said(200, {"data": []}), RequestRefused, "0 embeddings for 1 texts"),
    ],
)
def test_what_a_server_refuses_becomes_our_error_at_once(
    server: Server, answer: Answer, error: type[Exception], words: str
) -> None:
    server.answer = lambda path, body: answer
    with pytest.raises(error, match=words):
        server.embedder().embed(["a"], kind="query")
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_and_then_given_up(server: Server, pauses: list[float], status: int) -> None:
    server.answer = lambda path, body: refused(status, "overloaded") if len(server.seen) < 4 else embeddings(body)
    embedder = server.embedder()
    assert embedder.embed(["abc"], kind="query")[0, 0] == 3
    assert len(server.seen) == 4
    assert pauses == [pytest.approx(pause, rel=0.2) for pause in (0.2, 0.4, 0.8)]
    server.seen.clear()
    server.answer = lambda path, body: refused(status, "overloaded")
    with pytest.raises(Overloaded, match=str(status)):
        embedder.embed(["abc"], kind="query")
    assert len(server.seen) == 4


@pytest.mark.parametrize(("asked", "pause"), [("3", 3.0), ("5", 5.0), ("60", 5.0)])
def test_a_server_that_says_when_to_come_back_is_given_that_time_within_reason(
    server: Server, pauses: list[float], asked: str, pause: float
) -> None:
    busy = refused(429, "overloaded", **{"retry-after": asked})
    server.answer = lambda path, body: busy if len(server.seen) < 2 else embeddings(body)
    server.embedder().embed(["abc"], kind="query")
    assert pauses == [pause]


def test_nobody_there_and_nobody_answering_are_unavailable_with_the_url(server: Server, pauses: list[float]) -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1/v1/embeddings cannot be reached") as nowhere:
        server.embedder(url="http://127.0.0.1:1/v1").embed(["a"], kind="query")
    assert nowhere.value.hint
    assert len(pauses) == 3, "nobody there is asked again: it may be starting"
    pauses.clear()
    waiting = threading.Event()
    server.answer = lambda path, body: (200, {}, b"{}") if waiting.wait(5) else (500, {}, b"")
    with pytest.raises(Unavailable, match="did not answer within"):
        server.embedder(timeout_s=0.2).embed(["a"], kind="query")
    waiting.set()
    assert pauses == [], "whoever waited in vain is not made to wait again"


def test_logits_come_in_the_order_of_the_passages(server: Server) -> None:
    server.answer = lambda path, body: said(
        200,
        {
            "rankings": [{"index": 1, "logit": 2.5}, {"index": 0, "logit": -1.25}],
            "headrace": {"version": "v000002", "ranking": {"weights": {"reranker": 2.0}}, "storage": [MOVED]},
        },
    )
    ranking = server.reranker().rank("why?", ["a", "b"], version="v000002")
    assert ranking.logits == (-1.25, 2.5)
    assert (ranking.version, ranking.storage) == ("v000002", [MOVED])
    assert ranking.ranking == RankingWeights(weights={"reranker": 2.0})
    path, body = server.seen[0]
    assert path == "/v1/ranking"
    assert body == {
        "model": "m@v000002",
        "query": {"text": "why?"},
        "passages": [{"text": "a"}, {"text": "b"}],
        "truncate": "END",
    }


def test_requests_say_which_answer_they_are_for(server: Server) -> None:
    server.answer = lambda path, body: (
        said(200, {"rankings": [{"index": 0, "logit": 1.0}]}) if path.endswith("ranking") else events(piece("Hi", "stop"))
    )
    server.reranker().rank("q", ["a"], answer_id="4e1f")
    list(server.generator().stream([{"role": "user", "content": "?"}], max_tokens=1, tenant="acme", answer_id="4e1f"))
    list(server.generator().stream([{"role": "user", "content": "?"}], max_tokens=1, version="v000012"))
    ranked, answered, named = (body for _, body in server.seen)
    assert (ranked["model"], ranked["headrace"]) == ("m", {"answer_id": "4e1f"})
    assert (answered["model"], answered["headrace"]) == ("m", {"tenant": "acme", "cache": True, "answer_id": "4e1f"})
    assert (named["model"], named["headrace"]) == ("m@v000012", {"tenant": "", "cache": True})


def test_a_foreign_reranker_need_not_know_our_fields(server: Server) -> None:
    def strict(path: str, body: dict[str, Any]) -> Answer:
        if "headrace" in body:
            return said(422, {"detail": [{"loc": ["body", "headrace"], "msg": "Extra inputs are not permitted"}]})
        return said(200, {"rankings": [{"index": 0, "logit": 1.0}]})

    server.answer = strict
    reranker = server.reranker()
    assert reranker.rank("q", ["a"], answer_id="4e1f").logits == (1.0,)
    assert reranker.rank("q", ["a"], answer_id="4e20").logits == (1.0,)
    assert len(server.seen) == 3


def test_a_foreign_reranker_is_its_own_version_and_an_incomplete_one_is_refused(server: Server) -> None:
    server.answer = lambda path, body: said(200, {"rankings": [{"index": 0, "logit": 1.0}]})
    ranking = server.reranker().rank("q", ["a"])
    assert (ranking.logits, ranking.version, ranking.ranking, ranking.storage) == ((1.0,), "m", None, [])
    with pytest.raises(RequestRefused, match="no logit"):
        server.reranker().rank("q", ["a", "b"])


@pytest.mark.parametrize(("count", "sizes"), [(512, [512]), (513, [512, 1])])
def test_many_passages_go_in_several_requests_and_come_back_in_order(server: Server, count: int, sizes: list[int]) -> None:
    server.answer = lambda path, body: rankings(*(float(passage["text"]) for passage in body["passages"]))
    ranking = server.reranker().rank("q", [str(number) for number in range(count)])
    assert ranking.logits == tuple(map(float, range(count)))
    assert [len(body["passages"]) for body in server.asked("ranking")] == sizes


def test_logits_of_two_versions_are_not_put_together(server: Server) -> None:
    """Another version is promoted between the first request and the second, so both are asked again."""
    versions = iter(["v000001", "v000002", "v000002", "v000002"])

    def promoted(path: str, body: dict[str, Any]) -> Answer:
        version = next(versions)
        logits = [float(version[-1])] * len(body["passages"])
        return rankings(*logits, headrace={"version": version, "ranking": {"weights": {"reranker": 1.0}}})

    server.answer = promoted
    ranking = server.reranker().rank("q", ["a"] * 513)
    assert (set(ranking.logits or ()), len(ranking.logits or ()), ranking.version) == ({2.0}, 513, "v000002")
    assert len(server.seen) == 4


def test_before_the_first_promotion_there_are_no_logits(server: Server) -> None:
    body = {"error": {"message": "none yet", "code": "no_champion"}, "headrace": {"storage": [MOVED]}}
    server.answer = lambda path, _: said(404, body)
    ranking = server.reranker().rank("q", ["a"])
    assert (ranking.logits, ranking.version, ranking.storage) == (None, "none", [MOVED])


def test_a_stream_yields_text_and_then_its_completion(server: Server) -> None:
    extras = {
        "version": "g-1",
        "prompt_tokens": [1, 2],
        "completion_tokens": [3],
        "logprobs": [-0.5],
        "storage": [MOVED],
        "timings_ms": {"prefill": 1.5},
        "reused_tokens": 2,
    }
    # A line separator of Unicode inside the text is no end of an event.
    server.answer = lambda path, body: events(
        piece("Paris\u2028"), piece(" it is."), piece("", "stop", usage={"total_tokens": 3}, headrace=extras)
    )
    *text, last = server.generator().stream([{"role": "user", "content": "?"}], max_tokens=9, tenant="acme", stop=["\n\n"])
    assert text == ["Paris\u2028", " it is."]
    assert last == Completion(
        "Paris\u2028 it is.",
        [1, 2],
        [3],
        [-0.5],
        {"total_tokens": 3},
        [MOVED],
        "g-1",
        {"prefill": 1.5},
        2,
        "stop",
    )
    body = server.seen[0][1]
    assert body["headrace"] == {"tenant": "acme", "cache": True}
    assert (body["max_tokens"], body["stop"], body["stream"], body["temperature"]) == (9, ["\n\n"], True, 0.0)


def test_a_foreign_generator_reports_less_and_need_not_know_our_fields(server: Server) -> None:
    def openai(path: str, body: dict[str, Any]) -> Answer:
        if "headrace" in body:
            return refused(400, "unknown", "Unrecognized request argument supplied: headrace")
        # Asked to, OpenAI reports usage in a chunk of its own after the last choice.
        return events(piece("Hi", "length"), {"model": "m-1", "choices": [], "usage": {"completion_tokens": 1}})

    server.answer = openai
    *text, last = server.generator().stream([{"role": "user", "content": "?"}], max_tokens=1)
    assert text == ["Hi"]
    assert last == Completion("Hi", [], [], [], {"completion_tokens": 1}, [], "m-1", {}, 0, "length")


def test_salts_keep_the_prefixes_of_tenants_and_readers_apart(server: Server) -> None:
    server.answer = lambda path, body: events(piece("Hi", "stop"))
    wanted = [("acme", ()), ("acme", ()), ("globex", ()), ("acme", ("hr", "it")), ("acme", ("it", "hr")), ("acme", ("hr",))]
    for key in (b"of this home", b"of another"):
        for tenant, readers in wanted:
            list(server.generator(salt_key=key).stream([], max_tokens=1, tenant=tenant, readers=readers))
    salts = [body["cache_salt"] for _, body in server.seen]
    first, second = salts[: len(wanted)], salts[len(wanted) :]
    assert [first.index(salt) for salt in first] == [0, 0, 2, 3, 3, 5]
    assert not set(first) & set(second), "a salt cannot be computed from the names alone"
    assert all(len(salt) == 43 for salt in salts)
    list(server.generator().stream([], max_tokens=1, tenant="acme"))
    assert "cache_salt" not in server.seen[-1][1]


def test_an_endpoint_that_refuses_salts_is_asked_without(server: Server) -> None:
    def strict(path: str, body: dict[str, Any]) -> Answer:
        if "cache_salt" in body:
            return refused(400, "unknown", "Unrecognized request argument supplied: cache_salt")
        return events(piece("Hi", "stop"))

    server.answer = strict
    *text, _ = server.generator(salt_key=b"k").stream([], max_tokens=1, tenant="acme")
    assert text == ["Hi"]


def test_documents_of_a_prompt_and_its_run_are_named_where_they_are_known(server: Server) -> None:
    server.answer = lambda path, body: events(piece("Hi", "stop"))
    list(server.generator().stream([], max_tokens=1, documents=["b" * 16, "a" * 16, "a" * 16], run="r"))
    list(server.generator().stream([], max_tokens=1, documents=[]))
    extras = [body["headrace"] for _, body in server.seen]
    assert (extras[0]["documents"], extras[0]["run"]) == (["a" * 16, "b" * 16], "r")
    assert (extras[1]["documents"], "run" in extras[1]) == ([], False)


def test_an_answer_that_breaks_off_is_no_completion(server: Server) -> None:
    server.answer = lambda path, body: events(piece("half an ans"), done=False)
    stream = server.generator().stream([{"role": "user", "content": "?"}], max_tokens=5)
    assert next(stream) == "half an ans"
    with pytest.raises(Unavailable, match="stopped in the middle"):
        next(stream)
    server.answer = lambda path, body: events(piece("half"), {"error": {"message": "stopping", "code": "unavailable"}})
    with pytest.raises(Unavailable, match="stopping"):
        list(server.generator().stream([{"role": "user", "content": "?"}], max_tokens=5))
    server.answer = lambda path, body: said(200, {"choices": []})
    with pytest.raises(RequestRefused, match="stream of events"):
        list(server.generator().stream([{"role": "user", "content": "?"}], max_tokens=5))


def test_waiting_for_a_server_that_is_still_starting(server: Server) -> None:
    asked: list[str] = []

    def health(path: str, body: dict[str, Any]) -> Answer:
        asked.append(path)
        return said(200 if len(asked) > 2 else 503, {"ready": len(asked) > 2})

    server.answer = health
    wait_ready(server.endpoint(), 5)
    assert asked == ["/v1/health/ready"] * 3
    with pytest.raises(Unavailable, match="not ready within"):
        wait_ready(ModelEndpoint(url="http://127.0.0.1:1/v1", model="m"), 0.1)
