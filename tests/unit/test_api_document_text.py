"""Where a passage stands in the text of its document."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.api.admission import AdmissionQueue
from headrace.api.auth import READ, Caller
from headrace.api.document_text import _WINDOW, DocumentTexts, _around, located
from headrace.errors import Overloaded
from headrace.settings import TenantLimits

TABLE = "# Prices\n\n| Tier | EUR |\n| --- | --- |\n| Gold | 38 |\n| Silver | 17 |\n| Bronze | 7 |\n"


def parts(text: str, passage: str) -> list[str]:
    return [text[start:end] for start, end in located(text, passage)]


def test_a_passage_that_was_cut_out_is_found_in_one_piece() -> None:
    assert parts("a\n\nNightly backups.\nKept.\n\nb", "Nightly backups.\nKept.") == ["Nightly backups.\nKept."]


def test_a_part_of_a_table_is_found_without_the_head_that_it_repeats_being_found_twice() -> None:
    passage = "| Tier | EUR |\n| --- | --- |\n| Silver | 17 |\n| Bronze | 7 |"
    assert parts(TABLE, passage) == ["| Tier | EUR |\n| --- | --- |", "| Silver | 17 |\n| Bronze | 7 |"]


def test_lines_are_looked_for_in_their_order_and_those_that_are_gone_are_left_out() -> None:
    text = "first line\nsecond line\nfirst line\nthird line\n"
    assert parts(text, "second line\nanother line\nfirst line") == ["second line\nfirst line"]
    assert parts(text, "nothing of it") == []
    assert parts(text, "") == []


def test_a_passage_that_is_not_there_is_not_looked_for_line_by_line() -> None:
    """600 lines that a text of ten million characters nearly has took 20 s."""
    text = "kept one\n" + "lost\n" * 9
    assert parts(text, "\n".join(["never"] * 10 + ["kept one"])) == ["kept one"]
    assert parts(text, "\n".join(["never"] * 600 + ["kept one"])) == []


def test_a_long_text_is_cut_around_the_passage_at_the_beginning_of_a_line() -> None:
    text = "\n".join(f"line {number}" for number in range(20_000))
    at = text.index("line 15000\n")
    start, part = _around(text, at)
    assert len(part) == _WINDOW
    assert start < at < start + len(part)
    assert text[start - 1] == "\n"
    assert _around(text, 0) == (0, text[:_WINDOW])
    assert _around("short", 2) == (0, "short")


def test_a_tenant_has_no_more_texts_read_at_once_than_questions_answered() -> None:
    """A text may have ten million characters, and as many were read at once as there were connections."""
    places = AdmissionQueue(at_once=1, waiting=4)
    caller = Caller("acme", "key", frozenset({READ}), TenantLimits(questions=2))
    for _ in range(2):
        places.enter("acme")
    nothing: Any = None  # it is refused before anything is read
    with pytest.raises(Overloaded, match="2 questions"):
        DocumentTexts(nothing, nothing, places).text(caller, "acme", "a.md")
