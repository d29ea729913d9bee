"""The text of one document to pieces that fit the embedder's window, cut by structure, heading path in front."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from headrace.documents.formats.markdown import fence_after, outline
from headrace.models import tokens

_SEPARATOR = " › "
# Each splitter copies the tokenizer, so the room is rounded down: a few splitters then serve all headings.
_ROOM_STEP = 8
_MEASURED_CHARS = 20_000  # that a splitter cuts before it gets a copy of the tokenizer
_PATH_SHARE = 0.25  # of the window, at most, for the heading path
_HEADER_SHARE = 0.5  # of a chunk, at most, for the header of a table; a wider table is cut cell by cell
_LEAD_SHARE = 0.25  # of a chunk, at most, for text above a table that goes with it
_NAME_CHARS = 40  # of a column's name in front of every cell
# The splitter's time grows with the square of its input, and to the embedder a word of any length is one word piece.
_BLOCK_CHARS = 10_000
_PIECE_CHARS = 10  # per word piece
_NESTED = re.compile(r"^(?:>[ \t]*|[*+-][ \t]+|\d{1,9}[.)][ \t]+){16}", re.MULTILINE)  # quotes and lists, one in the other
_CELL_END = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Piece:
    """The text of one chunk, the heading path above it, and the character of the whole text at which it begins."""

    heading: str
    body: str
    start: int


def pieces(text: str, window: int, *, code: bool = False) -> Iterator[Piece]:
    """The chunks of a Markdown text in order, or with `code` of a text that is one fence of source code.

    A table that does not fit into one chunk is cut between rows, and each part has the header above it.
    """
    return filter(None, steps(text, window, code=code))


def steps(text: str, window: int, *, code: bool = False) -> Iterator[Piece | None]:
    """As `pieces`, and `None` for each stretch without words: a text may have ten million dots, which take minutes."""
    for path, body, start in _sections(text):
        heading = _fitting(tuple(path), int(window * _PATH_SHARE))
        room = window - tokens.count(heading) - 1 if heading else window
        room -= room % _ROOM_STEP
        for at, piece in _cut_code(body, room) if code else _cut(body, room):
            yield Piece(heading, piece, start + at) if any(c.isalnum() for c in piece) else None


def _sections(text: str) -> Iterator[tuple[list[str], str, int]]:
    """(heading path, body, the character at which the body begins) of each section."""
    path: list[tuple[int, str]] = []
    body: list[str] = []
    at = begun = 0

    def section() -> Iterator[tuple[list[str], str, int]]:
        if any(part.strip() for part in body):
            whole = "\n".join(body)
            yield [title for _, title in path], whole.strip("\n"), begun + len(whole) - len(whole.lstrip("\n"))

    for line, level, title in outline(text):
        at += len(line) + 1
        if not level:
            body.append(line)
            continue
        yield from section()
        body, begun = [], at
        path = [(depth, above) for depth, above in path if depth < level] + [(level, title)]
    yield from section()


def _cut(body: str, room: int) -> Iterator[tuple[int, str]]:
    """(start, text) of the pieces of a section; running text and tables are cut differently."""
    blocks = list(_blocks(body))
    if _fits(body, room) or not any(table for table, _, _ in blocks):
        yield from _cut_text(body, room)
        return
    lead: tuple[int, str] | None = None
    for table, start, block in blocks:
        if table:
            above = block if lead is None else f"{lead[1]}\n{block}"
            if _fits(above, room):
                yield start if lead is None else lead[0], above
            else:
                if lead is not None:
                    yield lead
                yield from ((start + at, piece) for at, piece in _cut_table(block, room))
            lead = None
            continue
        if lead is not None:
            yield lead
        cut = [(start + at, piece) for at, piece in _cut_text(block, room)]
        lead = cut.pop() if cut and tokens.count(cut[-1][1]) <= room * _LEAD_SHARE else None
        yield from cut
    if lead is not None:
        yield lead


def _blocks(body: str) -> Iterator[tuple[bool, int, str]]:
    """(whether it is a table, start, text) of each stretch of a section."""
    lines = body.split("\n")
    fence = ""
    kinds: list[bool] = []
    for index, line in enumerate(lines):
        fence = fence_after(fence, line)
        row = not fence and line.lstrip().startswith("|")
        kinds.append(row and ((bool(kinds) and kinds[-1]) or _is_rule(lines[index + 1] if index + 1 < len(lines) else "")))
    start = at = 0
    for index, line in enumerate(lines):
        at += len(line) + 1
        if index + 1 == len(lines) or kinds[index + 1] != kinds[index]:
            if (block := body[start : at - 1]).strip():
                yield kinds[index], start, block
            start = at


def _is_rule(line: str) -> bool:
    """Whether this is the line below a table's header: bars, dashes and colons."""
    return "-" in line and set(line) <= set("|-: \t")


def _cut_table(block: str, room: int) -> Iterator[tuple[int, str]]:
    """Groups of rows, each below the header; of a table too wide for that, groups of cells, each after its column's name."""
    header, _, *rows = block.split("\n")
    names = _cells(header)
    rule = "|" + "-|" * len(names)  # as short as Markdown allows: every dash is a word piece
    above = _width(header) + _width(rule)
    at = block.index("\n", len(header) + 1) + 1 if rows else len(block)
    start, lines, size = at, [header, rule], above
    wide = above > room * _HEADER_SHARE
    for row in rows:
        count = _width(row)
        if lines[2:] and size + count > room:
            yield start, "\n".join(lines)
            lines, size = [header, rule], above
        if wide or above + count > room:
            yield from ((at, piece) for piece in _cut_cells(names, _cells(row), room))
        else:
            start = at if len(lines) == 2 else start
            lines.append(row)
            size += count
        at += len(row) + 1
    if lines[2:]:
        yield start, "\n".join(lines)


def _cut_cells(names: Sequence[str], cells: Sequence[str], room: int) -> Iterator[str]:
    """A row's cells as "name: cell", as many together as fit."""
    pending: list[str] = []
    size = 0
    for index, cell in enumerate(cells):
        if not cell:
            continue
        name = names[index][:_NAME_CHARS] if index < len(names) else ""
        for piece in [cell] if _fits(cell, room // 2) else [text for _, text in _cut_text(cell, room // 2)]:
            sentence = f"{name}: {piece}" if name and tokens.count(name) <= room // 4 else piece
            count = _width(sentence) + 1
            if pending and size + count > room:
                yield "; ".join(pending)
                pending, size = [], 0
            pending.append(sentence)
            size += count
    if pending:
        yield "; ".join(pending)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(row.strip().removeprefix("|").removesuffix("|"))]


def _cut_code(body: str, room: int) -> Iterator[tuple[int, str]]:
    """Source code without its fence, cut where blank lines and indentation suggest it."""
    first, _, rest = body.partition("\n")
    code, _, last = rest.rpartition("\n")
    fence = fence_after("", first)
    begun, code = (len(first) + 1, code) if fence and not fence_after(fence, last) else (0, body)
    for at, piece in _cut_text(code, room, _code_splitter):
        yield begun + at, piece.strip("\n")


def _cut_text(text: str, room: int, splitter: Callable[[int], _Splitter] | None = None) -> Iterator[tuple[int, str]]:
    """Running text, cut by the splitter: in blocks that it can handle, and into pieces that are not too long.

    Quotes within quotes are cut as plain text: their structure took the splitter ten times as long as prose.
    """
    for start, block in _bounded(text, _BLOCK_CHARS):
        cut = (splitter or (_plain_splitter if _NESTED.search(block) else _splitter))(room)
        for at, piece in cut.chunk_indices(block):
            if len(piece) <= room * _PIECE_CHARS:
                yield start + at, piece
                continue
            for inner, narrow in _bounded(piece, room * _PIECE_CHARS):
                if _fits(narrow, room):
                    yield start + at + inner, narrow
                else:
                    yield from ((start + at + inner + deep, part) for deep, part in cut.chunk_indices(narrow))


def _bounded(text: str, most: int) -> Iterator[tuple[int, str]]:
    """Stretches of at most so many characters that end with a paragraph, else a line, a sentence or a word if there is one."""
    start = 0
    while len(text) - start > most:
        window = text[start : start + most]
        end = next((at + len(mark) for mark in ("\n\n", "\n", ". ", " ") if (at := window.rfind(mark)) > most // 2), most)
        yield start, text[start : start + end]
        start += end
    yield start, text[start:]


def _fits(text: str, room: int) -> bool:
    return len(text) <= room * _PIECE_CHARS and tokens.count(text) <= room


def _width(text: str) -> int:
    """The room that a text takes: its word pieces, or its characters divided by `_PIECE_CHARS` where that is more."""
    least = -(-len(text) // _PIECE_CHARS)
    return least if len(text) > _BLOCK_CHARS else max(tokens.count(text), least)  # a longer one fits nowhere, whatever it has


@lru_cache(maxsize=64)
def _fitting(path: tuple[str, ...], room: int) -> str:
    """The heading path, shortened from the front until it takes at most `room` word pieces."""
    while path:
        joined = _SEPARATOR.join(path)
        if tokens.count(joined) <= room:
            return joined
        path = path[1:]
    return ""


class _Splitter:
    """Cuts texts into pieces of at most `room` word pieces.

    The first texts are measured by a function of Python's. A splitter with a copy of the tokenizer takes a quarter less time for
    each, but 30 ms to make, which is more than a pass over one short document takes to cut it.
    """

    def __init__(self, kind: type[MarkdownSplitter | TextSplitter], room: int, *, trim: bool = True) -> None:
        self._make: Callable[[], MarkdownSplitter | TextSplitter] | None = partial(
            kind.from_huggingface_tokenizer, tokens.tokenizer(), room, trim=trim
        )
        self._cut = kind.from_callback(tokens.count, room, trim=trim)
        self._left = _MEASURED_CHARS

    def chunk_indices(self, text: str) -> list[tuple[int, str]]:
        """The pieces, each with the character at which it begins."""
        self._left -= len(text)
        make = self._make
        if self._left < 0 and make is not None:  # of two threads both may make one
            self._cut, self._make = make(), None
        return self._cut.chunk_indices(text)


@lru_cache(maxsize=512)
def _splitter(room: int) -> _Splitter:
    return _Splitter(MarkdownSplitter, room)


@lru_cache(maxsize=512)
def _plain_splitter(room: int) -> _Splitter:
    return _Splitter(TextSplitter, room)


@lru_cache(maxsize=512)
def _code_splitter(room: int) -> _Splitter:
    # Untrimmed: the indentation of a line matters.
    return _Splitter(TextSplitter, room, trim=False)
