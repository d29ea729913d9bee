"""Ranges of months, weekdays and times: what is inside one is said by it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.ranges import included


@pytest.mark.parametrize(
    ("question", "text", "words"),
    [
        ("When does it open in June?", "It is open from May to September.", {"june"}),
        ("When does it open in May?", "It is open from May to September.", {"may"}),
        ("When does it open in October?", "It is open from May to September.", set()),
        ("When does it open in January?", "It is open from October to March.", {"january"}),
        ("When does it open in July?", "It is open from October to March.", set()),
        ("When is it open in August?", "Open: 10 June – 5 October", {"august"}),
        ("When is it open on 9 October?", "Open: 10 June – 5 October", set()),
        ("When is it open on 4 October?", "Open: 10 June – 5 October", {"october"}),
        ("When is it open in October?", "Open: 10 June – 5 October", {"october"}),
        ("When does it run on September 9?", "It runs May 3 to September 10.", {"september"}),
        ("Wann ist sie im Juli offen?", "Sie ist von Mai bis September offen.", {"juli"}),
        ("Quand ouvre-t-elle en juin ?", "Elle est ouverte du 15 mai au 15 septembre.", {"juin"}),
        ("When may I come in May?", "It is closed all year.", {"may"}),
        ("When may I come?", "It is open from April to June.", set()),
        ("When does it open on Wednesdays?", "Open Monday to Friday at 9:00.", {"wednesdays"}),
        ("When does it open on Sundays?", "Open Monday to Friday at 9:00.", set()),
        ("When does it open on Sunday?", "Open Fri–Mon at 9:00.", {"sunday"}),
        ("What does it cost on Tuesday?", "It costs 60 EUR on weekdays, 80 EUR on Sundays.", {"tuesday"}),
        ("What happens at 18:00?", "It is open from 8:00 to 20:00.", {"18:00"}),
        ("What happens at 21:00?", "It is open from 8:00 to 20:00.", set()),
        # whether it is so, any range says
        ("Is it open in January?", "It is open from May to September.", {"january"}),
        ("Is it open on Sundays?", "Open Monday to Friday.", {"sundays"}),
        ("Is it open at 21:00?", "It is open from 8:00 to 20:00.", {"21:00"}),
        ("Is it open in January?", "It is open.", set()),
    ],
)
def test_what_is_inside_a_range(question: str, text: str, words: set[str]) -> None:
    assert included(question, text).words == words


def test_a_day_inside_a_range_is_no_number_that_is_missing() -> None:
    assert included("When is it open on 4 October?", "Open: 10 June – 5 October").numbers == {"month 10", "4"}
    assert included("When is it open on 9 October?", "Open: 10 June – 5 October").numbers == set()


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_read(question: str, text: str) -> None:
    found = included(question, text)
    assert all(word in question.lower() for word in found.words if word.isascii())


@pytest.mark.parametrize(
    "text", ["May to " * 900, "mon" * 3000, "1 " * 3000, "8:00 " * 1500, "a - " * 2000, "from the mid-" * 500]
)
def test_what_is_odd_takes_no_time(text: str) -> None:
    started = time.process_time()
    included("Is it open on 4 May at 8:00 on Monday?", text)
    included(text, text)
    assert time.process_time() - started < 2.0
