"""The lines of a page in the order in which they are read, where a program drew two or more columns row by row."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Box = tuple[float, float, float, float]

_LEAST_ROWS = 3  # with text in every column
_WORDS = 3  # of running text in a piece, at least on average; cells of a table have fewer
_WIDE_CHARACTERS = 12  # of a script without spaces, as many as that
_GUTTER = 0.5  # between columns, in heights of a line
_GAP = 2.0  # between rows of the same columns, at most


@dataclass
class TextLine:
    """A line of text; `size` is the height of its letters and `box` (left, top, right, bottom) in points, downwards."""

    text: str
    size: float
    box: Box
    rows: list[list[str]] = field(default_factory=list)


def in_reading_order(rows: Sequence[Sequence[TextLine]]) -> Iterator[TextLine]:
    """The lines of a page from rows of pieces that stand far apart: column by column where they are running text in columns.

    Other pieces of a row, like cells of a table without rules, stay one line.
    """
    start = 0
    while start < len(rows):
        if len(rows[start]) > 1:
            end, edges = _block(rows, start)
            full = [row for row in rows[start:end] if len(row) > 1]
            if len(full) >= _LEAST_ROWS and statistics.mean(_words(piece.text) for row in full for piece in row) >= _WORDS:
                for left, right in edges:
                    for row in rows[start:end]:
                        yield from (piece for piece in row if left <= _middle(piece) <= right)
                start = end
                continue
        yield _joined(rows[start])
        start += 1


def _block(rows: Sequence[Sequence[TextLine]], start: int) -> tuple[int, list[tuple[float, float]]]:
    """The row behind the columns that begin with a row of pieces, and the left and right edge of each column."""
    edges = [(piece.box[0], piece.box[2]) for piece in rows[start]]
    end = start + 1
    while end < len(rows):
        widened = list(edges)
        at = -1
        for piece in rows[end]:
            column = next(
                (n for n, (left, right) in enumerate(edges) if n > at and piece.box[0] < right and left < piece.box[2]), None
            )
            if column is None:
                return end, edges
            at = column
            widened[at] = (min(widened[at][0], piece.box[0]), max(widened[at][1], piece.box[2]))
        height = max(piece.box[3] - piece.box[1] for piece in rows[end])
        below = min(piece.box[1] for piece in rows[end]) - max(piece.box[3] for piece in rows[end - 1])
        if below > _GAP * height or any(right + _GUTTER * height > left for (_, right), (left, _) in pairwise(widened)):
            return end, edges
        edges = widened
        end += 1
    return end, edges


def _words(text: str) -> float:
    return max(len(text.split()), _WORDS * len(text) / _WIDE_CHARACTERS if not text.isascii() and " " not in text else 0)


def _middle(piece: TextLine) -> float:
    return (piece.box[0] + piece.box[2]) / 2


def _joined(row: Sequence[TextLine]) -> TextLine:
    if len(row) == 1:
        return row[0]
    left, top, right, bottom = zip(*(piece.box for piece in row), strict=True)
    size = max(row, key=lambda piece: len(piece.text)).size
    return TextLine(" ".join(piece.text for piece in row), size, (min(left), min(top), max(right), max(bottom)))
