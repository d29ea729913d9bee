"""Answers of an engine whose models are somebody else's: honest refusals, and what an answer says of what was left out."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_endpoint import Answer as Response
from model_endpoint import Server, Voices, events, piece, refused, served
from starlette.testclient import TestClient
from words import embedding

from headrace.answering.engine import NOT_STORED, QueryEngine
from headrace.answering.follow_up import Turn
from headrace.answering.options import AnswerOptions
from headrace.answering.quotes import NOT_FOUND
from headrace.answering.record import Answer
from headrace.api.app import create_app
from headrace.api.service import Service
from headrace.app import App
from headrace.catalog import INTERACTION_ROWS
from headrace.core.runner import Runner
from headrace.documents.index import index_documents
from headrace.errors import Unavailable
from headrace.landing.land import land
from headrace.settings import Endpoint, ModelSettings, Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.tables.handles import TableReader

# An engine keeps its connections for as long as it is there.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
TEXTS = {
    "mill.md": "The wheel of the mill turns at dawn.",
    "weir.md": "The weir holds the river back in spring.",
    "pond.md": "The pond behind the weir freezes in winter.",
}
NEAR, FAR = "When does the wheel of the mill turn?", "Who painted Guernica?"
SENTENCE = "The wheel of the mill turns at dawn."
WIDTH = 384


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served() as server:
        server.answer = Voices()
        yield server


@pytest.fixture(scope="module")
def app(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("answers")
    (folder / "docs").mkdir()
    for name, text in TEXTS.items():
        (folder / "docs" / name).write_text(text)
    endpoint = Endpoint(type="endpoint", url=server.url, model=f"words-{WIDTH}", timeout_s=20.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SETTINGS", str(folder / "none.toml"))
        settings = Settings(home=folder / "home", models=ModelSettings(embedder=endpoint, reranker=endpoint, generator=endpoint))
        with App(settings, "ask", quiet=True) as app:
            index_documents(app.runner, [folder / "docs"], tenant="acme", settings=settings.inference)
            yield app


@pytest.fixture
def voices(server: Server) -> Voices:
    """What the models of this test answer."""
    server.answer = voices = Voices()
    server.seen.clear()
    return voices


def engine(
    app: App, *, embedder: str = f"words-{WIDTH}", reranker: str = "", embedded: bool = False, **inference: Any
) -> QueryEngine:
    """An engine, some of whose settings are others; `reranker` is another address for it."""
    endpoints = app.runner.endpoints
    others = {"embedder": endpoints.embedder.model_copy(update={"model": embedder})}
    if reranker:
        others["reranker"] = endpoints.reranker.model_copy(update={"url": reranker})
    runner = Runner(app.runner.record, endpoints.model_copy(update=others))
    return QueryEngine(runner, app.settings.inference.model_copy(update=inference), embedded=embedded)


def ask(engine: QueryEngine, question: str, *, tenant: str = "acme", record: bool = False, **more: Any) -> tuple[str, Answer]:
    """What was streamed, and the answer."""
    *pieces, given = engine.ask(question, tenant=tenant, user="ann", record=record, **more)
    assert isinstance(given, Answer)
    return "".join(map(str, pieces)), given


def order(given: Answer) -> list[str]:
    return [passage.hit.uri.removeprefix("docs/") for passage in given.passages]


def cosine(question: str, text: str) -> float:
    return float(np.dot(embedding(question, WIDTH), embedding(text, WIDTH)))


def test_an_answer_says_how_near_the_best_passage_is_and_how_much_of_it_passages_hold(
    app: App, voices: Voices, server: Server
) -> None:
    voices.text = f"{SENTENCE} Bananas are yellow. It turns the mill's wheel."
    streamed, given = ask(engine(app), NEAR)
    assert not given.refused
    assert given.similarity == pytest.approx(max(cosine(NEAR, text) for text in TEXTS.values()), abs=1e-5)
    assert given.groundedness == pytest.approx(2 / 3)
    assert streamed == given.text == f"{SENTENCE} [1] Bananas are yellow. It turns the mill's wheel. [1]"
    (citation,) = given.citations
    assert (citation["document"], citation["number"]) == ("docs/mill.md", 1)
    assert [span["quote"] for span in citation["spans"]] == [SENTENCE, SENTENCE]
    (asked,) = server.asked("chat/completions")
    assert SENTENCE in asked["messages"][-1]["content"]
    told = given.as_dict()
    assert (told["refused"], told["similarity"], told["groundedness"]) == (False, given.similarity, given.groundedness)
    assert "note" not in told


@pytest.mark.parametrize(("text", "groundedness"), [("Bananas are yellow.", 0.0), ("", None), ("—", None)])
def test_an_answer_that_no_passage_holds_says_so(app: App, voices: Voices, text: str, groundedness: float | None) -> None:
    voices.text = text
    _, given = ask(engine(app), NEAR)
    assert (given.refused, given.groundedness, given.citations) == (False, groundedness, [])


def test_a_question_that_nothing_is_near_is_declined_without_asking_the_generator(
    app: App, voices: Voices, server: Server
) -> None:
    voices.text = SENTENCE
    streamed, given = ask(engine(app), FAR)
    assert given.refused
    assert streamed == given.text == NOT_FOUND
    assert given.similarity == pytest.approx(max(cosine(FAR, text) for text in TEXTS.values()), abs=1e-5)
    assert given.similarity < 0.3
    assert (given.groundedness, given.citations, given.completion) == (None, [], None)
    assert server.asked("chat/completions") == []
    told = given.as_dict()
    assert (told["refused"], told["generator_version"], told["answer"]) == (True, "none", NOT_FOUND)


def test_what_is_quoted_is_in_the_cited_passage_word_for_word_and_no_generator_is_asked(
    app: App, voices: Voices, server: Server
) -> None:
    streamed, given = ask(engine(app, embedded=True), "When does the wheel of the mill turn?")
    assert streamed == given.text == f"{SENTENCE} [1]"
    assert (given.mode, given.refused, given.groundedness) == ("extractive", False, 1.0)
    (citation,) = given.citations
    (span,) = citation["spans"]
    assert citation["text"][span["start"] : span["end"]] == span["quote"] == SENTENCE
    assert server.asked("chat/completions") == []
    assert given.as_dict()["generator_version"] == "none"
    streamed, given = ask(engine(app, embedded=True), FAR)
    assert (streamed, given.refused, given.citations, given.groundedness) == (NOT_FOUND, True, [], None)
    assert given.passages, "the nearest are shown"


def test_a_part_of_a_question_that_has_no_answer_is_named(app: App, voices: Voices) -> None:
    asked = "When does the wheel of the mill turn and who baked bread in 1823?"
    streamed, given = ask(engine(app, answers="extractive"), asked)
    assert streamed == given.text == f"{SENTENCE} [1]\nThat is not in these documents: who baked bread in 1823?"
    assert (given.refused, given.groundedness) == (False, 0.5)


@pytest.mark.parametrize(
    ("settings", "wanted", "mode"),
    [
        ({}, None, "generated"),  # a generator of the user's
        ({"embedded": True}, None, "extractive"),
        ({"embedded": True}, "generated", "generated"),
        ({"embedded": True, "temperature": 0.7}, None, "generated"),  # whose answers are to vary
        ({"embedded": True, "answers": "generated"}, None, "generated"),
        ({"answers": "extractive"}, None, "extractive"),
        ({"answers": "extractive"}, "generated", "generated"),
    ],
)
def test_who_writes_the_answer(app: App, voices: Voices, settings: dict[str, Any], wanted: Any, mode: str) -> None:
    assert ask(engine(app, **settings), NEAR, options=AnswerOptions(mode=wanted))[1].mode == mode


def test_an_answer_that_was_cut_off_says_so(app: App, voices: Voices) -> None:
    voices.finish = "length"
    assert "cut off at 160 tokens" in ask(engine(app), NEAR)[1].note


def test_an_answer_whose_kv_could_not_be_kept_says_so(app: App, voices: Voices) -> None:
    voices.extras = {"not_stored": "No space left under /mnt/kv."}
    assert ask(engine(app), NEAR)[1].note.endswith(f"{NOT_STORED}: No space left under /mnt/kv")


def test_the_threshold_is_the_last_similarity_that_is_answered(app: App, voices: Voices) -> None:
    voices.text = SENTENCE
    _, given = ask(engine(app), NEAR)
    assert given.similarity is not None
    assert not ask(engine(app, least_similarity=given.similarity), NEAR)[1].refused
    assert ask(engine(app, least_similarity=math.nextafter(given.similarity, 1)), NEAR)[1].refused
    assert not ask(engine(app, least_similarity=-1.0), FAR)[1].refused


def test_where_nothing_is_found_the_answer_is_that(app: App, voices: Voices, server: Server) -> None:
    streamed, given = ask(engine(app, least_similarity=-1.0), NEAR, tenant="nobody")
    assert (streamed, given.refused, given.similarity, given.passages) == (NOT_FOUND, True, None, ())
    assert server.asked("chat/completions") == server.asked("ranking") == []


def test_where_no_similarity_is_known_none_is_too_small(app: App, voices: Voices) -> None:
    """The index was made by another embedder than is set now, so full-text search answers alone."""
    voices.text = SENTENCE
    streamed, given = ask(engine(app, embedder="others-384", least_similarity=1.0), "wheel dawn")
    assert (given.refused, given.similarity) == (False, None)
    assert streamed == f"{SENTENCE} [1]"
    assert given.note == (f"the index was made with the embedder words-{WIDTH}, not others-384: full-text search answered alone")
    assert given.as_dict()["note"] == given.note


def test_the_generator_gets_the_best_passages_and_no_more(app: App, voices: Voices, server: Server) -> None:
    voices.logits = lambda question, passages: [float("pond" in passage) + 2.0 * ("mill" in passage) for passage in passages]
    _, given = ask(engine(app, passages=2), "weir")
    assert (order(given), given.model_version) == (["mill.md", "pond.md"], f"words-{WIDTH}")
    assert len(engine(app).search("weir", tenant="acme", user="ann", record=False).passages) == 3
    (body,) = server.asked("chat/completions")
    assert TEXTS["weir.md"] not in body["messages"][-1]["content"]


def test_a_reranker_that_is_down_is_left_out_and_the_answer_says_so(app: App, voices: Voices, server: Server) -> None:
    as_retrieved = order(engine(app).search(NEAR, tenant="acme", user="ann", record=False))
    voices.text = SENTENCE

    def down(path: str, body: dict[str, Any]) -> Response:
        return refused(503, "unavailable", "its storage is away") if path.endswith("/ranking") else voices(path, body)

    server.answer = down
    searched = engine(app).search(NEAR, tenant="acme", user="ann", record=False)
    assert order(searched) == as_retrieved
    assert [passage.rerank_score for passage in searched.passages] == [None] * 3
    streamed, given = ask(engine(app), NEAR)
    assert (streamed, order(given)) == (f"{SENTENCE} [1]", as_retrieved[:2])
    for answer in (searched, given):
        assert answer.model_version == "none"
        assert answer.note.startswith("the re-ranker did not answer, so retrieval order is kept: ")
        assert "its storage is away" in answer.as_dict()["note"]


def test_a_reranker_that_is_slow_is_left_out_after_its_time(app: App, voices: Voices, server: Server) -> None:
    over = threading.Event()

    def slow(path: str, body: dict[str, Any]) -> Response:
        if path.endswith("/ranking"):
            over.wait(20)
        return voices(path, body)

    server.answer = slow
    found = engine(app, rerank_seconds=0.2).search(NEAR, tenant="acme", user="ann", record=False)
    assert not over.is_set()
    over.set()
    assert (order(found)[0], found.model_version) == ("mill.md", "none")
    assert "did not answer within 0.2 s" in found.note


def test_everything_that_was_left_out_is_said(app: App, voices: Voices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.models.connection._BACKOFF_S", 0.001)
    other = engine(app, embedder="others-384", reranker="http://127.0.0.1:1/v1")
    found = other.search("wheel", tenant="acme", user="ann", record=False)
    embedder, reranker = found.note.split("; ")
    assert embedder.endswith("full-text search answered alone")
    assert reranker.startswith("the re-ranker did not answer")
    assert order(found) == ["mill.md"]


def test_a_generator_that_breaks_off_gives_no_answer_and_none_is_recorded(app: App, voices: Voices, server: Server) -> None:
    def breaking(path: str, body: dict[str, Any]) -> Response:
        return events(piece("The wheel turns. The mill of"), done=False) if path.endswith("/completions") else voices(path, body)

    server.answer = breaking
    stream = engine(app).ask("Where does the wheel of the mill break?", tenant="acme", user="ann")
    assert str(next(stream)).startswith("The wheel turns.")
    with pytest.raises(Unavailable, match="stopped in the middle"):
        list(stream)
    app.runner.run(land)
    table = TableReader(INTERACTION_ROWS, app.runner.endpoints, Meter(Ledger(), "test"))
    assert table.read(("question",), "question = 'Where does the wheel of the mill break?'").num_rows == 0


def test_an_embedder_that_is_down_is_no_reason_to_answer_from_full_text_alone(app: App, voices: Voices, server: Server) -> None:
    """It will be there again, and an answer found by half of the search would not say so."""

    def down(path: str, body: dict[str, Any]) -> Response:
        return refused(503, "unavailable", "its disk is full") if path.endswith("/embeddings") else voices(path, body)

    server.answer = down
    with pytest.raises(Unavailable, match="its disk is full"):
        engine(app).search(NEAR, tenant="acme", user="ann", record=False)


def test_a_quote_that_no_embedder_helped_to_find_says_so(app: App, voices: Voices, server: Server) -> None:
    """The question is embedded, and then the embedder is away."""

    def away_later(path: str, body: dict[str, Any]) -> Response:
        if path.endswith("/embeddings") and len(body["input"]) > 1:
            return refused(503, "unavailable", "its disk is full")
        return voices(path, body)

    server.answer = away_later
    streamed, given = ask(engine(app, answers="extractive"), NEAR)
    assert streamed == f"{SENTENCE} [1]"
    assert given.note == "the embedder did not answer: quotes were chosen by their words alone"
    assert given.as_dict()["note"] == given.note


HISTORY = [Turn(NEAR, f"{SENTENCE} [1]")]
TASK = '### Task:\nGenerate a title.\n### Output:\n{ "title": "a title" }\nUSER: When does the wheel turn?'


def test_a_follow_up_is_rewritten_by_the_generator_of_the_users_and_by_rule_where_it_does_not_answer(
    app: App, voices: Voices, server: Server
) -> None:
    def rewriting(said: str) -> str:
        return "Where does the pond of the weir freeze?" if "Rewritten question:" in said else TEXTS["pond.md"]

    voices.text = rewriting
    _, given = ask(engine(app), "And the pond?", history=HISTORY)
    assert (given.question, given.asked_as) == ("And the pond?", "Where does the pond of the weir freeze?")
    assert given.as_dict()["asked_as"] == given.asked_as
    assert order(given)[0] == "pond.md"
    assert set(given.timings_ms) >= {"rewrite", "retrieve"}
    written, answered = server.asked("chat/completions")
    assert NEAR in written["messages"][0]["content"]
    assert "Question: Where does the pond of the weir freeze?" in answered["messages"][0]["content"]
    by_rule = "When does the pond turn?"
    voices.text = "I cannot say."
    assert ask(engine(app), "And the pond?", history=HISTORY)[1].asked_as == by_rule
    for more in ({"rewrite_seconds": 0.0}, {"embedded": True}):
        server.seen.clear()
        assert (
            ask(engine(app, **more), "And the pond?", history=HISTORY, options=AnswerOptions(mode="extractive"))[1].asked_as
            == by_rule
        )
        assert server.asked("chat/completions") == []

    def down(path: str, body: dict[str, Any]) -> Response:
        return refused(503, "unavailable", "its disk is full") if path.endswith("/completions") else voices(path, body)

    server.answer = down
    assert ask(engine(app, answers="extractive"), "And the pond?", history=HISTORY)[1].asked_as == by_rule


def test_a_client_s_task_is_the_generators_and_small_talk_is_nobodys(app: App, voices: Voices, server: Server) -> None:
    voices.text = '{"title": "Mills"}'
    streamed, given = ask(engine(app), TASK, record=True, history=HISTORY)
    assert (streamed, given.text, given.kind, given.mode) == (voices.text, voices.text, "task", "generated")
    (asked,) = server.asked("chat/completions")
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
    assert asked["messages"][-1]["content"] == TASK
    assert ask(engine(app, embedded=True), TASK, record=True)[0] == '{"title": "When does the wheel turn"}'
    streamed, given = ask(engine(app), "Hello!", record=True)
    assert (given.kind, given.refused, given.passages, given.index_version) == ("small_talk", False, (), "none")
    assert streamed == given.text
    app.runner.run(land)
    table = TableReader(INTERACTION_ROWS, app.runner.endpoints, Meter(Ledger(), "test"))
    assert set(table.read(("kind",))["kind"].to_pylist()) <= {"answer", "search"}
    assert len(server.asked("chat/completions")) == 1
    assert server.asked("embeddings") == server.asked("ranking") == []


def test_a_tenant_stores_as_much_as_it_may_to_the_byte_and_to_the_document(app: App, voices: Voices) -> None:
    web = create_app(Service(app), "a-token")
    with TestClient(web, base_url="http://127.0.0.1", headers={"authorization": "Bearer a-token"}) as page:
        quotas = {"documents": 2, "stored_bytes": 100}
        page.post("/v1/tenants", json={"name": "stores", "quotas": quotas}).raise_for_status()
        minted = page.post("/v1/keys", json={"tenant": "stores", "scopes": ["write"]}).raise_for_status().json()

        def put(name: str, size: int) -> tuple[int, str]:
            headers = {"authorization": f"Bearer {minted['key']}"}
            answer = page.put(f"/v1/documents/{name}", content=b"a" * size, headers=headers)
            return answer.status_code, answer.json().get("error", {}).get("message", "")

        assert put("one.md", 101) == (
            403,
            "Quota exceeded: limit 100 bytes, in use 0, this document 101. Earlier versions count too. Delete some"
            " documents, which deletes all of theirs, or ask for more.",
        )
        assert put("one.md", 60)[0] == 202
        assert put("two.md", 41)[0] == 403
        assert put("two.md", 40)[0] == 202
        assert put("three.md", 1)[1].startswith("Quota exceeded: limit 2 documents, in use 2.")
        assert put("one.md", 59)[0] == 403, "what it would replace stays stored"
        gone = page.delete("/v1/documents/one.md", params={"tenant": "stores"})
        assert gone.status_code == 202
        assert put("one.md", 61)[0] == 403
        assert put("one.md", 60)[0] == 202


def test_what_was_declined_is_recorded_as_such(app: App, voices: Voices) -> None:
    voices.text = f"{SENTENCE} Bananas are yellow."
    given = [ask(engine(app), question, record=True)[1] for question in (NEAR, FAR)]
    app.runner.run(land)
    table = TableReader(INTERACTION_ROWS, app.runner.endpoints, Meter(Ledger(), "test"))
    rows = {row["answer_id"]: row for row in table.read().to_pylist()}
    answered, declined = (rows[one.answer_id] for one in given)
    assert (answered["groundedness"], answered["similarity"]) == (0.5, pytest.approx(given[0].similarity))
    assert next((passage["document"], passage["cited"]) for passage in answered["passages"]) == ("docs/mill.md", True)
    assert (declined["answer"], declined["groundedness"], declined["generator_version"]) == (NOT_FOUND, None, "none")
    assert declined["similarity"] == pytest.approx(given[1].similarity)
    assert not any(passage["cited"] for passage in declined["passages"])


def test_the_api_says_it_too_and_each_tenants_part_of_the_kv_cache_goes_to_the_generator(
    app: App, voices: Voices, server: Server, tmp_path: Path
) -> None:
    voices.text = SENTENCE
    token = "a-token"
    web = create_app(Service(app), token)
    with TestClient(web, base_url="http://127.0.0.1", headers={"authorization": f"Bearer {token}"}) as page:
        page.post("/v1/tenants", json={"name": "acme", "quotas": {"kv_cache_bytes": 12345}}).raise_for_status()
        minted = page.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]}).raise_for_status().json()
        key = {"authorization": f"Bearer {minted['key']}"}
        near = page.post("/v1/ask", json={"question": NEAR}, headers=key).raise_for_status().json()
        far = page.post("/v1/ask", json={"question": FAR}, headers=key).raise_for_status().json()
        assert (near["refused"], near["groundedness"], near["answer"]) == (False, 1.0, f"{SENTENCE} [1]")
        assert (far["refused"], far["groundedness"], far["answer"], far["citations"]) == (True, None, NOT_FOUND, [])
        assert far["similarity"] < 0.3 < near["similarity"]
        page.post("/v1/ask", json={"question": NEAR, "tenant": "acme"}).raise_for_status()
        bounds = [body["headrace"] for body in server.asked("chat/completions")]
        assert [(one["tenant"], one["kv_cache_bytes"]) for one in bounds] == [("acme", 12345)] * 2
        salts = {body["cache_salt"] for body in server.asked("chat/completions")}
        assert len(salts) == 1, "one tenant, no readers"
        page.post("/v1/tenants", json={"name": "globex"}).raise_for_status()
        for body in ({"question": NEAR, "cache_salt": "mine"}, {"question": NEAR, "cache_salt": "mine", "tenant": "acme"}):
            page.post("/v1/ask", json=body)
        chat = {"messages": [{"role": "user", "content": NEAR}], "model": "headrace", "cache_salt": "mine"}
        page.post("/v1/chat/completions", json=chat, headers=key)
        assert "mine" not in {body["cache_salt"] for body in server.asked("chat/completions")}, "no caller sets it"
        assert all(body["headrace"]["documents"] for body in server.asked("chat/completions"))
        page.put("/v1/tenants/acme/quotas", json={"quotas": {}}).raise_for_status()
        page.post("/v1/ask", json={"question": NEAR, "tenant": "acme"}).raise_for_status()
        assert server.asked("chat/completions")[-1]["headrace"]["kv_cache_bytes"] == app.settings.limits.kv_cache_bytes

        def down(path: str, body: dict[str, Any]) -> Response:
            return refused(503, "unavailable", "its storage is away") if path.endswith("/ranking") else voices(path, body)

        server.answer = down
        for route in ("/v1/ask", "/v1/search"):
            told = page.post(route, json={"question": NEAR, "tenant": "acme"}).raise_for_status().json()
            assert told["note"].startswith("the re-ranker did not answer, so retrieval order is kept: ")
            assert [passage["rerank_rank"] for passage in told["passages"]] == [None] * len(told["passages"])
            tenants = page.post(route, json={"question": NEAR}, headers=key).raise_for_status().json()
            assert tenants["note"] == "the re-ranker did not answer, so retrieval order is kept", "why, is not a tenant's to know"
