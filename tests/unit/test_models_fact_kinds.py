"""The kind of fact a question asks for, and the texts that have one."""

from __future__ import annotations

import pytest

from headrace.models.fact_kinds import fact_kind
from headrace.models.quotable import Quote
from headrace.models.support import facts


def fits(question: str, text: str, over: str = "h\n") -> tuple[float, float]:
    numbers = [readings for readings, _ in facts(question).numbers]
    return fact_kind(question, numbers).fits(Quote(0, 0, len(text), text, over, ""))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who pays the fee?", "person"),
        ("Why is the fee so high?", "cause"),
        ("What is the e-mail address of the harbour?", "mail"),
        ("What is Bo Ek's phone number?", "phone"),
        ("How old is the keeper?", "age"),
        ("When do I get an e-mail?", "date"),
        ("Quand ouvre le port ?", "date"),
        ("¿Cuándo abre el puerto?", "date"),
        ("What does it cost?", "number"),
        ("Combien de lits y a-t-il ?", "number"),
        ("How do I send an e-mail to all?", ""),
        ("Is it open?", ""),
    ],
)
def test_what_is_asked_for(question: str, kind: str) -> None:
    assert fact_kind(question, []).kind == kind


@pytest.mark.parametrize(
    ("question", "text", "fit"),
    [
        ("How many litres does the tank hold?", "The tank holds 210 litres.", (1, 1)),
        ("How many litres does the tank hold?", "The tank is 3 m long.", (1, -1)),
        ("How many litres does tank 7 hold?", "Tank 7 is green.", (-1, 0)),
        ("How hot may it be?", "Up to 30 °C.", (1, 1)),
        ("How heavy is the anchor?", "The anchor weighs 80 kg.", (1, 1)),
        ("How deep is the basin?", "The basin is 320 cm deep.", (1, 1)),
        ("How long are tapes kept?", "They are kept for ten years.", (1, 1)),
        ("How long are tapes kept?", "They take 4 TB.", (1, -1)),
        ("What does a key cost?", "Price of a key: 12.00", (1, 0)),
        ("Who has the key?", "The key is lost since March.", (-1, 0)),
        ("What does a night cost?", "The hut has 26 beds.", (1, -1)),
        ("What does a night cost?", "The hut was built in 1926 and costs little.", (-1, 0)),
        ("When is glass collected?", "Glass is collected on Fridays.", (1, 0)),
        ("When is glass collected?", "Glass is collected.", (-1, 0)),
        ("What is the e-mail address of the office?", "Write to office@harbour.example.", (1, 0)),
        ("What is the e-mail address of the office?", "The office has three rooms.", (-1, 0)),
        ("What is the phone number of the office?", "Call 0512 77 10.", (1, 0)),
        ("What is the phone number of the office?", "It was built in 1998.", (-1, 0)),
        ("Who has the key?", "The key is with Bo Ek.", (1, 0)),
        ("Is it open?", "It is.", (0, 0)),
    ],
)
def test_a_text_that_has_it_and_one_that_has_not(question: str, text: str, fit: tuple[float, float]) -> None:
    assert fits(question, text) == fit


@pytest.mark.parametrize(
    ("question", "text", "missing"),
    [
        ("What does a card cost?", "A card is green.", True),
        ("What does a card cost?", "A card is free.", False),
        ("What is the e-mail address of the office?", "The office is green.", True),
        ("How many cards are there?", "There are several cards.", False),
    ],
)
def test_a_text_that_cannot_be_the_answer(question: str, text: str, missing: bool) -> None:
    quote = Quote(0, 0, len(text), text, "h\n", "")
    kind = fact_kind(question, [])
    assert kind.is_missing(quote, kind.fits(quote)[0]) is missing


def test_a_column_names_the_unit_of_its_cells() -> None:
    over = "fleet\nFleet\n| Boat | Tank (litres) | Length |"
    assert fits("How many litres of fuel does the tender take?", "| Tender | 90 | |", over) == (1, 1)
    assert fits("How many litres of fuel does the tender take?", "| Tender | | 5 m |", over) == (1, -1)


def test_a_rate_is_a_price_by_time_or_of_no_certain_unit() -> None:
    assert fact_kind("What is the hourly rate for migration?", []).units >= {"eur"}
    assert "percent" not in fact_kind("What is the flow rate?", []).units
    assert fits("What is the flow rate?", "The pump moves 30 litres a minute.") == (1.0, 0.0)
    assert fact_kind("What happens if members refuse to pay the fine?", []).kind == ""


def test_a_decade_is_a_time() -> None:
    assert fits("When was the pier built?", "The pier was built in the 1950s.")[0] == 1.0
