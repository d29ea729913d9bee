"""Consoles that escape control characters, so that text from users and documents cannot control the terminal.

All output for people goes through here, so that no command can forget it. rich's own styles and cursor movements are not text and
are not escaped; for `--json` see `exact`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters except line feed and tab, marks that change the direction of text, Unicode line separators, lone surrogates.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


_UNWRAPPED = 100_000  # what goes into a pipe or a file is not broken into lines: other programs read it


class Terminal(Console):
    """A console that escapes control characters anywhere in its output.

    Markup and emoji names are off by default: a `[link=…]` in a name is text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    @property
    def size(self) -> ConsoleDimensions:
        """See `Console.size`; a pipe or a file takes lines of any length, unless COLUMNS says otherwise."""
        if self._width is not None or self.is_terminal:
            return super().size
        return ConsoleDimensions(_UNWRAPPED, super().size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`: all output, including each table cell, passes through it."""
        if isinstance(renderable, Text) and _STEERING.search(renderable.plain):
            renderable = _escaped(renderable)  # before layout, so that column widths are right
        for segment in super().render(renderable, options):
            if segment.control or not _STEERING.search(segment.text):
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


class Harmless(logging.Formatter):
    """Formats log lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, escaped."""
        return harmless(super().format(record))


def harmless(text: str) -> str:
    """The text with each control character as an escape such as `\\x1b`; line ends and tabs stay."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def printable(text: str) -> str:
    """A name or reason on one line: line ends, tabs and everything else that is not printable are escaped too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def exact(value: Any) -> str:
    """A value as indented JSON, a set as a sorted list; control characters become JSON escapes, which mean the same."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _escaped(text: Text) -> Text:
    """The text with control characters escaped and its styles kept."""
    whole, rest = text.blank_copy(), text
    while (match := _STEERING.search(rest.plain)) is not None:
        before, steering, rest = rest.divide([match.start(), match.end()])
        shown = Text(harmless(match[0]))
        for span in steering.spans:
            shown.stylize(span.style)
        whole.append_text(before).append_text(shown)
    return whole.append_text(rest)
