"""What a reader of one format is given and gives back: limits, a refusal, text with its places, messages on a pipe."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from headrace.settings import Inference


@dataclass(frozen=True)
class ParseLimits:
    """The limits of one file, as `[inference]` sets them; see the settings for what each bounds."""

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

    @classmethod
    def from_settings(cls, settings: Inference) -> ParseLimits:
        """The limits that the settings name."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class DocumentFile:
    """One file for its writer: the name it has, its bytes, the limits, and its language where it is source code."""

    name: str
    data: bytes
    limits: ParseLimits
    language: str = ""


class ParseRefused(Exception):
    """The file cannot or may not be parsed; `reason` is one clause that a person can read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def size(count: int) -> str:
    """Bytes for people: 4.2 GB."""
    if count < 1_000:
        return f"{count} bytes"
    for power, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


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

    def begin_part(self, place: str) -> None:
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


HEADER = struct.Struct(">Q")


def framed(message: bytes) -> bytes:
    """The message as it goes on the pipe."""
    return HEADER.pack(len(message)) + message


def read_frame(pipe: BinaryIO) -> bytes | None:
    """The next message, or `None` where the pipe has ended."""
    head = pipe.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (length,) = HEADER.unpack(head)
    message = pipe.read(length)
    return message if len(message) == length else None
