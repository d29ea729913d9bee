"""Consoles on which nothing that is printed can steer the terminal: what users, documents and names bring along is escaped.

Everything that people read goes through here, so that no command can forget it. Styles and cursor movements of rich's own are no
text and pass; `--json` is not for terminals, see `exact`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters but line feed and tab, marks that change the direction of text, line ends that are none, half characters.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Terminal(Console):
    """A console that escapes what would steer a terminal, wherever in what is printed it stands.

    Nor does it read markup or names of emoji in what it prints, unless told to: a `[link=…]` in a name is text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`: everything printed, also each cell of a table, comes through it."""
        if isinstance(renderable, Text) and _STEERING.search(renderable.plain):
            renderable = _escaped(renderable)  # before it is laid out, so that columns stay as wide as they look
        for segment in super().render(renderable, options):
            if segment.control or not _STEERING.search(segment.text):
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


class Harmless(logging.Formatter):
    """Lines of a log for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, escaped."""
        return harmless(super().format(record))


def harmless(text: str) -> str:
    """The text with each character that would steer a terminal as an escape such as `\\x1b`; line ends and tabs stay."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def printable(text: str) -> str:
    """A name or reason on one line: line ends, tabs and whatever else does not show as it is are escaped, too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def exact(value: Any) -> str:
    """A value as JSON on several lines; what would steer a terminal stands in it as JSON escapes, which mean the same."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(text: Text) -> Text:
    """The text with escapes in place of what would steer, its styles where they were."""
    whole, rest = text.blank_copy(), text
    while (match := _STEERING.search(rest.plain)) is not None:
        before, steering, rest = rest.divide([match.start(), match.end()])
        shown = Text(harmless(match[0]))
        for span in steering.spans:
            shown.stylize(span.style)
        whole.append_text(before).append_text(shown)
    return whole.append_text(rest)
