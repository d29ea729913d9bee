"""Words that mean the same, in four languages, and words that exclude one another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.concepts import CONTRASTS, concepts_of, contrasting, contrasts
from headrace.models.word_match import has, match, terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("price", "fees"),
        ("fee", "Mooringgebühr"),
        ("cost", "kostet"),
        ("costs", "cuesta"),
        ("cost", "coûtent"),
        ("phone", "Telefonnummer"),
        ("holiday", "Urlaubstage"),
        ("resident", "Anwohnerausweis"),
        ("deposit", "Kaution"),
        ("glass", "vidrio"),
        ("depth", "profondeur"),
        ("head", "Leiterin"),
    ],
)
def test_words_of_one_meaning(one: str, other: str) -> None:
    assert concepts_of(one) & concepts_of(other)
    assert 0 < match(terms(other), one.casefold()) < 1
    assert not has(terms(other), one.casefold())


@pytest.mark.parametrize(("one", "other"), [("price", "depth"), ("opens", "closes"), ("harbour", "Hafen"), ("adult", "child")])
def test_words_of_different_or_no_listed_meaning(one: str, other: str) -> None:
    assert not concepts_of(one) & concepts_of(other)
    assert match(terms(other), one) == 0


def test_a_word_itself_counts_more_than_one_of_its_meaning() -> None:
    assert match(terms("The prices rose."), "price") == 1.0
    assert match(terms("Die Preise stiegen."), "fee") < 1.0
    assert match(terms("max_guests = 8"), "guests") == 1.0, "part of an identifier"


@pytest.mark.parametrize(
    ("question", "quote", "excluded"),
    [
        ("daily copies", "hourly copies for two days", True),
        ("daily copies", "hourly and daily copies", False),
        ("daily copies", "copies for two days", False),  # a unit is none of the qualifiers
        ("copies of a day", "copies for a week", False),
        ("open on Sunday", "Monday: 9 to 17", True),
        ("offen am Sonntag", "Monday: 9 to 17", True),
        ("price for an adult", "Kinder: 4 Euro", True),
        ("price for the lock", "Kinder: 4 Euro", False),
    ],
)
def test_what_excludes_another(question: str, quote: str, excluded: bool) -> None:
    assert contrasts(terms(question), terms(quote), terms(quote)) is excluded


def test_what_is_said_above_a_quote_is_said_of_it() -> None:
    assert contrasts(terms("daily copies"), terms("weekly"), terms("weekly"))
    assert not contrasts(terms("daily copies"), terms("weekly") | terms("daily"), terms("weekly"))


def test_each_member_of_a_contrast_is_a_word_that_can_be_said() -> None:
    listed = {member for group in CONTRASTS for member in group}
    assert {member for member in listed if member in contrasting(member)} >= listed - {"year"}
    assert "year" in contrasting("annually")


@given(st.text(max_size=60))
def test_any_word_is_read(word: str) -> None:
    assert len(concepts_of(word)) <= len(word)
    assert contrasting(word) <= frozenset().union(*CONTRASTS)
