"""Counting word pieces the way the embedder reads them."""

from __future__ import annotations

from headrace.models.tokens import MARKS, count, tokenizer


def test_word_pieces_are_counted_whole_and_without_marks() -> None:
    assert count("") == 0
    assert count("hello world") == 2
    assert count("hello " * 1000) == 1000  # beyond the embedder's window: nothing is cut
    assert len(tokenizer().encode("hello world").ids) == 2 + MARKS
