"""What a writer of one format takes and returns: limits, a file, text by place, refusals; and messages on a pipe."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from headrace.settings import Inference


@dataclass(frozen=True)
class ParseLimits:
    """The limits of one file, as under `[inference]`; the settings say what each bounds.

    `pii` says what is done with each kind of personal data that is looked for.
    """

    document_bytes: int
    document_pages: int
    document_sheets: int
    document_rows: int
    document_characters: int
    unpacked_bytes: int
    unpacked_ratio: int
    unpacked_files: int
    parse_seconds: float
    parse_cpu_seconds: int
    parse_memory_bytes: int
    ocr_pages: int
    ocr_seconds: float
    pii: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Inference) -> ParseLimits:
        """The limits in the settings."""
        named = {name: getattr(settings, name) for name in cls.__dataclass_fields__ if name != "pii"}
        return cls(**named, pii=settings.pii.actions())


@dataclass(frozen=True)
class DocumentFile:
    """One file for its writer: its name, its bytes, the limits, and for source code the language."""

    name: str
    data: bytes
    limits: ParseLimits
    language: str = ""


class ParseRefused(Exception):
    """The file cannot or may not be parsed; `reason` is one clause that a user understands."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def size(count: int) -> str:
    """A number of bytes for people, like 4.2 GB."""
    if count < 1_000:
        return f"{count} bytes"
    for power, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


# Control characters except tab and line feed, halves of surrogate pairs, noncharacters, and marks that show nothing and divide
# words: soft hyphen, zero-width space, word joiner and byte order mark.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u2060\ud800-\udfff\ufeff\ufffe\uffff]")
_TERMINAL = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\\\)|[@-Z\\\\^_])")  # ECMA-48
_LINE_ENDS = re.compile("\r\n|\r|\x0b|\x0c|\x85|\u2028|\u2029")


class Output:
    """Collects text by place, and counts its characters."""

    def __init__(self, most: int, working: Callable[[], None] = lambda: None) -> None:
        """`most` is the limit of characters; `working` is called before each page that takes as long as a document may."""
        self._most = most
        self.working = working
        self.ocr_confidence: float | None = None
        """Mean confidence over the letters that were read from pictures, from 0 to 1; `None` where none were."""
        self._left = most
        self._parts: list[tuple[list[str], str]] = [([], "")]
        self.notes: list[str] = []
        """What is not in the text, one clause each."""
        self.remark = ""
        """How the text was made, where that matters to who reads it, as a clause."""

    def note(self, clause: str) -> None:
        """Note what the text lacks of the file, as a clause like the reason of `ParseRefused`."""
        self.notes.append(clause)

    def begin_part(self, place: str) -> None:
        """Start a page, slide or sheet; `place` is its name."""
        self._parts.append(([], place))

    def write(self, text: str) -> None:
        """Add text, with the line ends the caller wants. Raises `ParseRefused` beyond the limit."""
        self._left -= len(text)
        if self._left < 0:
            raise ParseRefused(f"its text is longer than the limit of {self._most:,} characters")
        self._parts[-1][0].append(text)

    def parts(self) -> list[tuple[str, str]]:
        """(text, place) of each part that has text, without unwanted characters."""
        cleaned = ((clean("".join(pieces)).strip("\n"), place) for pieces, place in self._parts)
        return [(text.rstrip(), place) for text, place in cleaned if text.strip()]


def clean(text: str) -> str:
    """The text with a line feed for every kind of line end, and without unwanted characters and a terminal's colours."""
    return _UNWANTED.sub("", _LINE_ENDS.sub("\n", _TERMINAL.sub("", text) if "\x1b" in text else text))


def line(text: str) -> str:
    """The text on one line, for a heading, a cell or a place."""
    return " ".join(clean(text).split())


def plain(text: str) -> str:
    """One line of running text, escaped where Markdown would read it as a heading or fence."""
    return "\\" + text if text.startswith(("#", "```", "~~~")) else text


HEADER = struct.Struct(">Q")


def framed(message: bytes) -> bytes:
    """A message with its length in front, for the pipe."""
    return HEADER.pack(len(message)) + message


def read_frame(pipe: BinaryIO) -> bytes | None:
    """The next message, or `None` at the end of the pipe."""
    head = pipe.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (length,) = HEADER.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None
