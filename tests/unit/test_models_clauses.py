"""The clauses of a sentence, and what each goes on about."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.clauses import about, clauses, with_relative


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("The crane lifts 15 tonnes.", ["The crane lifts 15 tonnes."]),
        (
            "The crane was built in 1911; the tug came from Horn.",
            ["The crane was built in 1911;", "the tug came from Horn."],
        ),
        (
            "The hall was bought in 1974 and was painted by Bo Ek.",
            ["The hall was bought in 1974 and", "was painted by Bo Ek."],
        ),
        ("The crew has tea and bread.", ["The crew has tea and bread."]),
        ("Members and guests paid 4 EUR.", ["Members and guests paid 4 EUR."]),
        (
            "A storm felled the oak, whose wood was sold to Jo Berg.",
            ["A storm felled the oak,", "whose wood was sold to Jo Berg."],
        ),
        ("", [""]),
    ],
)
def test_a_sentence_is_divided_where_another_statement_begins(sentence: str, parts: list[str]) -> None:
    assert [one.of(sentence) for one in clauses(sentence)] == parts


def test_a_clause_without_a_subject_goes_on_about_the_one_before() -> None:
    sentence = "The beech was planted in 1868 and is 31 metres tall; it was cabled by Bo Ek; the oak fell in 2019."
    texts = [about(sentence, number) for number in range(4)]
    assert texts[2] == "The beech was planted in 1868 and is 31 metres tall; it was cabled by Bo Ek;"
    assert texts[3] == "the oak fell in 2019."


def test_who_says_more_of_the_name_before_it() -> None:
    assert with_relative("Requests go to Ea Lind, who manages the rota.", 0) == "Requests go to Ea Lind, who manages the rota."
    assert with_relative("The oak fell, and its wood was sold.", 0) == "The oak fell, and"


@given(st.text(max_size=300))
def test_any_text_is_divided(sentence: str) -> None:
    parts = clauses(sentence)
    assert parts[0].goes_on is None
    assert all(one.end <= other.start for one, other in pairwise(parts))
    for number, one in enumerate(parts):
        assert one.of(sentence) in about(sentence, number)
        assert with_relative(sentence, number).startswith(one.of(sentence))


@pytest.mark.parametrize("text", ["and was " * 2000, ", whose " * 2000, "; " * 4000, "a" * 9000])
def test_what_is_odd_takes_no_time(text: str) -> None:
    started = time.process_time()
    for number in range(len(clauses(text))):
        about(text, number)
    assert time.process_time() - started < 2.0
