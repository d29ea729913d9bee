"""Plain text, Markdown and source code: bytes of any common encoding to text."""

from __future__ import annotations

import codecs
import contextlib
import re
from pathlib import PurePosixPath

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, clean, line

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNDERLINE = re.compile(r"^([=\-~^*\"'`:#+.])\1{2,}$")
_TICKS = re.compile("`+")
_LOOKED_AT = 100_000  # bytes, enough to detect an encoding
NOT_TEXT = "it holds binary data, not text"


def write_text(file: DocumentFile, out: Output) -> None:
    """Write plain text, its underlined titles as headings."""
    out.write(headings(clean(decoded(file.data))))


def write_markdown(file: DocumentFile, out: Output) -> None:
    """Write Markdown as it is."""
    out.write(clean(decoded(file.data)))


def write_code(file: DocumentFile, out: Output) -> None:
    """Write source code below its file's name, in a fence that nothing in it can close."""
    text = clean(decoded(file.data)).strip("\n")
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(text)), default=0))
    if text.strip():
        out.write(f"# {line(PurePosixPath(file.name).name)}\n\n{fence}{file.language}\n{text}\n{fence}\n")


def decoded(data: bytes, declared: str = "") -> str:
    """Bytes as text: by byte order mark, as UTF-8, as UTF-16 without a mark, as declared, or as Windows-1252.

    Raises `ParseRefused` where they are not text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                return _proven(data.decode(encoding))
    with contextlib.suppress(UnicodeDecodeError):
        if b"\x00" not in data[:_LOOKED_AT]:
            return _proven(data.decode("utf-8"))
    if (wide := _utf16(data)) is not None:
        return wide
    if declared:
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return _proven(data.decode(declared))
    with contextlib.suppress(UnicodeDecodeError):
        return _proven(data.decode("utf-8"))
    guess = data.decode("cp1252", "ignore")
    # Old Western text is nearly all printable; anything else that fails as UTF-8 is not text.
    if b"\x00" in data or sum(c.isprintable() or c in "\n\r\t" for c in guess) < 0.99 * len(data):
        raise ParseRefused(NOT_TEXT)
    return _proven(guess)


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


def _utf16(data: bytes) -> str | None:
    """Text in UTF-16 without a mark: in European scripts nearly every other byte is zero."""
    sample = data[:_LOOKED_AT]
    if len(data) % 2 or len(sample) < 4:
        return None
    for zeros, others, encoding in ((sample[1::2], sample[::2], "utf-16-le"), (sample[::2], sample[1::2], "utf-16-be")):
        if zeros.count(0) >= 0.5 * len(zeros) and others.count(0) <= 0.02 * len(others):
            with contextlib.suppress(UnicodeDecodeError, ParseRefused):
                return _proven(data.decode(encoding))
    return None


def _proven(text: str) -> str:
    """The text, unless more than 1 % of it is control characters; a stray NUL is dropped later."""
    control = sum(text.count(chr(code)) for code in range(32) if chr(code) not in "\n\r\t\f\x1b")
    if control > 0.01 * len(text):
        raise ParseRefused(NOT_TEXT)
    return text
