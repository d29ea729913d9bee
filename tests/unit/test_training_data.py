"""Preparing: whose verdict counts, what becomes of it, and that the same tables give the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.catalog import CHUNK_ROWS, DOCUMENT_ROWS, EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS, Store
from headrace.core.launch import Threads
from headrace.errors import WrongUsage
from headrace.settings import Preparing
from headrace.training.cutoff import NOTHING, Exclusions
from headrace.training.data import dataset_version
from headrace.training.data.dataset import TEST, TRAIN, TUNE, parquet
from headrace.training.data.examples import SPLITS, Examples, make
from headrace.training.data.source import Source
from headrace.training.data.text import normal

ANY = Preparing(shortest_question=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def row(store: Store, **given: Any) -> dict[str, Any]:
    """A row of a table; what is not given is null, or empty where it must not be."""
    filled: dict[str, Any] = {"simulated": False, "at": START, "partition": 0, "topic": store.name, "position": 0, "bytes": 0}
    for field in store.columns:
        filled.setdefault(field.name, None if field.nullable else [] if pa.types.is_list(field.type) else "")
    return {name: {**filled, **given}[name] for name in store.columns.names}


def answer(answer_id: str, question: str, chunks: str, *, cited: str = "", **given: Any) -> dict[str, Any]:
    """An answer from passages that are named by a letter each; a search unless it says something."""
    passages = [
        {
            "chunk_id": chunk,
            "document": f"{chunk}.md",
            "retrieval_score": 1.0 / rank,
            "retrieval_rank": rank,
            "rerank_score": None,
            "rerank_rank": None,
            "cited": chunk in cited,
        }
        for rank, chunk in enumerate(chunks, 1)
    ]
    said = {"kind": "answer", "generator_version": "SmolLM2-135M"} if "answer" in given else {"kind": "search"}
    filled = {"offset": 0, "tenant": "acme", "user": "ann", "generator_version": "none", **said, **given}
    return row(INTERACTION_ROWS, answer_id=answer_id, question=question, passages=passages, **filled)


def verdict(answer_id: str, up: bool, chunk_id: str = "", *, minute: int = 0, offset: int = 0, **given: Any) -> dict[str, Any]:
    filled = {"verdict_id": f"{answer_id}/{chunk_id}/{offset}", "tenant": "acme", "user": "ann", "offset": offset, **given}
    at = START + timedelta(minutes=minute)
    return row(FEEDBACK_ROWS, answer_id=answer_id, up=up, chunk_id=chunk_id, at=at, **filled)


def chunk(name: str, document: str = "", **given: Any) -> dict[str, Any]:
    filled = {"tenant": "acme", "offset": 0, "topic": "document-events", "text": f"text of {name}", **given}
    return row(CHUNK_ROWS, chunk_id=name, document_id=document or f"d{name}", **filled)


@dataclass
class Held:
    """A table in memory, in as many batches as asked for."""

    store: Store
    rows: Sequence[Mapping[str, Any]]
    pieces: int = 1

    def scan(self, columns: tuple[str, ...], *, snapshot: int | None = None) -> Iterator[pa.RecordBatch]:
        table = pa.Table.from_pylist(list(self.rows), self.store.columns)
        names = table.column_names if columns == ("*",) else list(columns)
        size = max(1, -(-table.num_rows // self.pieces))
        yield from table.select(names).to_batches(max_chunksize=size)


def made(
    answers: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Mapping[str, Any]],
    chunks: Sequence[Mapping[str, Any]] | None = None,
    *,
    documents: Sequence[Mapping[str, Any]] = (),
    settings: Preparing = ANY,
    exclusions: Exclusions = NOTHING,
    history: Sequence[str] = ("none",),
    pieces: int = 1,
) -> Examples:
    if chunks is None:
        chunks = [chunk(name) for name in "abcdefgh"]
    source = Source(
        Held(INTERACTION_ROWS, answers, pieces),
        Held(FEEDBACK_ROWS, verdicts, pieces),
        Held(DOCUMENT_ROWS, documents, pieces),
        Held(CHUNK_ROWS, chunks, pieces),
        {"interactions": 1, "feedback": 1},
    )
    return make(source, Threads(), "v", 17, settings, exclusions, history)


def rows(examples: Examples, kind: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = examples.rows(0, examples.chosen.num_rows).to_pylist()
    return [row for row in found if kind in ("", row["kind"])]


def labels(examples: Examples) -> dict[str, float]:
    return {row["chunk_id"]: row["label"] for row in rows(examples, "passage")}


# passages


def test_a_verdict_on_a_passage_labels_that_passage_only() -> None:
    examples = made([answer("1", "q", "abc")], [verdict("1", True, "b"), verdict("1", False, "a", offset=1)])
    assert labels(examples) == {"b": 1.0, "a": 0.0}
    (first, second) = rows(examples)
    assert (first["chunk_id"], first["passage"], first["document_id"]) == ("a", "text of a", "da")
    assert (first["retrieval_score"], first["retrieval_rank"]) == (1.0, 1)
    assert second["origins"] == ["interactions/0/0", "feedback/0/0"]
    assert (second["user"], second["users"], second["simulated"], second["dataset"]) == ("ann", ["ann"], False, "v")
    assert all(second[name] is None for name in ("answer", "target", "prompt", "completion", "logprobs", "passages", "staleness"))


def test_a_verdict_on_the_answer_labels_what_it_cites() -> None:
    assert labels(made([answer("1", "q", "abc", cited="ac")], [verdict("1", False)])) == {"a": 0.0, "c": 0.0}


def test_a_verdict_on_a_passage_counts_before_one_on_the_answer() -> None:
    verdicts = [verdict("1", True, "a", minute=0), verdict("1", False, minute=9, offset=1)]
    assert labels(made([answer("1", "q", "ab", cited="ab")], verdicts)) == {"a": 1.0, "b": 0.0}
    only_a = made([answer("1", "q", "ab", cited="a")], verdicts)
    assert labels(only_a) == {"a": 1.0}
    assert only_a.left_out == {"verdict: outweighed by one on the passage": 1}


def test_the_newest_verdict_wins_in_whatever_order_they_came_and_all_are_named() -> None:
    early, late = verdict("1", True, "a", minute=1, offset=7), verdict("1", False, "a", minute=2, offset=3)
    for order in ([early, late], [late, early]):
        examples = made([answer("1", "q", "a", offset=5)], order)
        assert labels(examples) == {"a": 0.0}
        assert rows(examples)[0]["origins"] == ["interactions/0/5", "feedback/0/7", "feedback/0/3"]
        assert examples.left_out == {"verdict: superseded by a newer one": 1}


def test_of_several_users_the_newest_of_each_counts_and_the_majority_decides() -> None:
    verdicts = [
        verdict("1", True, "a", minute=0, offset=0, user="ann"),
        verdict("1", False, "a", minute=1, offset=1, user="ann"),
        verdict("1", True, "a", minute=2, offset=2, user="bob"),
        verdict("1", True, "a", minute=3, offset=3, user="eve"),
    ]
    (one,) = rows(made([answer("1", "q", "a")], verdicts))
    assert (one["label"], one["user"], one["users"]) == (1.0, "eve", ["ann", "bob", "eve"])
    assert one["origins"] == ["interactions/0/0", *(f"feedback/0/{n}" for n in range(4))]
    tied = made([answer("1", "q", "a")], verdicts[:3])
    assert rows(tied) == []
    assert tied.left_out == {"passage: tied": 1, "verdict: superseded by a newer one": 1}


def test_one_user_who_asks_again_and_again_has_one_voice() -> None:
    answers = [answer(str(n), "Which weir?", "a", offset=n, user="eve") for n in range(9)]
    verdicts = [verdict(str(n), False, "a", offset=n, user="eve") for n in range(9)]
    answers += [answer("x", "which weir", "a", offset=20), answer("y", "which weir", "a", offset=21, user="bob")]
    verdicts += [verdict("x", True, "a", offset=20), verdict("y", True, "a", offset=21, user="bob")]
    examples = made(answers, verdicts)
    (one,) = rows(examples)
    assert (one["label"], one["users"], one["answer_id"], one["question"]) == (1.0, ["ann", "bob", "eve"], "y", "which weir")
    assert len(one["origins"]) == 22
    assert examples.left_out == {"passage: asked again": 10, "verdict: superseded by a newer one": 8}


def test_the_newest_answer_to_the_same_question_wins() -> None:
    answers = [answer("1", "q", "ab", offset=0), answer("2", "q", "ca", offset=1)]
    verdicts = [verdict("1", True, "a"), verdict("1", True, "b", offset=1), verdict("2", False, "a", offset=2)]
    examples = made(answers[::-1], verdicts)
    assert labels(examples) == {"a": 0.0, "b": 1.0}
    assert {row["chunk_id"]: (row["answer_id"], row["retrieval_rank"]) for row in rows(examples)} == {
        "a": ("2", 2),
        "b": ("1", 2),
    }


def test_tenants_share_neither_examples_nor_verdicts() -> None:
    answers = [answer("1", "q", "a"), answer("2", "q", "a", offset=1, tenant="apex")]
    verdicts = [verdict("1", True, "a"), verdict("2", False, "a", offset=1, tenant="apex")]
    examples = made(answers, [*verdicts, verdict("2", True, "a", offset=2, minute=5)])
    assert sorted((row["tenant"], row["label"]) for row in rows(examples)) == [("acme", 1.0), ("apex", 0.0)]
    assert len({row["example_id"] for row in rows(examples)}) == 2
    assert examples.left_out == {"verdict: of another tenant": 1}


def test_what_the_head_delivered_twice_counts_once() -> None:
    twice = made(
        [answer("1", "q", "ab", offset=1), answer("1", "q", "ab")],
        [verdict("1", True, "a", verdict_id="v", offset=9), verdict("1", True, "a", verdict_id="v", offset=4)],
    )
    assert [row["origins"] for row in rows(twice)] == [["interactions/0/0", "feedback/0/4"]]
    assert twice.left_out == {"interaction: delivered twice": 1, "verdict: delivered twice": 1}


def test_answers_nobody_judged_and_verdicts_on_nothing_teach_nothing() -> None:
    examples = made([answer("1", "q", "a")], [verdict("2", True, "a")])
    assert rows(examples) == []
    assert examples.left_out == {"interaction: without a verdict": 1, "verdict: without an answer": 1}
    assert made([answer("1", "q", "a")], [verdict("1", True, "z")]).left_out == {"verdict: on nothing that was shown": 1}
    assert rows(made([], [])) == []


def test_a_verdict_that_came_before_its_answer_counts_once_the_answer_is_there() -> None:
    early = [verdict("a1", True, "x")]
    assert rows(made([], early)) == []
    assert labels(made([answer("a1", "q", "xy", at=START + timedelta(days=9))], early, [chunk("x")])) == {"x": 1.0}


def test_a_passage_that_is_gone_is_left_out() -> None:
    verdicts = [verdict("1", True, "a"), verdict("1", False, "b", offset=1), verdict("1", False, "c", offset=2)]
    states = [("d2", "parsed"), ("d2", "deleted"), ("d3", "deleted"), ("d3", "parsed"), ("d3", "failed")]
    documents = [row(DOCUMENT_ROWS, document_id=name, status=to, offset=n) for n, (name, to) in enumerate(states)]
    chunks = [chunk("b", "d2"), chunk("c", "d3"), chunk("c", "d3", generation=2)]
    examples = made([answer("1", "q", "abc")], verdicts, chunks, documents=documents[::-1])
    assert labels(examples) == {"c": 0.0}
    assert examples.left_out == {"passage: passage forgotten": 1, "passage: document deleted": 1}


# whole answers

TOKENS: dict[str, Any] = {
    "prompt_tokens": [1, 2, 3],
    "completion_tokens": [4, 5],
    "logprobs": [-0.5, -0.25],
    "sampling": {"temperature": 0.5, "top_p": 1.0},
}


def test_an_answer_that_was_liked_or_corrected_says_what_should_be_said() -> None:
    given = [
        answer("1", "how many?", "ab", cited="b", answer="There are 308 points. [2]", **TOKENS),
        answer("2", "how few?", "ba", answer="Few.", offset=1, generator_version="v000012", **TOKENS),
        answer("3", "how old?", "ab", answer="Old.", offset=2),
    ]
    verdicts = [
        verdict("1", True),
        verdict("2", False, offset=1, correction=" Three [1]"),
        verdict("2", False, offset=2, user="bob", minute=3),
        verdict("3", False, offset=3),
    ]
    examples = made(given, verdicts, history=("none", "v000003", "v000012", "v000020"))
    found = {row["answer_id"]: row for row in rows(examples, "answer")}
    one, two, three = (found[name] for name in "123")
    assert (one["answer"], one["target"], one["label"]) == ("There are 308 points.", "There are 308 points.", 1.0)
    assert (one["prompt"], one["completion"], one["logprobs"]) == ([1, 2, 3], [4, 5], [-0.5, -0.25])
    assert one["sampling"] == {"temperature": 0.5, "top_p": 1.0}
    assert (one["chunk_id"], one["passage"], one["retrieval_rank"], one["retrieval_score"]) == ("", "", 0, 0.0)
    assert (one["passages"], one["document_id"]) == (["text of a", "text of b"], "db")
    assert (one["generator_version"], one["staleness"]) == ("none", 3)
    assert (two["answer"], two["target"], two["label"], two["users"]) == ("Few.", " Three", 0.0, ["ann", "bob"])
    assert (two["generator_version"], two["staleness"], two["passages"]) == ("v000012", 1, ["text of b", "text of a"])
    assert (three["target"], three["prompt"]) == (None, None)
    assert [row["chunk_id"] for row in rows(examples, "passage")] == ["b"]


def test_staleness_counts_from_the_last_time_a_version_was_served() -> None:
    versions = ["v000001", "v000002", "v000009", "SmolLM2", "none"]
    given = [
        answer(str(n), f"q{n}", "a", answer="yes", offset=n, generator_version=version, **(TOKENS if n < 4 else {}))
        for n, version in enumerate(versions)
    ]
    examples = made(given, [verdict(str(n), True, offset=n) for n in range(5)], history=("none", "v000001", "v000002", "v000001"))
    found = {row["answer_id"]: (row["generator_version"], row["staleness"]) for row in rows(examples, "answer")}
    # v000009 was tried and never served; the last answer no generator wrote.
    assert found == {"0": ("v000001", 0), "1": ("v000002", 1), "2": ("v000009", None), "3": ("none", 3), "4": (None, None)}


def test_the_same_answer_to_the_same_question_is_one_example_per_generator() -> None:
    given = [answer(str(n), "Who?", "a", answer="Ann.", offset=n, user=f"u{n}") for n in range(3)]
    given += [answer("new", "who", "a", answer="ann", offset=3, generator_version="v000002")]
    given += [answer("other", "who", "a", answer="Bob.", offset=4)]
    verdicts = [verdict(str(n), n > 0, offset=n, user=f"u{n}") for n in range(3)]
    verdicts += [verdict("new", False, offset=3), verdict("other", False, offset=4)]
    examples = made(given, verdicts)
    assert {(row["answer_id"], row["label"], len(row["origins"])) for row in rows(examples, "answer")} == {
        ("2", 1.0, 6),
        ("new", 0.0, 2),
        ("other", 0.0, 2),
    }
    assert examples.left_out["answer: said again"] == 2


def test_answers_that_say_nothing_are_left_out_unless_corrected() -> None:
    said = ["", "That is not in these documents.", "I don’t know.", "I know.", "I cannot say."]
    given = [answer(str(n), f"q{n}", "a", answer=text, offset=n) for n, text in enumerate(said)]
    verdicts = [verdict(str(n), False, offset=n, correction="Three." if n == 4 else "  ") for n in range(5)]
    examples = made(given, verdicts)
    assert {row["answer_id"]: row["target"] for row in rows(examples)} == {"3": None, "4": "Three."}
    assert examples.left_out["answer: empty"] == 1
    assert examples.left_out["answer: refusal"] == 2


def test_an_answer_from_a_passage_that_is_gone_is_left_out_whole() -> None:
    given = [answer("1", "q", "az", answer="yes", **TOKENS)]
    examples = made(given, [verdict("1", True), verdict("1", True, "a", offset=1)])
    assert [row["kind"] for row in rows(examples)] == ["passage"]
    assert examples.left_out == {"answer: passage forgotten": 1}


@pytest.mark.parametrize("up", [True, False])
def test_an_example_is_of_the_user_whose_newest_verdict_counts_and_agrees(up: bool) -> None:
    verdicts = [
        verdict("1", up, "a", minute=0, offset=0, user="ann"),
        verdict("1", up, "a", minute=1, offset=1, user="bob"),
        verdict("1", up, "a", minute=2, offset=2, user="cid", simulated=True),
        verdict("1", not up, "a", minute=3, offset=3, user="cid"),
    ]
    (one,) = rows(made([answer("1", "q", "a")], verdicts, settings=Preparing(shortest_question=1, simulated=True)))
    assert one["label"] == float(up)
    assert one["user"] == "bob", "what cid said first counts no more, and what cid says now is the contrary"
    assert not one["simulated"], "nor was it a simulated user whose verdict counts"
    assert one["users"] == ["ann", "bob", "cid"]


def test_a_correction_that_its_user_took_back_teaches_nothing() -> None:
    given = [answer("1", "q", "a", answer="Four.")]
    first = verdict("1", False, minute=0, offset=0, correction="Three.")
    (one,) = rows(made(given, [first]))
    assert one["target"] == "Three."
    (one,) = rows(made(given, [first, verdict("1", False, minute=1, offset=1)]))
    assert (one["target"], one["label"]) == (None, 0.0)


# what a question is about


@pytest.mark.parametrize(
    ("shown", "liked", "about"),
    [
        # The document of which most passages were liked, however often another was cited or found first.
        ([("ba", "b"), ("ba", "b"), ("ba", "b")], {"a": True}, "da"),
        ([("bcd", "")], {"b": True, "c": True, "d": True}, "dcd"),
        # Nothing liked: what the answers cite most, however often another was found first.
        ([("ba", "a"), ("ba", ""), ("ba", "")], {}, "da"),
        ([("bac", "b"), ("bac", "a"), ("bac", "a")], {"b": False}, "da"),
        # Nothing cited either: what was found first most often, and of equals the first by id.
        ([("ba", ""), ("ab", ""), ("ba", "")], {}, "db"),
        ([("ba", ""), ("ab", "")], {}, "da"),
    ],
)
def test_a_question_is_about_what_it_liked_else_cites_else_found_first(
    shown: list[tuple[str, str]], liked: dict[str, bool], about: str
) -> None:
    """A whole answer's example has the document that its question is about; by it the splits are kept apart."""
    chunks = [chunk(name, "dcd" if name in "cd" else "") for name in "abcd"]
    answers = [answer(str(n), "q", names, cited=cited, offset=n) for n, (names, cited) in enumerate(shown)]
    answers.append(answer("said", "q", "", answer="It is.", offset=50))
    verdicts = [verdict("0", up, name, offset=n) for n, (name, up) in enumerate(liked.items())]
    verdicts += [verdict(str(n), False, offset=20 + n) for n in range(len(shown))]  # an answer that nobody judged says nothing
    (whole,) = rows(made(answers, [*verdicts, verdict("said", True, offset=60)], chunks), "answer")
    assert whole["document_id"] == about


# personal data


def test_personal_data_is_replaced_and_tokens_that_hold_it_are_dropped() -> None:
    given = [
        answer("1", "Is ann@example.org right?", "a", answer="Yes.", **TOKENS),
        answer("2", "Who is it?", "a", answer="Call +49 30 901820 now.", offset=1, **TOKENS),
        answer("3", "Whose?", "a", answer="Hers.", offset=2, **TOKENS),
    ]
    verdicts = [verdict("1", True), verdict("2", True, offset=1), verdict("3", False, offset=2, correction="Of bob@example.org")]
    examples = made(given, verdicts)
    found = {row["answer_id"]: row for row in rows(examples, "answer")}
    assert [found[name]["question"] for name in "123"] == ["Is ⟨email⟩ right?", "Who is it?", "Whose?"]
    assert [found[name]["target"] for name in "123"] == ["Yes.", "Call ⟨phone⟩ now.", "Of ⟨email⟩"]
    for name in ("prompt", "completion", "logprobs"):
        assert [found[n][name] is None for n in "123"] == [True, True, False]
    assert examples.left_out == {"tokens: personal data": 2}
    assert examples.scrubbed == {"email": 2, "phone": 1}


# what is not to be learned from


def judged(count: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    names = "abcdef"
    answers = [answer(str(n), f"q{n}", names[n], offset=n, user=f"asker{n}") for n in range(count)]
    return answers, [verdict(str(n), True, names[n], offset=n, user=f"judge{n}") for n in range(count)]


def test_what_is_barred_is_left_out_by_origin_user_document_and_offset() -> None:
    suppressed = Exclusions(
        origins=frozenset({"feedback/0/0", "interactions/0/1"}),
        users=frozenset({("acme", "judge2"), ("other", "judge5")}),
        documents=frozenset({"dd"}),
        before={"feedback/0": 5, "feedback/1": 0},
    )
    examples = made(*judged(), exclusions=suppressed)
    assert set(labels(examples)) == {"e"}
    assert examples.left_out == {
        "verdict: suppressed": 2,
        "interaction: suppressed": 1,
        "verdict: answer left out": 1,
        "passage: document suppressed": 1,
        "verdict: after the bound": 1,
    }


def test_barring_one_delivery_bars_the_event_and_barring_who_asked_bars_the_verdicts_of_others() -> None:
    answers, verdicts = judged(2)
    again = {**verdicts[0], "offset": 50}
    suppressed = Exclusions(origins=frozenset({"feedback/0/50"}), users=frozenset({("acme", "asker1")}))
    examples = made(answers, [*verdicts, again], exclusions=suppressed)
    assert rows(examples) == []
    assert examples.left_out == {
        "verdict: suppressed": 1,
        "verdict: delivered twice": 1,
        "interaction: suppressed": 1,
        "verdict: answer left out": 1,
    }


def test_a_document_event_can_be_barred_and_be_behind_the_bound() -> None:
    chunks = [chunk(name, offset=n) for n, name in enumerate("abc")]
    suppressed = Exclusions(origins=frozenset({"document-events/0/1"}), before={"document-events/0": 2})
    examples = made(*judged(3), chunks, exclusions=suppressed)
    assert set(labels(examples)) == {"a"}
    assert examples.left_out == {"passage: document suppressed": 1, "passage: document after the bound": 1}


def test_an_answer_made_from_a_barred_document_is_left_out_whole() -> None:
    given = [answer("1", "q", "ab", cited="a", answer="yes")]
    examples = made(given, [verdict("1", True)], exclusions=Exclusions(documents=frozenset({"db"})))
    assert [(row["kind"], row["chunk_id"]) for row in rows(examples)] == [("passage", "a")]
    assert examples.left_out == {"answer: document suppressed": 1}


def test_a_tenant_that_did_not_opt_in_is_left_out_and_a_plan_says_which() -> None:
    answers, verdicts = judged(2)
    apart = Exclusions(tenants=frozenset({"acme"}))
    examples = made(answers, verdicts, exclusions=Exclusions.from_dict(apart.as_dict()))
    assert rows(examples) == []
    assert examples.left_out == {"interaction: tenant did not opt in": 2, "verdict: tenant did not opt in": 2}
    older = {name: value for name, value in apart.as_dict().items() if name != "tenants"}
    assert Exclusions.from_dict(older) == NOTHING


def test_all_verdicts_by_a_key_that_may_not_name_users_count_as_one_users() -> None:
    answers = [answer("1", "q one", "ab")]
    verdicts = [verdict("1", True, "a", offset=n, user=name, key=None) for n, name in enumerate(("ann", "bob"))]
    invented = [verdict("1", False, "a", minute=n, offset=n, user=f"simulated-{n}", key="k") for n in range(2, 6)]
    (one,) = rows(made(answers, [*verdicts, *invented]))
    assert (one["label"], one["users"]) == (1.0, ["ann", "bob", "k"])


@pytest.mark.parametrize(
    ("settings", "kept", "left_out"),
    [
        (Preparing(shortest_question=1, simulated=True), "abc", {"verdict: no consent": 1}),
        (Preparing(shortest_question=1, simulated=True, require_consent=True), "b", {"verdict: no consent": 3}),
        (Preparing(shortest_question=1), "ab", {"verdict: no consent": 1, "verdict: simulated user": 1}),
        (
            Preparing(shortest_question=1, opted_out=("acme",)),
            "",
            {"interaction: tenant opted out": 4, "verdict: tenant opted out": 4},
        ),
    ],
)
def test_consent_simulated_users_and_tenants_that_opted_out(settings: Preparing, kept: str, left_out: dict[str, int]) -> None:
    answers, verdicts = judged(4)
    for given, consent, simulated in zip(verdicts, (None, True, None, False), (False, False, True, False), strict=True):
        given |= {"consent": consent, "simulated": simulated}
    examples = made(answers, verdicts, settings=settings)
    assert "".join(sorted(labels(examples))) == kept
    assert examples.left_out == left_out
    assert [row["simulated"] for row in rows(examples) if row["chunk_id"] == "c"] == ([True] if "c" in kept else [])


def test_questions_that_ask_too_little_or_too_much_are_left_out() -> None:
    answers = [answer(str(n), question, "a", offset=n) for n, question in enumerate(["", "?!", "ab", "why?", "w" * 51])]
    settings = Preparing(shortest_question=3, longest_question=50)
    examples = made(answers, [verdict(str(n), True, "a", offset=n) for n in range(5)], settings=settings)
    assert [row["question"] for row in rows(examples)] == ["why?"]
    assert examples.left_out == {
        "interaction: question too short": 3,
        "interaction: question too long": 1,
        "verdict: answer left out": 4,
    }


def test_questions_of_the_evaluation_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    asked = ["How many tackles did Luke Kuechly register?", "Where did the team that won the game stay before it?"]
    lines = [json.dumps({"_id": str(n), "text": text}) for n, text in enumerate(asked)]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (tmp_path / "more.txt").write_text("Who was there?\n\n")
    questions = [
        "how many tackles did luke kuechly register",
        "how many tackles did luke kuechly registered",
        "Say: where did the team that won the game go?",
        "who was there",
        "How many sacks did Luke Kuechly have?",
    ]
    answers = [answer(str(n), question, "a", offset=n) for n, question in enumerate(questions)]
    verdicts = [verdict(str(n), True, "a", offset=n) for n in range(5)]
    settings = Preparing(evaluation=(str(folder), str(tmp_path / "more.txt")))
    examples = made(answers, verdicts, settings=settings)
    assert [row["question"] for row in rows(examples)] == [questions[4]]
    assert examples.left_out["interaction: question of the evaluation"] == 4
    (tmp_path / "more.txt").unlink()
    with pytest.raises(WrongUsage, match=r"more\.txt cannot be read"):
        made(answers, verdicts, settings=settings)


# bytes


def crowd(seed: int, count: int = 60) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Answers and searches of a few users about a few documents, judged often, late, twice and by several."""
    chance = random.Random(seed)
    chunks = [chunk(f"c{n}", f"d{n // 3}", offset=n) for n in range(60)]
    answers: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for n in range(count):
        names = [f"c{chance.randrange(60)}" for _ in range(3)]
        shown = answer(str(n), f"Where is thing {chance.randrange(count // 2)}?", "", offset=n, user=f"u{n % 5}")
        if chance.random() < 0.5:
            more = {"kind": "answer", "answer": f"At {chance.choice('xyz')}. [1]", "generator_version": "base", **TOKENS}
            shown |= {**more, "prompt_tokens": [n, n + 1]}
        shown["passages"] = [
            {
                "chunk_id": name,
                "document": name,
                "retrieval_score": chance.random(),
                "retrieval_rank": rank,
                "rerank_score": None,
                "rerank_rank": None,
                "cited": rank == 1,
            }
            for rank, name in enumerate(dict.fromkeys(names), 1)
        ]
        shown["at"] = START + timedelta(minutes=chance.randrange(9))
        answers.append(shown)
        if chance.random() < 0.1:
            answers.append({**shown, "offset": count + n})
        for _ in range(chance.randrange(5)):
            about = chance.choice(["", *names])
            given = verdict(str(n), chance.random() < 0.6, about, minute=chance.randrange(5), offset=len(verdicts))
            verdicts.append({**given, "user": f"u{chance.randrange(4)}", "correction": chance.choice(["", "", "there"])})
    return answers, verdicts, chunks


def shards(examples: Examples) -> list[str]:
    return [hashlib.sha256(parquet(examples.rows(*examples.bounds(split)).combine_chunks())).hexdigest() for split in SPLITS]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_rows_give_the_same_bytes_in_whatever_order_and_files_they_lie(seed: int) -> None:
    tables = crowd(seed)
    one = made(*tables)
    assert {row["kind"] for row in rows(one)} == {"passage", "answer"}
    assert {row["split"] for row in rows(one)} == {TRAIN, TUNE, TEST}
    for pieces in (1, 7):
        for table in tables:
            random.Random(pieces).shuffle(table)
        other = made(*tables, pieces=pieces)
        assert shards(other) == shards(one)
        assert (other.left_out, other.questions) == (one.left_out, one.questions)


def counted_by_hand(
    answers: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], tuple[float, set[str]]]:
    """(question, chunk or what was said) → label and origins, one loop at a time."""
    direct: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    cited: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    asked: dict[str, Mapping[str, Any]] = {}
    for given in sorted(answers, key=lambda row: row["offset"]):
        asked.setdefault(given["answer_id"], given)
    for given in verdicts:
        answered = asked[given["answer_id"]]
        question = normal(answered["question"])
        for passage in answered["passages"]:
            if given["chunk_id"] == passage["chunk_id"]:
                direct.setdefault((question, passage["chunk_id"]), []).append(given)
            elif not given["chunk_id"] and passage["cited"]:
                cited.setdefault((question, passage["chunk_id"]), []).append(given)
        if answered["kind"] == "answer" and not given["chunk_id"]:
            direct.setdefault((question, normal(answered["answer"].removesuffix(" [1]"))), []).append(given)
    found = {}
    for key, about in {**cited, **direct}.items():
        newest = {row["user"]: row["up"] for row in sorted(about, key=lambda row: (row["at"], row["offset"]))}
        if balance := sum(1 if up else -1 for up in newest.values()):
            origins = {f"interactions/0/{asked[row['answer_id']]['offset']}" for row in about}
            found[key] = float(balance > 0), origins | {f"feedback/0/{row['offset']}" for row in about}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_labels_and_origins_are_those_counted_by_hand(seed: int) -> None:
    answers, verdicts, chunks = crowd(seed, 120)
    examples = made(answers, verdicts, chunks)
    found = {
        (normal(row["question"]), row["chunk_id"] or normal(row["answer"])): (row["label"], set(row["origins"]))
        for row in rows(examples)
    }
    assert found == counted_by_hand(answers, verdicts)
    assert len({row["example_id"] for row in rows(examples)}) == len(rows(examples)) == len(found)


def test_rows_are_in_the_schema_of_the_store_and_the_table_keeps_the_light_ones() -> None:
    examples = made(*crowd(1))
    whole, light = examples.rows(0, examples.chosen.num_rows), examples.lookup()
    assert whole.schema.equals(EXAMPLES.columns)
    assert light.schema.equals(EXAMPLES.columns)
    heavy = ["passages", "prompt", "completion", "logprobs", "sampling"]
    assert light.drop_columns(heavy).equals(whole.drop_columns(heavy))
    assert all(light[name].null_count == light.num_rows and whole[name].null_count < whole.num_rows for name in heavy)
    parts = [examples.rows(start, min(start + 7, whole.num_rows)) for start in range(0, whole.num_rows, 7)]
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())


# names


def test_a_datasets_name_says_what_it_was_made_from(tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Who?\nWhere?\n")
    (tmp_path / "same.jsonl").write_text('{"question": "where"}\n{"text": "who"}\n')
    snapshots = {"interactions": 1, "feedback": 2}
    held = Preparing(evaluation=(str(questions),))
    suppressed = Exclusions(users=frozenset({("acme", "eve")}))
    names = [
        dataset_version(snapshots, 17),
        dataset_version({"interactions": 1, "feedback": 3}, 17),
        dataset_version(snapshots, 18),
        dataset_version(snapshots, 17, Preparing(near_duplicate=0.7)),
        dataset_version(snapshots, 17, held),
        dataset_version(snapshots, 17, exclusions=suppressed),
        dataset_version(snapshots, 17, exclusions=replace(suppressed, before={"feedback/0": 9})),
        dataset_version(snapshots, 17, generator_history=("none", "v000002")),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == dataset_version(json.loads('{"feedback": 2, "interactions": 1}'), 17)
    assert names[4] == dataset_version(snapshots, 17, Preparing(evaluation=(str(tmp_path / "same.jsonl"),)))
    assert names[5] == dataset_version(snapshots, 17, exclusions=Exclusions.from_dict(suppressed.as_dict()))
    questions.write_text("Who?\n")
    assert names[4] != dataset_version(snapshots, 17, held)


def test_exclusions_come_back_from_json_as_they_were() -> None:
    suppressed = Exclusions(
        frozenset({"feedback/0/1"}),
        frozenset({("a", "x"), ("a", "b")}),
        frozenset({"d"}),
        {"feedback/0": 3, "a/1": 0},
        frozenset({"t"}),
    )
    assert Exclusions.from_dict(json.loads(json.dumps(suppressed.as_dict()))) == suppressed
    assert Exclusions.from_dict(NOTHING.as_dict()) == NOTHING
