"""Questions made from documents read as a person would put them."""

from __future__ import annotations

import pytest

from headrace.simulate.questions import Excerpt, natural_questions

PRICES = "| Plan | Price | Support |\n|---|---|---|\n| Basic | 12 EUR | e-mail |\n| Team | 49 EUR | phone |"


def asked(text: str, heading: str = "", document: str = "a.md") -> list[str]:
    return natural_questions([Excerpt(document, heading, text)], 9)


@pytest.mark.parametrize(
    ("heading", "text", "question"),
    [
        ("FAQ › Who may book a room?", "Everybody may.", "Who may book a room?"),
        ("How to reset a badge", "Hold it to the reader.", "How do I reset a badge?"),
        ("Plans", PRICES, "What is the price of Basic?"),
        ("Mail", "Old messages are moved and kept for 90 days. Then they go.", "How long are old messages kept?"),
        ("Parts", "The Intake is a gate of steel in front of the pipe.", "What is the intake?"),
        ("Parts", "A penstock is a pipe that brings water to the turbine.", "What is a penstock?"),
        ("Storage", "S3 is a protocol for objects, and the one that most of the clients speak.", "What is S3?"),
        (
            "Räume",
            "Die Räume werden täglich um acht geöffnet und abends geschlossen.",
            "What do the documents say about Räume?",
        ),
    ],
)
def test_a_document_is_asked_as_a_person_would(heading: str, text: str, question: str) -> None:
    assert asked(text, heading)[0] == question


def test_a_row_is_asked_for_its_number_and_only_where_it_has_a_name() -> None:
    assert asked(PRICES)[:2] == ["What is the price of Basic?", "What is the price of Team?"]
    assert asked("| Day | Hours |\n|---|---|\n| 1 | 8 |\n| Monday | closed |") == []
    assert asked("| Pump | Bolts | Status |\n|---|---|---|\n| North | 8 | 1 |") == ["What are the bolts of North?"]
    assert asked("| Pump | Status |\n|---|---|\n| North | 1 |") == ["What is the status of North?"]


@pytest.mark.parametrize("text", ["This is a test of the sentence.", "It is a matter of taste, and that is all.", ""])
def test_a_pronoun_is_not_asked_about(text: str) -> None:
    assert asked(text) == []


def test_german_tables_and_sentences_are_asked_about_by_their_heading() -> None:
    text = "Die Standorte haben seit dem Jahr 2020 folgende Kapazität:\n\n| Standort | Kapazität |\n|---|---|\n| Lund | 980 TB |"
    assert asked(text, "Standorte") == ["What do the documents say about Standorte?"]


def test_each_document_has_its_turn_and_headings_come_last() -> None:
    passages = [
        Excerpt("a.md", "Plans", PRICES),
        Excerpt("b.md", "Hours", "We open at nine."),
        Excerpt("c.md", "How to pay", "By card."),
    ]
    assert natural_questions(passages, 4) == [
        "How do I pay?",
        "What is the price of Basic?",
        "What is the price of Team?",
        "What do the documents say about Hours?",
    ]
    assert natural_questions([*passages, *passages], 1) == ["How do I pay?"]
