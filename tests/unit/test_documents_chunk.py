"""Chunks: the place of each in its document, and how the document's format says to cut it."""

from __future__ import annotations

import pytest

from headrace.documents.chunk import _placed
from headrace.documents.formats.registry import FORMATS, DocumentFormat


def test_pieces_have_their_pages_slides_or_sheets() -> None:
    sentence = "The wheel turns slowly all day. " * 20
    pages = [f"# Mill\n\nShort. {sentence}", sentence, f"## Weir\n\n{sentence}"]
    assert places(pages, "page") == ["page 1", "page 2", "page 3"]
    assert places(["Mill", "Weir"], "page") == ["pages 1–2"]
    assert places(["Mill", "Weir"], "slide", FORMATS["slides"].media) == ["slide 1", "slide 2"]
    assert places(["| a |\n|---|\n| b |", sentence], "sheet", FORMATS["csv"].media) == ["sheet 1", "sheet 2"]
    assert [where for _, where in _placed({"text": "Mill", "parts": None, "media": "text/plain"}, 200)] == [None]


def test_the_record_of_a_format_says_how_its_text_is_cut_whatever_its_media_type(monkeypatch: pytest.MonkeyPatch) -> None:
    media = "text/x-subtitles"
    monkeypatch.setitem(FORMATS, "subtitles", DocumentFormat("subtitle file", media, ".plain_text:write_text"))
    text = "The wheel turns.\nThe weir holds.\nThe gate is shut."
    whole = {"text": text, "parts": None, "media": media}
    assert [piece.body for piece, _ in _placed(whole, 200)] == [text]
    assert places(["Mill", "Weir"], "cue", media) == ["cue 1", "cue 2"]
    monkeypatch.setitem(FORMATS, "subtitles", DocumentFormat("subtitle file", media, ".plain_text:write_text", runs_on=True))
    assert places(["Mill", "Weir"], "cue", media) == ["cues 1–2"]
    code = {"text": f"# a.py\n\n```python\n{text}\n```", "parts": None, "media": "text/x-python"}
    assert [piece.body for piece, _ in _placed(code, 200)] == [text]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["The wheel turns at dawn.", "# Weir\n\nIt holds the river."], ["page 1", "page 2"]),  # a piece ends with its page
        (["The wheel turns.\n\n# Weir", "It holds the river.", "# Pond\n\nIt is deep."], ["page 1", "page 2", "page 3"]),
        (["The wheel turns", "a", "# Weir\n\nIt holds"], ["pages 1–2", "page 3"]),  # by one letter
        (["a", "b", "c"], ["pages 1–3"]),
        (
            ["# Mill\n\nIt turns.", "So it does.", "# Weir\n\nIt holds.", "# Pond\n\nIt is deep."],
            ["pages 1–2", "page 3", "page 4"],
        ),
        (["It turns."], ["page 1"]),
    ],
)
def test_a_piece_has_the_pages_it_stands_on_and_no_other(texts: list[str], wanted: list[str]) -> None:
    assert places(texts, "page") == wanted


def test_a_page_is_known_to_the_letter() -> None:
    words = [f"word{number}" for number in range(400)]
    for size in (1, 7, 50):
        texts = [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
        starts = [sum(len(text) + 2 for text in texts[:number]) for number in range(len(texts))]
        parts = [{"start": start, "place": f"page {number}"} for number, start in enumerate(starts, 1)]
        document = {"text": "\n\n".join(texts), "parts": parts, "media": "application/pdf"}
        found = list(_placed(document, 64))
        assert len(found) > 10
        for piece, where in found:
            on = [f"{number}" for number, text in enumerate(texts, 1) if set(text.split()) & set(piece.body.split())]
            assert where == (f"page {on[0]}" if len(on) == 1 else f"pages {on[0]}–{on[-1]}")


def places(texts: list[str], word: str, media: str = "application/pdf") -> list[str | None]:
    starts = [sum(len(text) + 2 for text in texts[:n]) for n in range(len(texts))]
    parts = [{"start": start, "place": f"{word} {n}"} for n, start in enumerate(starts, 1)]
    document = {"text": "\n\n".join(texts), "parts": parts, "media": media}
    found = [where for _, where in _placed(document, 128)]
    return [where for n, where in enumerate(found) if where not in found[:n]]
