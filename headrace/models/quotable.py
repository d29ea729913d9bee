"""What can be quoted of a passage: its sentences, lines and table rows, each with what is above and beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from headrace.models.support import MONTHS, UNITS, above, sentences, without_bold

PASSAGES = 6
"""The number of best passages that are searched for quotes."""
_QUOTES = 96  # of a question's passages; one of many short lines may have more
_COLUMNS = 8  # cells of a row that are shown
_LISTED = 16  # items of a list or rows of a table below what introduces them
# A wrapped line of prose has at least so many characters and words; a sentence is joined up to so many characters.
_WRAPPED, _PROSE, _LONGEST = 45, 6, 600
_ENDED = re.compile(r"[.!?:;{}=|。！？｡：；][\"')\]」』）】〉》”’]*$")
_STOPPED = re.compile(r"[.!?;。！？｡；؟۔।][\"')\]*_」』）】〉》”’]*$")
# "every" above "250 hours": an amount in the middle of a sentence, where neither an item of a list nor a time of a log begins so.
_AMOUNT = re.compile(r"\d{1,4}(?:[.,]\d+)*\s?[^\W\d_A-ZÄÖÜ]")
_CAPITAL_UNIT = re.compile(r"\d{1,4}(?:[.,]\d+)*\s?([A-ZÄÖÜ][^\W\d_]{2,30})\b")  # as German writes it: "18 Tonnen"
_MARK = re.compile(r"^(?:[-*•]|\d{1,3}[.)])\s+")  # of a list
# A hyphen at the end of a line, before the rest of its word; in "two- and" and "short- or" it ends one.
_HYPHEN = re.compile(r"(?<=\w[-‐])[ \t]*\n\s*(?!(?:and|or|to|und|oder|bis)\b)(?=[^\W\d_A-ZÄÖÜ])")
_DAY = re.compile(r"\b\d{1,2}\.$")
_SHORTENED = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|No|Nr|ca|approx|z\. ?B|bzw|e\.g|i\.e|vs|Tel)\.$")
_SETTING = re.compile(r"[\w.-]{1,60}:(?:\s|$)")  # the next one, below a setting
_RULE = re.compile(r"[\s|:+=-]+|\s*`{3,}\w*\s*|\s*~{3,}\w*\s*")  # of a table, or around code


@dataclass(frozen=True)
class SourceText:
    """A passage: its text, its file's name, its similarity to the question if dense search found it, and its heading.

    The first line of the text is the heading, unless `heading` is given and not there: then it is the document's title.
    """

    text: str
    name: str
    similarity: float | None = None
    heading: str | None = None


@dataclass(frozen=True)
class Quote:
    """Characters `start` to `end` of passage `source` (from 0): a sentence, a line of code or a list, a row of a table."""

    source: int
    start: int
    end: int
    text: str
    over: str
    beside: str

    @property
    def is_row(self) -> bool:
        """Whether this is a row of a table."""
        return self.text.startswith("|")

    @property
    def own(self) -> str:
        """The text whose words count: a row's are its cells with the names of their columns."""
        return "; ".join(f"{name}: {cell}" for name, cell in self.cells) if self.is_row else self.text

    @property
    def said(self) -> str:
        """The text that is shown, without Markdown's bold; for a table row, each cell after the name of its column."""
        if not self.is_row:
            return without_bold(re.sub(r"\s*\n\s*", " ", _HYPHEN.sub("", _MARK.sub("", self.text))))
        return "; ".join([f"{name}: {cell}" if name else cell for name, cell in self.cells][:_COLUMNS])

    @property
    def cells(self) -> list[tuple[str, str]]:
        """The cells of a table row that are not empty, each with its column's name; none of any other text."""
        if not self.is_row:
            return []
        names, cells = (list(map(without_bold, _cells(row))) for row in (self.over.rpartition("\n")[2], self.text))
        names += [""] * (len(cells) - len(names))
        return [(name, cell) for name, cell in zip(names, cells, strict=False) if cell]


def quotes(sources: Sequence[SourceText], read: Iterable[int] | None = None) -> list[Quote]:
    """Every sentence, line and row of the passages to `read`, except headings, table headers and rules.

    By default these are the best passages; `read` has their places among the sources.
    """
    found: list[Quote] = []
    for number in range(min(PASSAGES, len(sources))) if read is None else read:
        source = sources[number]
        text, name = source.text, re.sub(r"[/_.-]+", " ", source.name)
        headed = _is_headed(source)
        heading = text.find("\n") if headed else -1
        own: list[tuple[int, int]] = []
        for start, end in sentences(text):
            if _RULE.fullmatch(text[start:end]):
                if own and text[own[-1][0]] == "|" and text[start] not in "`~":
                    own.pop()
            elif end <= heading:
                continue
            elif own and (_goes_on(text, own[-1], start) or _is_cut(text, own[-1], start)):
                own[-1] = (own[-1][0], end)
            else:
                own.append((start, end))
        texts = [text[start:end] for start, end in own]
        for index, (start, end) in enumerate(own):
            row = texts[index].startswith("|")
            beside = "" if row else " ".join([*texts[max(0, index - 1) : index], *texts[index + 1 : index + 2]])
            title, header = above(text, start).split("\n", 1)
            title = title if headed or title.startswith("#") else source.heading or ""
            over = "\n".join([name, title, _caption(text, own, index), header])
            found.append(Quote(number, start, end, texts[index], over, beside))
    return found[:_QUOTES]


def _is_headed(source: SourceText) -> bool:
    """Whether a passage begins with its heading, or with a line like one."""
    first, _, rest = source.text.partition("\n")
    if source.heading is None or first == source.heading:
        return True
    return rest[:1] == "\n" and len(first.split()) < _PROSE and not _ENDED.search(first) and not first.startswith("|")


def _caption(text: str, own: Sequence[tuple[int, int]], index: int) -> str:
    """The line that introduces the table or list to which a quote belongs, or the keys above an indented setting."""
    start, end = own[index]
    indent = _indent(text, start)
    if indent:
        keys = []
        for before, stop in reversed(own[max(0, index - _LISTED) : index]):
            if (less := _indent(text, before)) < indent:
                keys.append(text[before:stop])
                indent = less
        return " ".join(key for key in keys if key.endswith((":", "{", "[")))
    if not (row := text[start] == "|") and _MARK.match(text[start:end]) is None:
        return ""
    for before, stop in reversed(own[max(0, index - _LISTED) : index]):
        said = text[before:stop]
        if said.startswith("|") if row else _MARK.match(said):
            continue
        return said if said.endswith(":") and len(said) < _LONGEST else ""
    return ""


def with_block(quote: Quote, source: SourceText, found: Sequence[Quote]) -> Quote:
    """A quote that ends in a colon with the list or the example that it introduces, up to `_LONGEST` characters in all."""
    if not quote.text.endswith(":"):
        return quote
    end = quote.end
    for other in found:
        if other.source != quote.source or other.start < end:
            continue
        between = source.text[end : other.start]
        begun = end > quote.end
        if between.strip() or (begun and between.count("\n") > 1) or other.end - quote.start > _LONGEST:
            break
        end = other.end
    return replace(quote, end=end, text=source.text[quote.start : end])


def _indent(text: str, start: int) -> int:
    """The number of spaces between the line's beginning and the text at `start`, 0 if there is other text."""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return len(line) if line and not line.strip() else 0


def is_whole(text: str) -> bool:
    """Whether a quote is a statement of its own, not a line that introduces a list or an example."""
    return text.startswith("|") or bool(_STOPPED.search(text)) or (len(text.split()) < _PROSE and not text.endswith(":"))


def _is_cut(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether what ends a sentence is the full stop of a day or an abbreviation: "am 4. Mai", "Dr. Holm"; in a row, any is."""
    if "\n" in text[before[1] : start]:
        return False
    if text[before[0]] == "|":
        return True
    if _DAY.search(text, max(before[0], before[1] - 4), before[1]):
        return (word := re.match(r"\w+", text[start:])) is not None and word[0].lower() in MONTHS
    return _SHORTENED.search(text, max(before[0], before[1] - 8), before[1]) is not None


def _goes_on(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether `start` continues a wrapped sentence: prose below a long line that does not end a sentence."""
    said, between = text[slice(*before)], text[before[1] : start]
    line = said.rpartition("\n")[2] if "\n" in said else text[text.rfind("\n", 0, before[0]) + 1 : before[1]]
    return (
        between.count("\n") == 1
        and not between.strip()
        and len(line.strip()) >= _WRAPPED
        and len(said) < _LONGEST
        and len(line.split()) >= _PROSE
        and not _ENDED.search(said)
        and " = " not in line  # a setting and its comment
        and _SETTING.match(text, start) is None
        and (text[start].isalpha() or text[start] in "\"'(“„*`" or _is_amount(text, start))
        and _MARK.match(text[start:]) is None
        and not said.startswith(("|", "#"))
    )


def _is_amount(text: str, start: int) -> bool:
    """Whether a line begins with an amount, "250 hours": a capital letter behind a number begins a sentence, or a unit."""
    unit = _CAPITAL_UNIT.match(text, start)
    return bool(_AMOUNT.match(text, start)) or (unit is not None and unit[1].lower() in UNITS)


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))]
