"""Preparing: whose verdict counts, and splits through which nothing leaks."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import FEEDBACK_ROWS, INTERACTION_ROWS
from headrace.training.prepare import (
    _PAIRS,
    TEST,
    TRAIN,
    TUNE,
    Judge,
    _complete,
    _judged,
    _newest,
    _parquet,
    _splits,
    dataset_version,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def answer(
    answer_id: str, question: str, chunks: str, *, cited: str = "", offset: int = 0, tenant: str = "acme"
) -> dict[str, Any]:
    passages = [
        {
            "chunk_id": c,
            "document": f"{c}.md",
            "retrieval_score": 1.0 / rank,
            "retrieval_rank": rank,
            "rerank_score": None,
            "rerank_rank": None,
            "cited": c in cited,
        }
        for rank, c in enumerate(chunks, 1)
    ]
    filled: dict[str, Any] = {"simulated": True, "at": START, "partition": 0, "offset": offset, "topic": "interactions"}
    for field in INTERACTION_ROWS.columns:
        filled.setdefault(field.name, None if field.nullable else [] if pa.types.is_list(field.type) else "")
    return {**filled, "answer_id": answer_id, "tenant": tenant, "question": question, "passages": passages}


def verdict(answer_id: str, up: bool, chunk_id: str = "", *, minute: int = 0, offset: int = 0, name: str = "") -> dict[str, Any]:
    filled: dict[str, Any] = {"simulated": True, "partition": 0, "offset": offset, "topic": "feedback", "tenant": "acme"}
    for field in FEEDBACK_ROWS.columns:
        filled.setdefault(field.name, None if field.nullable else "")
    return {
        **filled,
        "verdict_id": name or f"{answer_id}/{chunk_id}/{offset}",
        "answer_id": answer_id,
        "up": up,
        "chunk_id": chunk_id,
        "at": START + timedelta(minutes=minute),
    }


def judged(answers: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> list[pa.RecordBatch]:
    return list(
        _judged(
            pa.Table.from_pylist(answers, schema=INTERACTION_ROWS.columns),
            pa.Table.from_pylist(verdicts, schema=FEEDBACK_ROWS.columns),
        )
    )


def pairs(answers: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> pa.Table:
    return _newest(pa.Table.from_batches([Judge()(rows) for rows in judged(answers, verdicts)], _PAIRS))


def labels(table: pa.Table) -> dict[str, float]:
    return dict(zip(table["chunk_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_a_verdict_on_a_passage_labels_that_passage_only() -> None:
    assert labels(pairs([answer("1", "q", "abc")], [verdict("1", True, "b"), verdict("1", False, "a", offset=1)])) == {
        "b": 1.0,
        "a": 0.0,
    }


def test_a_verdict_on_the_answer_labels_what_it_cites() -> None:
    assert labels(pairs([answer("1", "q", "abc", cited="ac")], [verdict("1", False)])) == {"a": 0.0, "c": 0.0}


def test_a_verdict_on_a_passage_counts_before_one_on_the_answer() -> None:
    verdicts = [verdict("1", True, "a", minute=0), verdict("1", False, minute=9, offset=1)]
    assert labels(pairs([answer("1", "q", "ab", cited="ab")], verdicts)) == {"a": 1.0, "b": 0.0}


def test_the_newest_verdict_wins_in_whatever_order_they_came() -> None:
    early, late = verdict("1", True, "a", minute=1, offset=7), verdict("1", False, "a", minute=2, offset=3)
    for order in ([early, late], [late, early]):
        table = pairs([answer("1", "q", "a", offset=5)], order)
        assert labels(table) == {"a": 0.0}
        assert table["origins"].to_pylist() == [["interactions/0/5", "feedback/0/7", "feedback/0/3"]]


def test_the_newest_answer_to_the_same_question_wins() -> None:
    answers = [answer("1", "q", "ab", offset=0), answer("2", "q", "a", offset=1)]
    table = pairs(answers[::-1], [verdict("1", True, "a"), verdict("1", True, "b", offset=1), verdict("2", False, "a", offset=2)])
    assert labels(table) == {"a": 0.0, "b": 1.0}
    assert table.num_rows == 2


def test_tenants_do_not_share_an_example() -> None:
    answers = [answer("1", "q", "a"), answer("2", "q", "a", offset=1, tenant="apex")]
    table = pairs(answers, [verdict("1", True, "a"), verdict("2", False, "a", offset=1)])
    assert sorted(zip(table["tenant"].to_pylist(), table["label"].to_pylist(), strict=True)) == [("acme", 1.0), ("apex", 0.0)]


def test_what_the_head_delivered_twice_counts_once() -> None:
    once = pairs([answer("1", "q", "ab")], [verdict("1", True, "a", name="v")])
    twice = pairs(
        [answer("1", "q", "ab"), answer("1", "q", "ab", offset=1)],
        [verdict("1", True, "a", name="v"), verdict("1", True, "a", name="v")],
    )
    assert twice == once


def test_answers_nobody_judged_and_verdicts_on_nothing_teach_nothing() -> None:
    assert judged([answer("1", "q", "a")], [verdict("2", True, "a")]) == []
    assert pairs([answer("1", "q", "a")], [verdict("1", True, "z")]).num_rows == 0


def test_judging_in_batches_of_any_size_gives_the_same_pairs() -> None:
    answers = [answer(str(n), f"q{n}", "abc", offset=n) for n in range(7)]
    verdicts = [verdict(str(n), n % 2 == 0, "b", offset=n) for n in range(7)]
    (rows,) = judged(answers, verdicts)
    one = pa.Table.from_batches([Judge()(rows)])
    assert pa.Table.from_batches([Judge()(rows.slice(n, 2)) for n in range(0, 7, 2)]).equals(one)
    assert one["answer_id"].to_pylist() == [str(n) for n in range(7)]


def table_of(liked: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Pairs in which each question likes chunks of the named documents; a chunk is named after its document."""
    return [{"question": q, "chunk_id": document, "label": 1.0} for q, documents in liked.items() for document in documents]


QUESTIONS = st.dictionaries(
    st.integers(0, 200).map("q{}".format),
    st.lists(st.integers(0, 30).map("d{}".format), min_size=1, max_size=3, unique=True),
    min_size=1,
    max_size=60,
)


@given(QUESTIONS, st.integers(0, 5))
def test_no_document_a_question_is_about_is_in_two_splits(liked: dict[str, list[str]], seed: int) -> None:
    rows = table_of(liked)
    splits = _splits(rows, {row["chunk_id"]: row["chunk_id"] for row in rows}, seed)
    assert set(splits) == set(liked)
    assert set(splits.values()) <= {TRAIN, TUNE, TEST}
    first = {q: min(documents) for q, documents in liked.items()}
    if len(set(first.values())) >= 8:
        seen: dict[str, set[str]] = defaultdict(set)
        for question, document in first.items():
            seen[document].add(splits[question])
        assert all(len(found) == 1 for found in seen.values())
    assert _splits(rows[::-1], {row["chunk_id"]: row["chunk_id"] for row in rows}, seed) == splits


def test_shares_are_near_60_15_25() -> None:
    rows = table_of({f"q{n}": [f"d{n % 100}"] for n in range(400)})
    by_question = _splits(rows, {row["chunk_id"]: row["chunk_id"] for row in rows}, 17)
    splits = list(by_question.values())
    assert 92 <= splits.count(TEST) <= 108
    assert 52 <= splits.count(TUNE) <= 68
    assert _splits(rows, {row["chunk_id"]: row["chunk_id"] for row in rows}, 18) != by_question


def test_few_documents_still_give_every_split() -> None:
    rows = table_of({f"q{n}": [f"d{n % 2}"] for n in range(20)})
    assert set(_splits(rows, {"d0": "d0", "d1": "d1"}, 17).values()) == {TRAIN, TUNE, TEST}


def test_a_passage_forgotten_meanwhile_is_left_out() -> None:
    table = pairs([answer("1", "q", "ab")], [verdict("1", True, "a"), verdict("1", False, "b", offset=1)])
    chunks = pa.table({"chunk_id": ["a"], "document_id": ["d"], "text": ["text of a"]})
    rows = _complete(table, chunks, "v", 17)
    assert [(r["chunk_id"], r["passage"], r["dataset"]) for r in rows.to_pylist()] == [("a", "text of a", "v")]


def test_the_same_examples_give_the_same_bytes_in_whatever_order_they_came() -> None:
    answers = [answer(str(n), f"q{n}", "abc", offset=n) for n in range(12)]
    verdicts = [verdict(str(n), c == "a", c, offset=3 * n + i) for n in range(12) for i, c in enumerate("abc")]
    chunks = pa.table({"chunk_id": ["a", "b", "c"], "document_id": ["1", "2", "3"], "text": ["A", "B", "C"]})
    one = _complete(pairs(answers, verdicts), chunks, "v", 17)
    other = _complete(pairs(answers[::-1], verdicts[::-1]), chunks.take([2, 0, 1]), "v", 17)
    assert _parquet(one) == _parquet(other)
    assert one.num_rows == 36
    assert pc.sum(one["label"]).as_py() == 12


def test_a_datasets_name_says_what_it_was_made_from() -> None:
    name = dataset_version({"interactions": 1, "feedback": 2}, 17)
    assert name == dataset_version(json.loads('{"feedback": 2, "interactions": 1}'), 17)
    assert (
        len(
            {
                name,
                dataset_version({"interactions": 1, "feedback": 3}, 17),
                dataset_version({"interactions": 1, "feedback": 2}, 18),
            }
        )
        == 3
    )


def test_a_verdict_that_came_before_its_answer_counts_once_the_answer_is_there() -> None:
    early = [verdict("a1", True, "x")]
    assert judged([], early) == []
    assert len(pairs([answer("a1", "q", "xy")], early)) == 1
