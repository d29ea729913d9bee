"""What a question is about: its nouns with what describes them, and its verb."""

from __future__ import annotations

import pytest

from headrace.models.arguments import arguments_of


@pytest.mark.parametrize(
    ("question", "nouns", "verbs"),
    [
        ("Who repaired the deck oven?", {"deck", "oven"}, {"repaired"}),
        ("How many guests can sit in the café?", {"guests", "café"}, {"sit"}),
        ("How much is a season ticket for the library?", {"season", "ticket", "library"}, set()),
        ("When does the café close?", {"café"}, {"close"}),
        ("On which day is sugar delivered?", {"sugar"}, {"delivered"}),
        ("Which insurer paid the damage of the flood?", {"damage", "flood"}, set()),
        ("What replaced the old gas oven?", {"old", "gas", "oven"}, {"replaced"}),
        ("What is the highest discount that a manager may give?", {"discount", "manager"}, {"give"}),
        ("When does unused overtime expire?", {"unused", "overtime"}, {"expire"}),
        ("What is a visitor's parking permit?", {"visitor", "parking", "permit"}, set()),
        ("Was kostet das Parken am Bahnhof?", {"parken", "bahnhof"}, {"kostet"}),
        ("Why?", set(), set()),
        ("", set(), set()),
    ],
)
def test_nouns_and_verb_are_told_from_what_is_asked_for(question: str, nouns: set[str], verbs: set[str]) -> None:
    found = arguments_of(question)
    assert (found.nouns, found.verbs) == (nouns, verbs)


def test_numbers_units_and_the_largest_say_little_about_which_thing_it_is() -> None:
    assert arguments_of("Which of the two oldest boats was there on 4 April 2024 with 12 litres?").nouns == {"boats"}


def test_a_long_question_is_read_to_its_limit() -> None:
    assert arguments_of("Who paints the " + "very " * 200 + "boat?").nouns == frozenset()
