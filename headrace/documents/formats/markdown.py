"""Headings and fences in Markdown: one rule for the writers of formats, for titles and for chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r"#{1,6}(?=\s)")
_TITLE_CHARS = 500  # of a heading; a longer one would fit no window
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")


def outline(text: str) -> Iterator[tuple[str, int, str]]:
    """(line, level, title) of each line; the level is 0 and the title "" unless it is a heading. Fences have no headings."""
    fence = ""
    for line in text.splitlines():
        fence = fence_after(fence, line)
        match = None if fence else _HEADING.match(line)
        yield (line, len(match[0]), _title(line[len(match[0]) :])) if match else (line, 0, "")


def fence_after(fence: str, line: str) -> str:
    """The fence that is open after a line, "" for none; only a bare one of the same kind and at least as long closes it."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    if not fence:
        return match[1]
    return "" if match[1].startswith(fence) and not match[2].strip() else fence


def _title(text: str) -> str:
    """A heading's title without closing # signs."""
    title = text.strip()
    bare = title.rstrip("#")
    return (bare.rstrip() if not bare or bare[-1].isspace() else title)[:_TITLE_CHARS]
