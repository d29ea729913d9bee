"""Questions for whatever the documents say about something: what they are, and which statements answer them."""

from __future__ import annotations

import time

import pytest

from headrace.answering.quotes import NOT_FOUND, quote
from headrace.answering.rerank import Passage
from headrace.models.subject import MOST, subject_of
from headrace.storage.vectors.handles import Hit

GARDEN = "Rules\nDogs stay outside the garden.\nKeys are kept by Helge Wulf.\nGuide dogs are let in."
POND = "Pond\nThe pond is two metres deep.\nDogs may not swim in it."
HERONS = "# Herons\n\nThey breed on the island.\nNobody may land there before July."


def passages(*texts: str) -> list[Passage]:
    return [Passage(Hit(f"c{n}", f"d{n}", "v", f"{n}.md", "", text, 1.0, similarity=0.5), n) for n, text in enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What do the documents say about dogs?", "dogs"),
        ("What do these files say about the winter rooms", "the winter rooms"),
        ("what does the handbook say on leave?", "leave"),
        ("Tell me about the pond.", "the pond"),
        ("Tell me everything about herons!", "herons"),
        ("What is known about the herons?", "the herons"),
        ("What is said in the documents about keys?", "keys"),
        ("Was steht in den Dokumenten über Hunde?", "Hunde"),
        ("Que disent les documents sur les chiens ?", "les chiens"),
        ("¿Qué dicen los documentos sobre los perros?", "los perros"),
    ],
)
def test_what_is_asked_for_as_a_whole_is_a_topic(question: str, subject: str) -> None:
    found = subject_of(question)
    assert found is not None
    assert (found.text, found.is_question) == (subject, False)


@pytest.mark.parametrize(
    "question",
    [
        "What do dogs say about the documents?",
        "Tell me on which day the pond is cleaned.",
        "What is there on the second floor?",
        "Which documents do I need for a permit?",
        "What do the documents say about it?" * 40,
        "What do the documents say about the?",
    ],
)
def test_what_asks_for_one_thing_or_for_nothing_is_none(question: str) -> None:
    assert subject_of(question) is None


def test_statements_about_it_are_quoted_from_each_document_and_what_is_about_others_is_not() -> None:
    found = quote("What do the documents say about dogs?", passages(GARDEN, POND), None)
    said = {support.sentence for support in found.supports}
    assert said == {"Dogs stay outside the garden.", "Guide dogs are let in.", "Dogs may not swim in it."}
    for line, support in found.lines.items():
        assert support is not None
        assert support.number is not None
        assert line == f"{support.sentence} [{support.number}]"
        text = found.passages[support.number - 1].hit.text
        assert text[support.start : support.end] == support.sentence


def test_what_stands_below_a_heading_is_about_it() -> None:
    found = quote("Tell me about herons.", passages(GARDEN, HERONS), None)
    assert {support.sentence for support in found.supports} == {
        "They breed on the island.",
        "Nobody may land there before July.",
    }


def test_of_what_no_document_knows_nothing_is_quoted() -> None:
    for question in ("What do the documents say about owls?", "What do the documents say about guide horses?"):
        assert quote(question, passages(GARDEN, POND), None).lines == {NOT_FOUND: None}
    assert quote("What do the documents say about dogs?", [], None).lines == {NOT_FOUND: None}


def test_few_of_many_statements_are_quoted() -> None:
    many = "Rules\n" + "\n".join(f"Dogs of breed {name} stay outside." for name in "abcdefghijkl")
    assert len(quote("What do the documents say about dogs?", passages(many), None).lines) == MOST


def test_a_question_within_it_is_answered_as_that_question() -> None:
    found = quote("What do the documents say about who keeps the keys?", passages(GARDEN, POND), None)
    assert list(found.lines) == ["Helge Wulf [1]"]


def test_a_long_question_is_read_in_no_time() -> None:
    """No pattern may be tried in very many ways: the text is a client's."""
    began = time.process_time()
    for text in ("tell me about " + "? " * 190, "what do " + "the " * 95, "please " * 57, "what is there " * 28):
        subject_of(text[:400])
    assert time.process_time() - began < 5
