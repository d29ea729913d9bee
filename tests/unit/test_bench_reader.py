"""What `bench.reader` counts as right: every part answered, and no wrong line beside the right one."""

from __future__ import annotations

import pytest

from bench.reader import Asked, kind_of

TWO = Asked("Who greases the pump, and when?", [["Ines Moor"], ["Monday", "Mondays"]], frozenset({"pumps.md"}))
WHO, WHEN, OTHER = "Ines Moor greases it.", "It is greased on Mondays.", "It is blue."


@pytest.mark.parametrize(
    ("lines", "others", "kind"),
    [
        ([WHO, WHEN], 0, "right"),
        (["On Mondays Ines Moor greases it."], 0, "right"),
        ([WHO, WHEN, OTHER], 0, "beside_wrong"),
        ([WHO, WHEN], 1, "beside_wrong"),
        ([WHO], 0, "wrong"),
        ([WHO, OTHER], 0, "wrong"),
        ([], 2, "wrong"),
    ],
)
def test_a_wrong_line_beside_a_right_one_is_counted_as_what_it_is(lines: list[str], others: int, kind: str) -> None:
    assert kind_of(TWO, lines, others) == kind


def test_what_has_no_answer_is_never_answered_right() -> None:
    assert kind_of(Asked("Who paints it?", [], frozenset()), [WHO]) == "wrong"
