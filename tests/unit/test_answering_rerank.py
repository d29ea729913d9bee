"""The order of the passages: whose it is, whether a re-ranker answers, answers late, or is none of Headrace's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from model_endpoint import Answer, Server, rankings, refused, said, served
from obstore.store import MemoryStore

from headrace.answering.rerank import Reranked
from headrace.answering.rerank import rerank as stage
from headrace.catalog import MODELS
from headrace.errors import RequestRefused
from headrace.models.client import Reranker
from headrace.models.pointer import Canary, ChampionPointer, pointer_key
from headrace.models.ranking import of_retrieval_weight
from headrace.models.served_ranking import RankingReader
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction, Ledger
from headrace.storage.meter import Meter
from headrace.storage.objects import ObjectWriter
from headrace.storage.vectors.search import Hit

SCORES = {"a": 3.0, "b": 2.0, "c": 1.0}
HITS = tuple(
    Hit(name, f"d{name}", "v", f"{name}.md", "", f"text {name}", score, retrieval_share=score / 3.0)
    for name, score in SCORES.items()
)
STORAGE = Endpoints.model_construct(s3_endpoint="memory:", bucket="")
FALLS, RISES = (2.0, 1.0, 0.0), (0.0, 1.0, 2.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> ObjectWriter:
    """The store of models, in memory."""
    memory = MemoryStore()
    monkeypatch.setattr("headrace.storage.objects.connect", lambda *_: memory)
    return ObjectWriter(MODELS, STORAGE, Meter(Ledger(), "test"))


def rerank(reranker: Reranker, hits: tuple[Hit, ...] = HITS, *, ledger: Ledger | None = None, answer_id: str = "") -> Reranked:
    reader = RankingReader(MODELS, STORAGE, Meter(ledger or Ledger(), "rerank", "acme"))
    return stage(reader, "why?", hits, reranker, answer_id)


def order(found: Reranked) -> str:
    return "".join(passage.hit.chunk_id for passage in found.passages)


def as_retrieved(found: Reranked) -> bool:
    """Whether the passages are in retrieval's order and no re-ranker has a word in it."""
    ranks = [(passage.retrieval_rank, passage.rerank_score, passage.rerank_rank) for passage in found.passages]
    return order(found) == "abc" and ranks == [(1, None, None), (2, None, None), (3, None, None)]


def test_a_foreign_reranker_without_a_weight_has_the_whole_say(server: Server) -> None:
    server.answer = lambda path, body: rankings(*RISES, model="theirs-1")
    found = rerank(server.reranker())
    assert order(found) == "cba"
    assert [(p.retrieval_rank, p.rerank_score, p.rerank_rank) for p in found.passages] == [(3, 2.0, 1), (2, 1.0, 2), (1, 0.0, 3)]
    assert (found.model_version, found.note) == ("theirs-1", "")


@pytest.mark.parametrize(
    ("weight", "logits", "wanted"),
    [
        (0.0, RISES, "cba"),
        (0.4, RISES, "cba"),
        (0.5, RISES, "abc"),  # as much for as against: retrieval's order
        (0.6, RISES, "abc"),
        (1.0, RISES, "abc"),
        (0.5, (0.0, 5.0, 0.0), "bac"),
        (0.0, (1.0, 1.0, 1.0), "abc"),
    ],
)
def test_a_reranker_of_before_is_weighed_with_retrieval_as_its_card_says(
    server: Server, weight: float, logits: tuple[float, ...], wanted: str
) -> None:
    extras = {"version": "v000002", "ranking": of_retrieval_weight(weight).model_dump()}
    server.answer = lambda path, body: rankings(*logits, headrace=extras)
    found = rerank(server.reranker(), answer_id="4e1f")
    assert order(found) == wanted
    assert found.model_version == "v000002"
    assert [passage.rerank_rank for passage in found.passages] == [1, 2, 3]
    assert {p.hit.chunk_id: p.rerank_score for p in found.passages} == dict(zip("abc", logits, strict=True))
    (body,) = server.asked("ranking")
    assert (body["headrace"], body["passages"][2]) == ({"answer_id": "4e1f"}, {"text": "text c"})


def down(path: str, body: dict[str, Any]) -> Answer:
    return refused(503, "unavailable", "its storage is away")


def broken(path: str, body: dict[str, Any]) -> Answer:
    return said(500, {"detail": "out of memory"})


@pytest.mark.parametrize(("answer", "why"), [(down, "its storage is away"), (broken, "out of memory")])
def test_a_reranker_that_fails_leaves_retrievals_order_and_says_so(server: Server, answer: Any, why: str) -> None:
    server.answer = answer
    found = rerank(server.reranker())
    assert as_retrieved(found)
    assert found.model_version == "none"
    assert found.note.startswith("the re-ranker did not answer, so retrieval order is kept: ")
    assert why in found.note


def test_a_reranker_that_is_not_there_leaves_retrievals_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.models.connection._BACKOFF_S", 0.001)
    found = rerank(server.reranker(url="http://127.0.0.1:1/v1"))
    assert as_retrieved(found)
    assert "http://127.0.0.1:1/v1/ranking cannot be reached" in found.note


def test_a_reranker_that_is_slow_leaves_retrievals_order_and_says_so(server: Server) -> None:
    over = threading.Event()
    server.answer = lambda path, body: rankings(*RISES) if over.wait(20) else broken(path, body)
    found = rerank(server.reranker(timeout_s=0.2))
    assert not over.is_set()
    over.set()
    assert as_retrieved(found)
    assert "did not answer within 0.2 s" in found.note


def test_a_reranker_that_is_set_up_wrongly_is_no_reason_to_do_without(server: Server) -> None:
    server.answer = lambda path, body: refused(401, "invalid_api_key", "wrong key")
    with pytest.raises(RequestRefused, match="wrong key"):
        rerank(server.reranker())


def test_before_the_first_promotion_retrievals_order_needs_no_note(server: Server) -> None:
    server.answer = lambda path, body: refused(404, "no_champion", "no champion yet")
    found = rerank(server.reranker())
    assert as_retrieved(found)
    assert (found.model_version, found.note) == ("none", "")


def test_nothing_found_asks_nobody(server: Server) -> None:
    assert rerank(server.reranker(), ()) == Reranked((), "none")
    assert server.seen == []


def test_what_the_reranker_read_is_in_the_ledger_of_the_stage(server: Server) -> None:
    theirs, ours = Ledger(), Ledger()
    theirs.count("models", MODELS, Direction.READ, bytes=7, seconds=0.5)
    server.answer = lambda path, body: rankings(*FALLS, headrace={"version": "v000002", "storage": theirs.export()})
    rerank(server.reranker(), ledger=ours)
    (row,) = ours.rows()
    # Beside what the server read, a look at the pointer of the ranking, which is not there.
    assert (row.stage, row.store, row.tenant, row.ops, row.bytes) == ("rerank", "models", "acme", 2, 7)


# with a ranking

BACKWARDS = {"rank": -1.0}


def ranked(models: ObjectWriter, version: str, weights: dict[str, float], reranker: str = "none") -> None:
    file = {"name": "ranking.json", "bytes": 1, "sha256": "0" * 64}
    card = {"version": version, "round": 1, "files": [file], "ranking": {"reranker": reranker, "weights": weights}}
    models.put(f"ranking/{version}/card.json", json.dumps(card).encode())


def points(models: ObjectWriter, version: str, canary: Canary | None = None) -> ChampionPointer:
    pointer = ChampionPointer(model="ranking", version=version, canary=canary)
    models.put(pointer_key("ranking"), pointer.model_dump_json().encode())
    return pointer


def nobody(path: str, body: dict[str, Any]) -> Answer:
    return refused(404, "no_champion", "no champion yet")


def test_a_ranking_orders_passages_that_no_reranker_scored(server: Server, models: ObjectWriter) -> None:
    server.answer = nobody
    ranked(models, "v000003", BACKWARDS)
    points(models, "v000003")
    found = rerank(server.reranker())
    assert order(found) == "cba"
    assert [(p.retrieval_rank, p.rerank_score, p.rerank_rank) for p in found.passages] == [
        (3, None, 1),
        (2, None, 2),
        (1, None, 3),
    ]
    assert (found.model_version, found.ranking_version, found.note) == ("none", "v000003", "")


@pytest.mark.parametrize(
    ("fitted", "ranks", "version"), [("v000002", "cba", "v000003"), ("v000001", "abc", "none"), ("none", "abc", "none")]
)
def test_a_ranking_counts_for_the_reranker_that_it_was_fitted_with(
    server: Server, models: ObjectWriter, fitted: str, ranks: str, version: str
) -> None:
    """Another one's logits mean something else: its own card says how they are weighed."""
    server.answer = lambda path, body: rankings(
        *FALLS, headrace={"version": "v000002", "ranking": {"weights": {"reranker": 1.0}}}
    )
    ranked(models, "v000003", {"reranker": -1.0}, fitted)
    points(models, "v000003")
    found = rerank(server.reranker())
    assert (order(found), found.model_version, found.ranking_version) == (ranks, "v000002", version)


def test_a_canary_of_the_ranking_picks_every_other_passage_of_its_share_of_the_answers(
    server: Server, models: ObjectWriter
) -> None:
    server.answer = nobody
    ranked(models, "v000003", {"rank": 1.0})
    ranked(models, "v000004", BACKWARDS)
    canary = Canary(version="v000004", share=0.5, round=4, since="2026-01-01T00:00:00+00:00", why="better")
    pointer = points(models, "v000003", canary)
    reader = RankingReader(MODELS, STORAGE, Meter(Ledger(), "rerank"))
    found = {name: stage(reader, "why?", HITS, server.reranker(), name) for name in map(str, range(24))}
    assert {name: one.ranking_version for name, one in found.items()} == {name: pointer.served(name) for name in found}
    teams = {(one.ranking_version, order(one), *(passage.team for passage in one.passages[:2])) for one in found.values()}
    assert teams == {
        ("v000003", "abc", "", ""),
        ("v000004", "acb", "champion", "challenger"),
        ("v000004", "cab", "challenger", "champion"),
    }
    assert all([p.rerank_rank for p in one.passages] == [1, 2, 3] for one in found.values())


def test_a_first_ranking_is_interleaved_with_retrievals_order(server: Server, models: ObjectWriter) -> None:
    server.answer = nobody
    ranked(models, "v000004", BACKWARDS)
    points(models, "none", Canary(version="v000004", share=1.0, round=4, since="2026-01-01T00:00:00+00:00", why="better"))
    found = [rerank(server.reranker(), answer_id=str(n)) for n in range(12)]
    assert {order(one) for one in found} == {"acb", "cab"}
    assert all(one.ranking_version == "v000004" for one in found)


@pytest.mark.parametrize("card", [b"?", b"{}"])
def test_a_ranking_that_cannot_be_read_leaves_retrievals_order_and_says_so(
    server: Server, models: ObjectWriter, card: bytes
) -> None:
    server.answer = nobody
    points(models, "v000003")
    models.put("ranking/v000003/card.json", card)
    found = rerank(server.reranker())
    assert as_retrieved(found)
    assert found.note.startswith("the ranking cannot be read, so retrieval order is kept: ")
    assert "ranking/v000003/card.json" in found.note


def test_a_ranking_with_a_feature_that_nobody_knows_is_not_guessed_at(server: Server, models: ObjectWriter) -> None:
    """Released by a newer Headrace than the one that answers."""
    server.answer = nobody
    ranked(models, "v000003", {"rank": -1.0, "beauty": 1.0})
    points(models, "v000003")
    found = rerank(server.reranker())
    assert as_retrieved(found)
    assert "this Headrace knows no feature beauty" in found.note
