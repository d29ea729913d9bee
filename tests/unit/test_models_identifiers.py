"""Identifiers that a question asks for by the noun of their class, and texts that have one, another class's, or none."""

from __future__ import annotations

import pytest

from headrace.models.extract import best
from headrace.models.identifiers import asked_identifier
from headrace.models.quotable import SourceText, quotes


@pytest.mark.parametrize(
    ("question", "text", "is_there"),
    [
        ("What is the change ticket for the update?", "It was done on 3 May under change CHG-1042.", True),
        ("What is the change ticket for the update?", "The outage was logged as ticket INC-0412.", False),
        ("What is the change ticket for the update?", "The ticket costs 12 EUR for adults.", False),
        ("What is the invoice number for the repair?", "The invoice number is 471123, paid on 2025-03-01.", True),
        ("What is the invoice number for the repair?", "The invoice of 3 March 2025 was paid on 2025-04-01.", False),
        ("What is the invoice number for the repair?", "The invoice is 4,800 EUR.", False),
        ("What is the serial number of the pump?", "device: Pump; inventory number: P-77; serial number: RX-20418", True),
        ("What is the serial number of the pump?", "device: Pump; model: Rayon 300; inventory number: P-77", False),
        ("Which purchase order is it?", "Cages were ordered under PO-6120.", True),
        ("Which purchase order is it?", "They came with work order WO-33.", False),
        ("Under which case number was it reported?", "The theft became case ACC-19 of the insurer.", True),
        ("Wie lautet die Rechnungsnummer der Reparatur?", "Bezahlt wurde die Rechnung RE-2025-117.", True),
        ("Quel est le numéro de commande ?", "La commande BC-4410 est partie.", True),
        ("What is the change ticket for array A7?", "The change of array A7 went well.", False),
    ],
)
def test_an_identifier_stands_beside_the_noun_of_its_class(question: str, text: str, is_there: bool) -> None:
    asked = asked_identifier(question)
    assert asked is not None
    assert asked.found_in(text, question) is is_there


@pytest.mark.parametrize(
    "question",
    ["What does a ticket cost?", "What is the number of seats?", "What is the phone number of the vet?", "Who sent the invoice?"],
)
def test_other_questions_ask_for_none(question: str) -> None:
    assert asked_identifier(question) is None


LOG = SourceText(
    """# Log
The firmware of array A7 is upgraded by two engineers at night, and the upgrade of its firmware takes an hour.
The lead door of room A3 was replaced in March; the change ticket is CHG-2217, and the work took two days.
Room A3 was painted in January.
The firmware upgrade of array A7 on 3 May went without a fault. The change ticket is CHG-1042.
""",
    "log.md",
    0.6,
)


def answered(question: str, source: SourceText) -> str | None:
    found = best(question, [source], quotes([source]), None, similarity=lambda _word, _others: 0.1)
    return found.quote.said if found.found and found.quote else None


def test_the_sentence_with_the_identifier_wins_over_one_with_more_of_the_words() -> None:
    assert answered("What is the change ticket for the firmware upgrade of array A7?", LOG) == "The change ticket is CHG-1042."
    assert "CHG-2217" in (answered("What is the change ticket for the door of room A3?", LOG) or "")


def test_without_an_identifier_of_what_was_done_there_is_no_answer() -> None:
    assert answered("What is the change ticket for the painting of room A3?", LOG) is None
    assert answered("What is the invoice number for the firmware upgrade of array A7?", LOG) is None


def test_what_may_be_asked_for_by_what_it_says_is_an_identifier_where_the_passages_have_one() -> None:
    contracts = SourceText(
        "Contracts\nThe contract with Seaguard is SP-077-23.\nSeaguard has a contract for patrols.", "c.md", 0.6
    )
    assert answered("What is the contract with Seaguard?", contracts) == "The contract with Seaguard is SP-077-23."
    prose = SourceText("Contracts\nThe contract with Seaguard is about patrols.", "c.md", 0.6)
    assert answered("What is the contract with Seaguard?", prose) == "The contract with Seaguard is about patrols."


@pytest.mark.parametrize(("crane", "date"), [("RS-12", "2026-05-12"), ("RS-13", None), ("RS-14", "2026-07-01")])
def test_a_row_without_the_date_is_not_answered_by_that_of_another_name(crane: str, date: str | None) -> None:
    text = """Cranes
| id | type | next_inspection |
|---|---|---|
| RS-12 | reach stacker | 2026-05-12 |
| RS-13 | reach stacker |
| RS-14 | reach stacker | 2026-07-01 |
"""
    source = SourceText(text, "cranes.json", 0.6)
    extract = best(f"When is {crane} inspected next?", [source], quotes([source]), None)
    if date is None:
        assert not extract.found
    else:
        assert extract.found
        assert extract.quote is not None
        assert extract.quote.said == f"id: {crane}; type: reach stacker; next_inspection: {date}"
