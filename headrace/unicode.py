"""Unicode's normal forms, in a time that grows with the length of the text alone."""

from __future__ import annotations

import unicodedata
from typing import Literal

_MARKS = 30
"""Of one letter, at most: UAX #15, Stream-Safe Text Format. No language's letters have as many."""
_FIRST_MARK = "\u0300"


def normalized(form: Literal["NFC", "NFD", "NFKC"], text: str) -> str:
    """The text in a normal form; as it is if one of its letters has more than 30 marks.

    Marks are put into their order one by one, which takes the square of their number: 0.5 s for 16,000 of them, during which
    Python runs nothing else.
    """
    return text if _marks(text) > _MARKS else unicodedata.normalize(form, text)


def _marks(text: str) -> int:
    """The most marks in a row; some characters are no marks, but consist of them (U+0F73)."""
    if max(text, default="") < _FIRST_MARK:
        return 0
    most = run = 0
    for character in text:
        marked = character >= _FIRST_MARK and unicodedata.combining(unicodedata.normalize("NFD", character)[0])
        run = run + 1 if marked else 0
        most = max(most, run)
    return most
