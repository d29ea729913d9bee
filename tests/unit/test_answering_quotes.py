"""Quoted answers: a line for each part, another where two are nearly as good, and what the documents do not hold."""

from __future__ import annotations

import re

import pytest

from headrace.answering.quotes import NOT_FOUND, OR, quote
from headrace.answering.rerank import Passage
from headrace.storage.vectors.handles import Hit

LOCKS = "Locks\nThe upper lock is 8 m wide.\nThe lower lock is 9 m wide."
KEEPER = "Staff\nThe lock keeper is Ines Moor."


def passages(*texts: str) -> list[Passage]:
    return [Passage(Hit(f"c{n}", f"d{n}", "v", f"{n}.md", "", text, 1.0, similarity=0.6), n) for n, text in enumerate(texts, 1)]


def test_two_quotes_that_are_nearly_as_good_are_both_said_and_both_cited() -> None:
    found = quote("How wide is the lock?", passages(KEEPER, LOCKS), None)
    first, second = found.lines
    assert {first.removeprefix(OR), second.removeprefix(OR)} == {"8 m [1]", "9 m [1]"}
    assert not first.startswith(OR)
    assert second.startswith(OR)
    assert [support.number for support in found.supports] == [1, 1]
    quotes = {LOCKS[support.start : support.end] for support in found.supports}
    assert quotes == {"The upper lock is 8 m wide.", "The lower lock is 9 m wide."}, "whole sentences are cited"
    assert found.passages[0].hit.text == LOCKS, "the passage that is quoted comes first"


def test_one_that_is_clearly_better_stands_alone_and_each_part_has_its_line() -> None:
    found = quote("How wide is the upper lock, and who is the lock keeper?", passages(LOCKS, KEEPER), None)
    assert list(found.lines) == ["8 m [1]", "Ines Moor [2]"]
    whole = quote("Is the upper lock wide?", passages(LOCKS, KEEPER), None)
    assert next(iter(whole.lines)) == "The upper lock is 8 m wide. [1]", "no words of it answer"


SIZES = "Sites\n| Site | Capacity |\n|---|---|\n| Lund | 480 TB |\n| Malmö | 480 TB |"


def test_two_things_of_one_question_have_a_line_each_even_if_the_same_is_true_of_both() -> None:
    found = quote("What is the capacity of Lund and Malmö?", passages(SIZES), None)
    assert list(found.lines) == ["Lund: Capacity: 480 TB [1]", "Malmö: Capacity: 480 TB [1]"]
    assert {SIZES[support.start : support.end] for support in found.supports} == {"| Lund | 480 TB |", "| Malmö | 480 TB |"}
    one, none = quote("What is the capacity of Lund and Oslo?", passages(SIZES), None).lines.items()
    assert one[0] == "Lund: Capacity: 480 TB [1]"
    assert none == (f"{NOT_FOUND.removesuffix('.')}: What is the capacity of Oslo?", None)
    together = "Sites\nLund and Malmö have a capacity of 480 TB each."
    assert len(quote("What is the capacity of Lund and Malmö?", passages(together), None).lines) == 1


def test_what_introduces_a_list_or_an_example_is_said_with_it() -> None:
    steps = "- open the valve\n- press the red button\n- wait"
    text = f"# Pump\n\nThe old pump is started in three steps:\n\n{steps}\n\nThe pump is blue.\n"
    [line] = quote("In which steps is the old pump started?", passages(text), None).lines
    assert line == "The old pump is started in three steps: - open the valve - press the red button - wait [1]"
    [support] = quote("In which steps is the old pump started?", passages(text), None).supports
    assert text[support.start : support.end].endswith("- wait"), "quoted as a whole"
    alone = "# Pump\n\nThe old pump is started in three steps:\n"
    assert list(quote("In which steps is the old pump started?", passages(alone), None).lines) == [
        "The old pump is started in three steps: [1]"
    ]


def test_what_is_not_there_is_said_for_the_part_or_for_all() -> None:
    found = quote("How wide is the upper lock, and why did Mongolia secede?", passages(LOCKS), None)
    first, second = found.lines
    assert first == "8 m [1]"
    assert second.startswith(f"{NOT_FOUND.removesuffix('.')}: why did Mongolia secede?")
    assert quote("What is the capital of Mongolia?", passages(LOCKS), None).lines == {NOT_FOUND: None}
    assert quote("What is the capital of Mongolia?", [], None).lines == {NOT_FOUND: None}


def test_a_second_quote_without_sure_words_is_left_out_if_the_first_has_some() -> None:
    found = quote("How wide is the lock?", passages("Locks\nThe upper lock is 8 m wide.\nThe lower lock is as wide."), None)
    assert list(found.lines) == ["8 m [1]"]


def test_where_the_best_quote_is_said_as_a_whole_the_second_is_too() -> None:
    pier = "Pier\nThe pier may be closed by the harbour office.\nThe pier is open until 15 September."
    lines = list(quote("Who may close the pier?", passages(pier), None).lines)
    assert lines[0] == "The pier may be closed by the harbour office. [1]"
    assert all(line == f"{OR}The pier is open until 15 September. [1]" for line in lines[1:])


@pytest.mark.parametrize("like", ["[2]", "[ 2 ]", "［2］", "【2】", "〔2〕", "[²]", "\u202e]2[\u202c"])
def test_a_document_cannot_pretend_that_another_one_says_it(like: str) -> None:
    """The number of a passage in a quoted sentence, or in a cell of a table, looked like a citation of that passage."""
    evil = f"# Lock\n\nThe upper lock is closed by order of the board {like}.\n"
    [line] = quote("By whose order is the upper lock closed?", passages(KEEPER, evil), None).lines
    assert line.startswith("The upper lock is closed by order of the board ")
    table = f"| lock | key {like} |\n|---|---|\n| upper | 4242 {like} |\n| lower | 1313 |\n"
    [cell] = quote("What is the key of the upper lock?", passages(KEEPER, table), None).lines
    assert "4242" in cell
    for shown in (line, cell):
        assert shown.endswith(" [1]")
        assert not re.search(r"[［【〔\[]\s*[\d²]|\u202e", shown.removesuffix(" [1]"))
