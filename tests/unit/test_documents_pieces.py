"""Pieces of a text: each fits the embedder's window with its heading path, and nothing of the text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.documents.formats.markdown import outline
from headrace.documents.pieces import pieces
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
TABLELESS = st.lists(LINE.filter(lambda line: "|" not in line), max_size=25).map("\n".join)


def cut(text: str, window: int = 254) -> list[tuple[str, str]]:
    """(heading path, body) of each piece."""
    return [(piece.heading, piece.body) for piece in pieces(text, window)]


@given(TEXT, st.sampled_from([32, 33, 64, 200, 254]))
def test_every_chunk_fits_the_window_with_its_heading_path(text: str, window: int) -> None:
    for heading, body in cut(text, window):
        assert tokens.count(f"{heading}\n{body}" if heading else body) <= window
        assert any(c.isalnum() for c in body)


@pytest.mark.parametrize("window", [32, 64, 254])
@pytest.mark.parametrize("title", ["", "a", "a b c d", "a b c d e f"])
def test_a_chunk_fills_its_window_and_no_more(title: str, window: int) -> None:
    text = (f"# {title}\n" if title else "") + "a " * 1000
    sizes = [tokens.count(f"{heading} {body}") for heading, body in cut(text, window)]
    assert max(sizes) <= window
    assert min(sizes[:-1]) >= window - 8  # the splitter steps by eight words here


@given(TABLELESS, st.sampled_from([32, 64]))
def test_no_letter_of_a_body_is_lost_or_doubled_and_each_piece_says_where_it_begins(text: str, window: int) -> None:
    bodies = "".join(line for line, level, _ in outline(text) if not level)
    found = list(pieces(text, window))
    assert [c for piece in found for c in piece.body if c.isalnum()] == [c for c in bodies if c.isalnum()]
    assert all(text[piece.start :].startswith(piece.body) for piece in found)


@given(TEXT)
def test_the_same_text_gives_the_same_chunks(text: str) -> None:
    assert cut(text, 64) == cut(text, 64)


def test_a_splitter_cuts_alike_before_and_after_it_has_a_tokenizer_of_its_own() -> None:
    kinds = ["naïve words, and 日本語.\n\n" * 12, "> quoted\n\n- one\n- two\n\n" * 12, "```python\nif a:\n    b = 1\n```\n" * 12]
    text = "\n\n".join(kinds)
    found = [cut(text, 99) for _ in range(40_000 // len(text))]  # no other test has this window
    assert len(found[0]) > 3
    assert found == [found[0]] * len(found)


def test_the_window_leaves_room_for_the_embedders_marks() -> None:
    assert tokens.MARKS + 254 == 256
    long = "word " * 1000
    assert max(tokens.count(body) for _, body in cut(long, 254)) > 200


def test_sections_carry_the_path_of_headings_above_them() -> None:
    text = "before\n# A\none\n## B\ntwo\n### C\n#### D\nthree\n## E ##\nfour\n# F\nfive"
    assert cut(text) == [
        ("", "before"),
        ("A", "one"),
        ("A › B", "two"),
        ("A › B › C › D", "three"),
        ("A › E", "four"),
        ("F", "five"),
    ]


@pytest.mark.parametrize("fence", ["```", "~~~", "```python", "  ```"])
def test_a_heading_inside_a_fence_is_code(fence: str) -> None:
    close = fence.strip()[:3]
    text = f"# A\n{fence}\n# a comment\nprint()\n{close}\nafter\n# B\nbody"
    assert cut(text) == [("A", f"{fence}\n# a comment\nprint()\n{close}\nafter"), ("B", "body")]


def test_a_fence_is_closed_by_its_own_kind_only() -> None:
    assert [heading for heading, _ in cut("```\n~~~\n# no\n```\n# yes\nbody")] == ["", "yes"]


def test_what_only_looks_like_a_heading_is_text() -> None:
    assert cut("#hashtag\n####### seven\n") == [("", "#hashtag\n####### seven")]


def test_a_section_of_blanks_and_a_text_of_nothing_give_no_chunk() -> None:
    assert cut("", 64) == []
    assert cut("# A\n\n \n# B\n***\n", 64) == []


def test_a_heading_path_that_is_too_long_loses_its_outer_parts_first() -> None:
    text = f"# {'outer ' * 30}\n## inner\nbody"
    assert cut(text, 64) == [("inner", "body")]
    text = f"# {'outer ' * 30}\nbody"
    assert cut(text, 64) == [("", "body")]


def test_short_sections_stay_whole_and_long_ones_are_cut_between_sentences() -> None:
    sentences = [f"Sentence {n} has exactly seven words here." for n in range(30)]
    assert cut("# A\nOne. Two.", 64) == [("A", "One. Two.")]
    bodies = [body for _, body in cut("# A\n" + " ".join(sentences), 64)]
    assert len(bodies) > 3
    assert all(body.startswith("Sentence") and body.endswith(".") for body in bodies)


def table(rows: int, columns: int = 3) -> str:
    lines = ["| " + " | ".join(f"name{n}" for n in range(columns)) + " |", "|" + "---|" * columns]
    return "\n".join([*lines, *("| " + " | ".join(f"r{r}c{n}" for n in range(columns)) + " |" for r in range(rows))])


@pytest.mark.parametrize("window", [48, 200])
def test_every_part_of_a_table_has_its_header_and_every_row_is_in_one_part(window: int) -> None:
    text = f"# Flow\nAs measured:\n\n{table(60)}\n\nAfter it."
    found = list(pieces(text, window))
    parts = [piece for piece in found if "name0" in piece.body]
    assert len(parts) > 3
    assert all("| name0 | name1 | name2 |\n|-|-|-|\n" in piece.body for piece in parts)
    assert all(piece.heading == "Flow" for piece in found)
    assert all(tokens.count(f"{piece.heading}\n{piece.body}") <= window for piece in found)
    bodies = "\n".join(piece.body for piece in found)
    for row in range(60):
        assert bodies.count(f"| r{row}c0 |") == 1
    assert "As measured:" in bodies
    assert "After it." in bodies


def test_a_short_table_stays_whole_with_what_stands_above_it() -> None:
    text = "The flow of each gauge:\n\n" + table(3)
    long = "The wheel turns slowly. " * 60
    assert [body for _, body in cut(text, 200)] == [text]
    assert next(body for _, body in cut(f"{text}\n\n{long}", 200)) == text.replace("\n\n", "\n", 1)


def test_a_table_too_wide_for_its_header_names_each_cell() -> None:
    bodies = [body for _, body in cut(table(2, columns=60), 100)]
    assert "name0: r0c0; name1: r0c1" in bodies[0]
    assert all(tokens.count(body) <= 100 for body in bodies)
    assert sum(body.count("name59: r1c59") for body in bodies) == 1


def test_a_table_in_a_fence_is_code() -> None:
    text = f"```\n{table(60)}\n```"
    assert sum(body.count("name0") for _, body in cut(text, 64)) == 1


def test_a_longer_fence_is_closed_by_one_as_long() -> None:
    assert [heading for heading, _ in cut("````\n```\n# no\n```\n# no\n````\n# yes\nbody")] == ["", "yes"]


def test_a_heading_keeps_the_sign_in_its_name() -> None:
    assert [heading for heading, _ in cut("# C#\nbody\n# D ##\nbody\n#\nbody")] == ["C#", "D"]


def test_code_without_a_fence_loses_nothing() -> None:
    for text in ("# a\nfirst()\nmiddle()\nlast()", "# a\n```\nfirst()\nlast()"):
        assert [piece.body for piece in pieces(text, 100, code=True)] == [text.partition("\n")[2]]


def test_code_keeps_its_indentation_and_loses_its_fence() -> None:
    functions = [f"def round_{n}(wheel):\n    for tooth in wheel:\n        tooth.turn({n})\n    return wheel" for n in range(12)]
    code = "\n\n\n".join(functions)
    found = list(pieces(f"# wheel.py\n\n```python\n{code}\n```", 100, code=True))
    assert len(found) > 2
    assert all(piece.heading == "wheel.py" for piece in found)
    assert "".join("".join(piece.body.split()) for piece in found) == "".join(code.split())
    assert found[0].body.startswith("def round_0(wheel):\n    for tooth in wheel:\n        tooth.turn(0)")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 250_000,
        "word " * 10_000,
        "日本語" * 3_000,
        "# a" + " " * 50_000 + "b",
        "| a |\n|" + " " * 200_000 + "-x",
        "| a |\n|-|\n|" + " b |" * 20_000,
        "| " + "name | " * 5_000 + "\n|-|\n" + "| b " * 5_000,
        f"| {'x' * 50_000} |\n|-|\n" + "| a |\n" * 500,
        "| a |\n|-|\n" + f"| {'y' * 5_000} |\n" * 50,
        "# " + "long " * 50_000 + "\n" + "## b\nc\n" * 500,
        "`" * 25_000,
        "> " * 5_000 + "deep",
        "- " * 5_000 + "deep",
        "[" * 20_000,
        "*a " * 10_000,
    ],
)
def test_any_text_is_cut_in_time_and_into_pieces_of_a_size(text: str) -> None:
    for heading, body in cut(text, 200):
        assert len(body) <= 2_000
        assert tokens.count(f"{heading}\n{body}") <= 200
