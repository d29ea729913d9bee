"""Plain text, Markdown and source code: bytes of any common encoding to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from headrace.documents.formats.contract import DocumentFile, Output, clean, line
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.markdown import fence_after

_UNDERLINE = re.compile(r"^([=\-~^*\"'`:#+.])\1{2,}$")
_SETEXT = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_TAGGED = re.compile(r"^ {0,3}<h([1-6])\b[^>]{0,500}>(.{1,500}?)</h\1>\s*$", re.I)
_TAG = re.compile(r"<[^<>]{0,500}>")
_INDENTED_HEADING = re.compile(r"^ {1,3}(?=#{1,6}\s)")
# What a line begins with that is in no paragraph: headings, lists, quotations, tables, code, HTML, rules.
_OTHER_BLOCK = re.compile(r"^(?: {0,3}(?:#{1,6}\s|[-*+]\s|\d{1,9}[.)]\s|>|\||<[/!a-z]|(?:[-*_][ \t]*){3,}$)|    |\t)", re.I)
_ESCAPED = ("json", "yaml", "ini")
_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_TICKS = re.compile("`+")


def write_text(file: DocumentFile, out: Output) -> None:
    """Write plain text, its underlined titles as headings."""
    out.write(headings(clean(decoded(file.data))))


def write_markdown(file: DocumentFile, out: Output) -> None:
    """Write Markdown with every kind of heading as one of # signs, and no others."""
    out.write(markdown_headings(clean(decoded(file.data))))


def write_code(file: DocumentFile, out: Output) -> None:
    """Write source code below its file's name, in a fence that nothing in it can close."""
    text = clean(decoded(file.data)).strip("\n")
    if file.language in _ESCAPED:
        text = clean(_unescaped(text))
    if text.strip():
        out.write(f"# {line(PurePosixPath(file.name).name)}\n\n{fenced(text, file.language)}")


def fenced(text: str, language: str) -> str:
    """Text in a fence that nothing in it can close."""
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}\n"


def markdown_headings(text: str) -> str:
    """Turn underlined titles (CommonMark's setext headings) and HTML's headings into lines that begin with # signs.

    A line in a comment that begins with # is escaped. Front matter, code and tables stay as they are.
    """
    out: list[str] = []
    fence = ""
    comment = False
    paragraph = 0  # lines of it so far
    lines = text.split("\n")
    first = _front_matter(lines)
    for number, text_line in enumerate(lines):
        inside = number < first or comment
        before, fence = fence, fence if inside else fence_after(fence, text_line)
        if inside or before or fence:
            out.append("\\" + text_line if comment and text_line.startswith("#") else text_line)
            comment = comment and "-->" not in text_line
            paragraph = 0
            continue
        comment = text_line.lstrip().startswith("<!--") and "-->" not in text_line
        if paragraph and (under := _SETEXT.match(text_line)):
            title = " ".join(part.strip() for part in out[-paragraph:])
            out[-paragraph:] = [f"{'#' if under[1][0] == '=' else '##'} {title}", *[""] * paragraph]
            paragraph = 0
            continue
        if tagged := _TAGGED.match(text_line):
            text_line = f"{'#' * int(tagged[1])} {_TAG.sub('', tagged[2]).strip()}"
        text_line = _INDENTED_HEADING.sub("", text_line)
        out.append(text_line)
        starts = text_line.strip() and not _OTHER_BLOCK.match(text_line)
        paragraph = paragraph + 1 if starts else 0
    return "\n".join(out)


def _front_matter(lines: Sequence[str]) -> int:
    """The number of lines of YAML or TOML between two rules at the head of a Markdown file."""
    if not lines or lines[0].rstrip() not in ("---", "+++"):
        return 0
    return next((n + 1 for n, one in enumerate(lines[1:200], 1) if one.rstrip() == lines[0].rstrip()), 0)


def _unescaped(text: str) -> str:
    """Letters beyond ASCII that JSON, YAML or a properties file writes as escapes; those with a meaning in the syntax stay."""
    return _ESCAPE.sub(_letter, text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _letter(match: re.Match[str]) -> str:
    code = int(match[2] or match[3], 16)
    return match[1] + chr(code) if code >= 0xA0 else match[0]


def headings(text: str) -> str:
    """Turn underlined titles, as in plain text and reStructuredText, into Markdown headings.

    The first kind of underline is level 1, the next new one level 2, and so on.
    """
    lines, out, order = text.splitlines(), [], []
    fenced = False
    for index, text_line in enumerate(lines):
        fenced ^= text_line.lstrip().startswith("```")
        below = lines[index + 1].rstrip() if index + 1 < len(lines) else ""
        match = _UNDERLINE.match(below)
        title = text_line.strip()
        if not fenced and match and title and not _UNDERLINE.match(title) and abs(len(below) - len(text_line.rstrip())) <= 2:
            if match[1] not in order:
                order.append(match[1])
            out.append(f"{'#' * min(6, order.index(match[1]) + 1)} {title}")
        elif not fenced and _UNDERLINE.match(text_line.rstrip()) and out and out[-1].startswith("#"):
            out.append("")
        else:
            out.append(text_line)
    return "\n".join(out)
