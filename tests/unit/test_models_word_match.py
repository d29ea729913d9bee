"""Words derived from one word match; words that only begin alike do not."""

from __future__ import annotations

import pytest

from headrace.models.word_match import match, terms


@pytest.mark.parametrize(
    ("asked", "text"),
    [("transferring", "data transfer"), ("hiring", "crane hire"), ("installing", "Installation"), ("planning", "plan")],
)
def test_a_verb_and_its_noun_match(asked: str, text: str) -> None:
    assert 0 < match(terms(text), asked) < 1
    [other] = terms(text.split()[-1])
    assert match(terms(asked), other) > 0


@pytest.mark.parametrize(("asked", "text"), [("depart", "department"), ("ring", "r"), ("organ", "station"), ("king", "kin")])
def test_words_that_begin_alike_do_not(asked: str, text: str) -> None:
    assert match(terms(text), asked) == 0
