"""The text of a document as it grows, and the places it is made of."""

from __future__ import annotations

import re

from headrace.documents.formats.refusal import ParseRefused

# What no text means to hold: control characters but tab, line feed and escape, halves of surrogate pairs, and noncharacters.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_LINE_ENDS = re.compile("\r\n|\r|\x0b|\x0c|\x85|\u2028|\u2029")


class Output:
    """Takes text, counts it, and keeps it apart by place."""

    def __init__(self, most: int) -> None:
        """`most` is how many characters there may be. More raise `ParseRefused`."""
        self._most = most
        self._left = most
        self._parts: list[tuple[list[str], str]] = [([], "")]

    def turn(self, place: str) -> None:
        """What follows stands at `place`: a page, a slide, a sheet."""
        self._parts.append(([], place))

    def write(self, text: str) -> None:
        """Take some text; a line's end is the caller's to write."""
        self._left -= len(text)
        if self._left < 0:
            raise ParseRefused(f"its text is longer than the limit of {self._most:,} characters")
        self._parts[-1][0].append(text)

    def parts(self) -> list[tuple[str, str]]:
        """(text, place) of each part that has text, cleaned of what is no text."""
        cleaned = ((clean("".join(pieces)).strip("\n"), place) for pieces, place in self._parts)
        return [(text.rstrip(), place) for text, place in cleaned if text.strip()]


def clean(text: str) -> str:
    """The text with line feeds for every kind of line end and without what is no text."""
    return _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))


def line(text: str) -> str:
    """The text on one line, for a heading, a cell or a place."""
    return " ".join(clean(text).split())


def plain(text: str) -> str:
    """One line of running text, kept from being read as a Markdown heading or fence."""
    return "\\" + text if text.startswith(("#", "```", "~~~")) else text
