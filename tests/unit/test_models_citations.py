"""Citations: each sentence carries the number of the passage it stands on, however the text was streamed."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.models.citations import Citations

PASSAGES = [
    "The Wheel House was built in 1883 by the Moreau family beside the northern weir.",
    "A headrace carries water from the reservoir to the wheel.",
]


def marked(*pieces: str, passages: list[str] | None = None) -> tuple[str, set[int]]:
    citations = Citations(PASSAGES if passages is None else passages)
    return "".join(citations.mark(pieces)), citations.cited


def test_each_sentence_gets_the_passage_that_holds_its_words() -> None:
    text, cited = marked("The Moreau family built it in 1883. A headrace carries water to the wheel.")
    assert text == "The Moreau family built it in 1883. [1] A headrace carries water to the wheel. [2]"
    assert cited == {1, 2}


def test_a_sentence_without_support_gets_none() -> None:
    text, cited = marked("Bananas ripen quickly in warm kitchens. The Moreau family built the Wheel House.")
    assert text == "Bananas ripen quickly in warm kitchens. The Moreau family built the Wheel House. [1]"
    assert cited == {1}


@pytest.mark.parametrize("wrong", ["[7]", " [1]", "[2] ", "[1][2]", " [ 2 ]", "【2】", "[²]"])
def test_markers_of_the_generators_own_are_not_believed(wrong: str) -> None:
    text, cited = marked(f"The Moreau family built the Wheel House{wrong}. Bananas ripen{wrong}.")
    assert re.findall(r"\[\d+\]", text) == ["[1]"]
    assert cited == {1}


def test_a_marker_in_pieces_is_not_believed_either() -> None:
    assert marked("Bananas ripen ", "[", "1", "]", ".") == ("Bananas ripen.", set())


def test_a_sentence_comes_out_with_its_marker_as_soon_as_it_has_ended() -> None:
    stream = Citations(PASSAGES).mark(iter(["The Moreau family ", "built it in 1883. ", *["never"] * 1000]))
    assert next(stream) == "The Moreau family built it in 1883. [1]"


def test_a_sentence_that_a_passage_contradicts_is_not_shown() -> None:
    citations = Citations(PASSAGES)
    text = "".join(citations.mark(["The Moreau family built the Wheel House in 1893. A headrace carries water to the wheel."]))
    assert text.strip() == "A headrace carries water to the wheel. [2]"
    (withheld,) = citations.withheld
    assert (withheld.sentence, withheld.number) == ("The Moreau family built the Wheel House in 1893.", 1)
    assert PASSAGES[0][withheld.start : withheld.end] == PASSAGES[0]
    assert citations.groundedness == 0.5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1. Water is carried to the wheel.\n2. Bananas ripen.", "1. Water is carried to the wheel. [1]\n2. Bananas ripen."),
        ("- the wheel\n- the reservoir\n", "- the wheel [1]\n- the reservoir [1]"),
        (
            "Water, e.g. from the reservoir, is carried to the wheel.",
            "Water, e.g. from the reservoir, is carried to the wheel. [1]",
        ),
        (
            "| carries | water |\n|---|---|\n| wheel | reservoir |",
            "| carries | water | [1]\n|---|---|\n| wheel | reservoir | [1]",
        ),
    ],
)
def test_a_marker_stands_at_a_sentences_end_and_nowhere_else(text: str, shown: str) -> None:
    assert marked(text, passages=PASSAGES[1:])[0] == shown


def test_points_within_numbers_and_names_end_no_sentence() -> None:
    said = "Version 3.11 carries water to the wheel."
    assert marked(said, passages=["Version 3.11 carries water from the reservoir to the wheel."])[0] == f"{said} [1]"


def test_without_passages_or_text_nothing_is_cited() -> None:
    assert marked("Anything at all.", passages=[]) == ("Anything at all.", set())
    assert marked() == ("", set())
    assert marked(" ", "\n") == ("", set())


PIECE = st.text(st.sampled_from("ab .!?[]12\"')\n"), max_size=6) | st.sampled_from(
    ["wheel ", "water. ", "[1]", " [2].", "Moreau"]
)


@given(st.lists(PIECE, max_size=12))
def test_streaming_changes_nothing(pieces: list[str]) -> None:
    assert marked(*pieces) == marked("".join(pieces)) == marked(*"".join(pieces))


@given(st.lists(PIECE, max_size=12))
@example(["[1", "[1]", "]"])
def test_only_passages_there_are_get_cited_and_no_text_is_lost(pieces: list[str]) -> None:
    citations = Citations(PASSAGES)
    text = "".join(citations.mark(pieces))
    assert {int(number) for number in re.findall(r"\[(\d+)\]", text)} == citations.cited <= {1, 2}
    # What is withheld, because it says another number than a passage, is lost to the reader and named.
    said = re.sub(r"\[\d+\]", "", text) + "".join(support.sentence for support in citations.withheld)
    assert sorted(filter(str.isalpha, said)) == sorted(filter(str.isalpha, "".join(pieces)))


def test_groundedness_is_the_share_of_sentences_that_stand_on_something() -> None:
    citations = Citations(PASSAGES)
    assert citations.groundedness is None
    "".join(citations.mark(["Bananas ripen quickly in warm kitchens. The Moreau family built the Wheel House. "]))
    assert citations.groundedness == 0.5
    assert [support.number for support in citations.supports] == [None, 1]
    assert PASSAGES[0][citations.supports[1].start : citations.supports[1].end] == PASSAGES[0]
