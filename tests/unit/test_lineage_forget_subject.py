"""Which rows are meant by a user or a document, where an event stands, and what a digest tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from headrace.catalog import EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS
from headrace.documents.names import document_id
from headrace.errors import WrongUsage
from headrace.landing.event import Event
from headrace.lineage.forget.journal import REMOVED, Journal
from headrace.lineage.forget.subject import DOCUMENT, USER, Subject, digest

ANN = Subject(USER, "acme", "ann")
PUMP = Subject(DOCUMENT, "acme", "pump.md")


def rows(store: Any, *given: dict[str, Any]) -> pa.RecordBatch:
    """Rows of a store with nulls in the columns that are not given."""
    schema = pa.schema([field.with_nullable(True) for field in store.columns])
    return pa.RecordBatch.from_pylist(list(given), schema=schema)


def passage(document: str) -> dict[str, str]:
    return {"chunk_id": f"chunk of {document}", "document": document}


def test_answers_of_a_user_and_with_a_passage_of_a_document() -> None:
    asked = rows(
        INTERACTION_ROWS,
        {"tenant": "acme", "user": "ann", "passages": [passage("other.md"), passage("pump.md")]},
        {"tenant": "acme", "user": "Ann", "passages": []},
        {"tenant": "other", "user": "ann", "passages": [passage("pump.md")]},
        {"tenant": "acme", "user": "bob", "passages": [passage("pump.md"), passage("pump.md")]},
    )
    assert ANN.own_interactions(asked).to_pylist() == [True, False, False, False]
    assert PUMP.own_interactions(asked).to_pylist() == [True, False, False, True]


def test_a_slice_of_rows_is_looked_at_by_itself() -> None:
    asked = rows(
        INTERACTION_ROWS,
        {"tenant": "acme", "passages": [passage("pump.md")]},
        {"tenant": "acme", "passages": [passage("other.md"), passage("other.md")]},
        {"tenant": "acme", "passages": [passage("pump.md")]},
    )
    assert PUMP.own_interactions(asked.slice(1)).to_pylist() == [False, True]


def test_verdicts_of_a_user_and_on_answers() -> None:
    judged = rows(
        FEEDBACK_ROWS,
        {"tenant": "acme", "user": "ann", "answer_id": "a"},
        {"tenant": "acme", "user": "bob", "answer_id": "b"},
        {"tenant": "other", "user": "ann", "answer_id": "b"},
    )
    assert ANN.own_feedback(judged, {"b"}).to_pylist() == [True, True, False]
    assert PUMP.own_feedback(judged, {"b"}).to_pylist() == [False, True, False]
    assert PUMP.own_feedback(judged, set()).to_pylist() == [False, False, False]


def test_examples_are_known_by_origin_answer_user_and_passage() -> None:
    made = rows(
        EXAMPLES,
        {"tenant": "acme", "answer_id": "a", "origins": ["interactions/0/1"], "kind": "answer", "chunk_id": ""},
        {"tenant": "acme", "answer_id": "b", "origins": ["interactions/0/2", "feedback/0/7"], "kind": "answer", "chunk_id": ""},
        {"tenant": "acme", "answer_id": "c", "origins": ["interactions/0/3"], "kind": "passage", "chunk_id": "mine"},
        {"tenant": "acme", "answer_id": "a", "origins": [], "kind": "passage", "chunk_id": "another's"},
        {"tenant": "acme", "answer_id": "d", "origins": [], "kind": None, "chunk_id": "x", "users": ["bob", "ann"]},
        {"tenant": "other", "answer_id": "e", "origins": [], "kind": "answer", "chunk_id": "", "user": "ann"},
        {"tenant": "acme", "answer_id": "f", "origins": [], "chunk_id": "y", "document_id": document_id("acme", "pump.md")},
    )
    known = {"answers": {"a"}, "origins": {"feedback/0/7"}, "chunks": {"mine"}}

    def meant(subject: Subject) -> list[bool]:
        return [bool(value) for value in subject.own_examples(made, **known).to_pylist()]

    assert meant(ANN) == [True, True, False, True, True, False, False]
    # A passage of another document teaches nothing of this one, though the same answer was given both.
    assert meant(PUMP) == [True, True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("value", "ann", "pump"),
    [
        ({"tenant": "acme", "user": "ann"}, True, False),
        ({"user": "ann"}, True, False),  # it says no tenant
        ({"tenant": "other", "user": "ann"}, False, False),
        ({"tenant": "acme", "user": "bob", "answer_id": "a"}, True, True),
        ({"tenant": "acme", "passages": [{"document": "pump.md"}]}, False, True),
        ({"tenant": "acme", "passages": "pump.md"}, False, False),
        ({"answer_id": None}, False, False),
        (["ann"], False, False),
    ],
)
def test_dead_letters_are_taken_for_what_they_say(value: Any, ann: bool, pump: bool) -> None:
    raw = json.dumps(value).encode()
    assert (ANN.is_meant(raw, {"a"}), PUMP.is_meant(raw, {"a"})) == (ann, pump)


@pytest.mark.parametrize("raw", [b"ann", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_dead_letter_that_cannot_be_read_is_nobody_s(raw: bytes) -> None:
    assert not ANN.is_meant(raw, {"a"})


def test_subjects_of_like_names_are_kept_apart() -> None:
    same = {Subject(kind, tenant, name).id for kind in (USER, DOCUMENT) for tenant in ("a", "b") for name in ("x", "y")}
    assert len(same) == 8
    assert Subject(USER, "ab", "c").id != Subject(USER, "a", "bc").id
    assert PUMP.document_id == document_id("acme", "pump.md")


def test_a_digest_is_of_the_rows_whatever_their_order() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one, other = {"a": 1, "at": at, "raw": b"\xff"}, {"a": 2, "at": at, "raw": b""}
    assert digest([one, other]) == digest([other, one])
    assert digest([one, other]) != digest([one])
    assert digest([{**one, "a": 3}]) != digest([one])


def test_a_journal_comes_back_as_it_was_and_only_grows() -> None:
    journal = Journal("cli:ann", "2026-01-01T00:00:00+00:00")
    assert journal.take(INTERACTION_ROWS, REMOVED, ["interactions/0/1"], ["aa"], size=5)
    assert not journal.take(INTERACTION_ROWS, REMOVED, ["interactions/0/1"], ["bb"], size=5)
    assert journal.take(INTERACTION_ROWS, REMOVED, ["interactions/0/1", "interactions/0/2"], ["cc"])
    journal.see(datetime(2026, 1, 2, tzinfo=UTC), "interactions/0/2")
    journal.see(datetime(2026, 1, 1, tzinfo=UTC), "interactions/0/1")
    journal.see(datetime(2026, 1, 3, tzinfo=UTC), "interactions/0/3")
    journal.answers |= {"b", "a"}
    again = Journal.load(journal.dump(ANN), "etag")
    assert (again.pieces, again.answers, again.first, again.etag) == (journal.pieces, {"a", "b"}, journal.first, "etag")
    assert again.first[1] == "interactions/0/1"
    (piece,) = again.pieces.values()
    assert (piece["keys"], piece["sha256"], piece["bytes"]) == (["interactions/0/1", "interactions/0/2"], ["aa", "cc"], 5)


@pytest.mark.parametrize("text", ["feedback/0/17", "document-events/2/0", "interactions@02/0/5"])
def test_an_event_is_called_by_its_place(text: str) -> None:
    assert str(Event.parse(text)) == text


def test_an_event_knows_its_topic_and_incarnation() -> None:
    event = Event.parse("feedback@12/3/4")
    assert (event.store.name, event.topic_epoch, event.topic_partition) == ("feedback", 12, "feedback@12/3")
    assert Event.parse("feedback/0/9") < Event.parse("feedback/0/10")


@pytest.mark.parametrize("text", ["feedback/0", "feedback/0/x", "feedback/-1/0", "chunks/0/1", "feedback/0/1/2", "", "a1b2"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage, match="is not an event's address"):
        Event.parse(text)
