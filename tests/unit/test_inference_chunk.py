"""Chunks: each fits the embedder's window with its heading path, and nothing of the text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.inference.chunk import sections, split
from headrace.models import tokens

WORD = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=9) | st.sampled_from(
    ["日本語", "naïve", "🎉🎉", "x" * 300, "a_b.c(d)", "https://example.net/a?b=c", "don't", "1.2.3", "é\u0301\u0302"]
)
SENTENCE = st.lists(WORD, min_size=1, max_size=25).map(lambda words: " ".join(words) + ".")
LINE = st.one_of(
    SENTENCE,
    st.builds(lambda level, title: "#" * level + " " + title, st.integers(1, 7), SENTENCE),
    st.sampled_from(["```", "~~~", "```python", "| a | b |", "|---|---|", "- item", "", "", "> quote", "    code", "***"]),
)
TEXT = st.lists(LINE, max_size=25).map("\n".join)


@settings(deadline=None)
@given(TEXT, st.sampled_from([32, 33, 64, 200, 254]))
def test_every_chunk_fits_the_window_with_its_heading_path(text: str, window: int) -> None:
    for heading, body in split(text, window):
        assert tokens.count(f"{heading}\n{body}" if heading else body) <= window
        assert any(c.isalnum() for c in body)


@pytest.mark.parametrize("window", [32, 64, 254])
@pytest.mark.parametrize("title", ["", "a", "a b c d", "a b c d e f"])
def test_a_chunk_fills_its_window_and_no_more(title: str, window: int) -> None:
    text = (f"# {title}\n" if title else "") + "a " * 1000
    sizes = [tokens.count(f"{heading} {body}") for heading, body in split(text, window)]
    assert max(sizes) <= window
    assert min(sizes[:-1]) >= window - 8  # the splitter steps by eight words here


@settings(deadline=None)
@given(TEXT)
def test_no_letter_of_a_body_is_lost_or_doubled(text: str) -> None:
    bodies = "".join(body for _, body in sections(text))
    pieces = "".join(body for _, body in split(text, 32))
    assert [c for c in pieces if c.isalnum()] == [c for c in bodies if c.isalnum()]


@settings(deadline=None)
@given(TEXT)
def test_the_same_text_gives_the_same_chunks(text: str) -> None:
    assert list(split(text, 64)) == list(split(text, 64))


def test_the_window_leaves_room_for_the_embedders_marks() -> None:
    assert tokens.MARKS + 254 == 256
    long = "word " * 1000
    assert max(tokens.count(body) for _, body in split(long, 254)) > 200


def test_sections_carry_the_path_of_headings_above_them() -> None:
    text = "before\n# A\none\n## B\ntwo\n### C\n#### D\nthree\n## E ##\nfour\n# F\nfive"
    assert list(sections(text)) == [
        ([], "before"),
        (["A"], "one"),
        (["A", "B"], "two"),
        (["A", "B", "C", "D"], "three"),
        (["A", "E"], "four"),
        (["F"], "five"),
    ]


@pytest.mark.parametrize("fence", ["```", "~~~", "```python", "  ```"])
def test_a_heading_inside_a_fence_is_code(fence: str) -> None:
    close = fence.strip()[:3]
    text = f"# A\n{fence}\n# a comment\nprint()\n{close}\nafter\n# B\nbody"
    assert list(sections(text)) == [(["A"], f"{fence}\n# a comment\nprint()\n{close}\nafter"), (["B"], "body")]


def test_a_fence_is_closed_by_its_own_kind_only() -> None:
    assert [path for path, _ in sections("```\n~~~\n# no\n```\n# yes\nbody")] == [[], ["yes"]]


def test_what_only_looks_like_a_heading_is_text() -> None:
    assert list(sections("#hashtag\n####### seven\n")) == [([], "#hashtag\n####### seven")]


def test_a_section_of_blanks_and_a_text_of_nothing_give_no_chunk() -> None:
    assert list(split("", 64)) == []
    assert list(split("# A\n\n \n# B\n***\n", 64)) == []


def test_a_heading_path_that_is_too_long_loses_its_outer_parts_first() -> None:
    text = f"# {'outer ' * 30}\n## inner\nbody"
    assert list(split(text, 64)) == [("inner", "body")]
    text = f"# {'outer ' * 30}\nbody"
    assert list(split(text, 64)) == [("", "body")]


def test_short_sections_stay_whole_and_long_ones_are_cut_between_sentences() -> None:
    sentences = [f"Sentence {n} has exactly seven words here." for n in range(30)]
    assert list(split("# A\nOne. Two.", 64)) == [("A", "One. Two.")]
    bodies = [body for _, body in split("# A\n" + " ".join(sentences), 64)]
    assert len(bodies) > 3
    assert all(body.startswith("Sentence") and body.endswith(".") for body in bodies)
