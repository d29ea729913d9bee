"""Citations: each sentence carries the number of the passage it stands on, however the text was streamed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.models.citations import Citations, content_words, span

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


def test_half_of_the_content_words_are_enough_and_less_is_not() -> None:
    assert marked("reservoir wheel bananas kitchens", passages=PASSAGES[1:])[1] == {1}
    assert marked("reservoir bananas kitchens", passages=PASSAGES[1:])[1] == set()


def test_words_that_mean_nothing_support_nothing() -> None:
    assert content_words("It is the one that was") == {"one"}
    assert marked("It is that which was.")[1] == set()


@pytest.mark.parametrize("wrong", ["[7]", " [1]", "[2] ", "[1][2]"])
def test_markers_of_the_generators_own_are_not_believed(wrong: str) -> None:
    text, cited = marked(f"The Moreau family built the Wheel House{wrong}. Bananas ripen{wrong}.")
    assert re.findall(r"\[\d+\]", text) == ["[1]"]
    assert cited == {1}


def test_a_marker_in_pieces_is_not_believed_either() -> None:
    assert marked("Bananas ripen ", "[", "1", "]", ".") == ("Bananas ripen.", set())


def test_text_comes_out_as_it_comes_in_and_a_marker_as_soon_as_its_sentence_ends() -> None:
    pieces = iter(["The Moreau family ", "built it in 1883. ", "And", " then"])
    stream = Citations(PASSAGES).mark(pieces)
    assert "The Moreau family".startswith(next(stream))
    assert next(pieces) == "built it in 1883. "
    text = "The Moreau family "
    stream = Citations(PASSAGES).mark(iter([text, "built it in 1883. ", *["never"] * 1000]))
    said = ""
    while "[1]" not in said:
        said += next(stream)
    assert said == "The Moreau family built it in 1883. [1]"


def test_points_within_numbers_and_names_end_no_sentence() -> None:
    assert marked("Version 3.11 carries water from the reservoir to the wheel.")[0].count("[2]") == 1


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
def test_only_passages_there_are_get_cited_and_no_text_is_lost(pieces: list[str]) -> None:
    text, cited = marked(*pieces)
    assert {int(number) for number in re.findall(r"\[(\d+)\]", text)} == cited <= {1, 2}
    source = "".join(pieces)
    assert [c for c in re.sub(r"\[\d+\]", "", text) if c.isalpha()] == [c for c in source if c.isalpha()]


PASSAGE = '# The weir\n\nIt was raised in 1911. The crest stands at 4.2 metres, "give or take". Swans nest there.\nNobody minds.'


def quoted(words: str) -> str:
    start, end = span(content_words(words), PASSAGE)
    return PASSAGE[start:end]


def test_a_citation_points_at_the_sentence_that_holds_the_words() -> None:
    assert quoted("The crest stands at 4.2 metres") == 'The crest stands at 4.2 metres, "give or take".'
    assert quoted("Swans nest") == "Swans nest there."
    assert quoted("raised in 1911, and swans nest there") == PASSAGE[PASSAGE.index("It was") : PASSAGE.index("\nNobody")]
    assert quoted("weir") == "# The weir"


@given(st.text(max_size=200), st.text(max_size=40))
def test_a_span_lies_within_its_passage(passage: str, words: str) -> None:
    start, end = span(content_words(words), passage)
    assert 0 <= start <= end <= len(passage)


def test_groundedness_is_the_share_of_sentences_that_stand_on_something() -> None:
    citations = Citations(PASSAGES)
    assert citations.groundedness is None
    "".join(citations.mark(["Bananas ripen quickly in warm kitchens. The Moreau family built the Wheel House. "]))
    assert citations.groundedness == 0.5
    assert [support.number for support in citations.supports] == [None, 1]
    assert PASSAGES[0][citations.supports[1].start : citations.supports[1].end] == PASSAGES[0]
