"""What is counted, what the numbers of a text count, and numerals that are no digits."""

from __future__ import annotations

import pytest

from headrace.models.counts import LABELLED, behind_numbers, counted_words, numerals_in
from headrace.models.extract import best
from headrace.models.quotable import SourceText, quotes


def test_what_is_counted_and_what_numbers_count() -> None:
    assert set(counted_words(" avalanche beacons are there?", ())) == {"avalanche", "beacons"}
    assert counted_words(" days off do I get?", ()) == ()
    assert list(behind_numbers("14 cages for cats, fourteen dogs and 3.").values()) == [" cages for cats", " dogs and", ""]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("tracks 7 and 8, room 12, pages 3-5; Gleis 2", ", , ; "),
        ("a platform 12 metres long, rows 4.5 m apart, version 2.1", "a platform 12 metres long, rows 4.5 m apart, version 2.1"),
        ("nine tracks, 7 doors", "nine tracks, 7 doors"),
    ],
)
def test_a_number_that_says_which_one_is_no_amount(text: str, left: str) -> None:
    assert LABELLED.sub("", text) == left


def test_ordinals_roman_numerals_and_decades_are_numbers() -> None:
    assert numerals_in("The tenth series, of grade II, in the 1970s") >= {"10", "2", "70", "1970"}
    assert not numerals_in("I saw it in 1970") - {"1"}


WARDS = SourceText(
    """Wards
Full-time nurses have 30 days of leave a year, and the wards have 14 beds.
| Device | Model | Pieces |
|---|---|---|
| Scanner | S 300 | 4 |

| Unit | Model |
|---|---|
| Heater | H 200 |
""",
    "wards.md",
    0.6,
)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("How many beds do the wards have?", "Full-time nurses have 30 days of leave a year, and the wards have 14 beds."),
        ("How many nurses do the wards have?", None),
        ("How many scanners of model S 300 are there?", "Device: Scanner; Model: S 300; Pieces: 4"),
        ("How many heaters of model H 200 are there?", None),
        ("How many days of leave do full-time nurses have?", WARDS.text.splitlines()[1]),
        ("How many days of leave do part-time nurses have?", None),
    ],
)
def test_a_number_of_something_else_is_no_answer(question: str, said: str | None) -> None:
    found = best(question, [WARDS], quotes([WARDS]), None, similarity=lambda _word, _others: 0.1)
    assert (found.quote.said if found.found and found.quote else None) == said


CRANES = SourceText(
    """Mobile cranes
| Crane | Capacity | Stop lifting at | Lower boom at |
|---|---|---|---|
| LHM 550 | 154 t | 17 m/s | 25 m/s |
| LHM 420 | 124 t | 18 m/s | 26 m/s |
""",
    "cranes.md",
    0.6,
)


def test_a_cell_with_a_unit_is_no_count_of_what_its_header_names() -> None:
    found = best("How many cranes lift 154 t?", [CRANES], quotes([CRANES]), None)
    assert not found.found
