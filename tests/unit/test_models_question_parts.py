"""The parts of a question: one line of the answer for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.question_parts import pair, parts


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who owns berth B and how deep is it?", ["Who owns berth B", "how deep is it? (berth B)"]),
        ("How many boats are there and on which pier are they?", ["How many boats are there", "on which pier are they? (boats)"]),
        ("When was the crane bought? And who greases it?", ["When was the crane bought?", "who greases it? (crane bought)"]),
        (
            "Who runs the Lund site and when does the bakery open?",
            ["Who runs the Lund site", "when does the bakery open? (lund)"],
        ),
        ("Wer ist Hafenmeister und wie tief ist das Becken?", ["Wer ist Hafenmeister", "wie tief ist das Becken?"]),
        ("Are oars and sails allowed?", ["Are oars and sails allowed?"]),
        ("Where is the crane?", ["Where is the crane?"]),
    ],
)
def test_a_question_of_several_parts(question: str, expected: list[str]) -> None:
    assert parts(question) == expected


@pytest.mark.parametrize(
    ("question", "first", "second"),
    [
        ("What is the capacity of Lund and Malmö?", "What is the capacity of Lund?", "What is the capacity of Malmö?"),
        (
            "How many people work at Lund and at Malmö?",
            "How many people work at Lund?",
            "How many people work at Malmö?",
        ),
        ("How long are daily and weekly copies kept?", "How long are daily copies kept?", "How long are weekly copies kept?"),
        ("When did Ann Lee and Bo Ek join?", "When did Ann Lee join?", "When did Bo Ek join?"),
        (
            "What is the length and the weight of the rope?",
            "What is the length of the rope?",
            "What is the weight of the rope?",
        ),
        (
            "Was kosten Wohnwagen am Montag und am Dienstag?",
            "Was kosten Wohnwagen am Montag?",
            "Was kosten Wohnwagen am Dienstag?",
        ),
    ],
)
def test_a_question_that_names_two_things(question: str, first: str, second: str) -> None:
    found = pair(question)
    assert found is not None
    assert found.questions == (first, second)


@pytest.mark.parametrize(
    "question",
    ["Are oars and sails allowed?", "Who reads and signs the log?", "What is the capacity of the Lund site?", "And?", ""],
)
def test_a_question_that_names_one_thing_or_two_that_belong_together(question: str) -> None:
    assert pair(question) is None


@given(st.text(max_size=200), st.sampled_from([" and ", " und ", " or ", "? ", " and who "]), st.text(max_size=200))
def test_any_text_is_split(one: str, between: str, other: str) -> None:
    question = one + between + other
    assert 1 <= len(parts(question)) <= 4
    found = pair(question)
    assert found is None or (found.first in question and found.second in question)
