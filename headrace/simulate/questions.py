"""Questions that a person would ask about documents, made from their headings, table rows and sentences without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

_ENGLISH = frozenset(["the", "of", "is", "are", "and", "to", "for", "with", "was", "were"])
_MOST_WORDS = 5  # of what is asked about
_HOW_TO = re.compile(r"how to (?P<rest>\S.*)", re.IGNORECASE)
_KEPT = re.compile(
    r"(?:^|(?<=[.!?] ))(?P<what>[A-Z][\w -]+?) (?P<be>is|are) (?:\w+ ){0,6}?kept for (?:about |at least |up to )?(?:\d+|[a-z]+) "
    r"(?:hour|day|week|month|year)s?\b"
)
_DEFINED = re.compile(r"(?:^|(?<=[.!?] ))(?P<article>(?:An?|The) )?(?P<what>[A-Z]?[\w-]+(?: [\w-]+){0,3}) is an? \w")
_NO_NOUN = frozenset(
    [
        "it",
        "this",
        "that",
        "there",
        "he",
        "she",
        "they",
        "we",
        "you",
        "i",
        "what",
        "which",
        "here",
        "one",
        "each",
        "everything",
        "nothing",
    ]
)


class Excerpt(NamedTuple):
    """A passage of which a question is made: the document it is from, its heading path and its Markdown text."""

    document_id: str
    heading: str
    text: str


def natural_questions(passages: Sequence[Excerpt], most: int) -> list[str]:
    """Up to `most` different questions, the most natural of each document before a second one of any.

    From the most natural to the least: a heading that is a question, "How to …", a cell of a table with a number, how long
    something is kept, what something is. A document that has none of these is asked about by a heading, after all others.
    """
    of: dict[str, list[tuple[int, str]]] = {}
    for passage in passages:
        of.setdefault(passage.document_id, []).extend(_questions(passage))
    turns: list[tuple[bool, int, int, str]] = []
    for found in of.values():
        for turn, (rank, question) in enumerate(sorted(found, key=lambda one: one[0])):  # stable: of a kind, in the order given
            turns.append((rank == _ABOUT, turn, rank, question))
    turns.sort(key=lambda one: one[:3])
    return list(dict.fromkeys(question for *_, question in turns))[:most]


_ABOUT = 5


def _questions(passage: Excerpt) -> Iterator[tuple[int, str]]:
    heading = passage.heading.split(" › ")[-1].strip()
    if heading.endswith("?"):
        yield 0, heading
    elif how := _HOW_TO.fullmatch(heading):
        yield 1, f"How do I {how['rest'].rstrip('.:')}?"
    elif heading:
        yield _ABOUT, f"What do the documents say about {heading}?"
    lines = passage.text.splitlines()
    prose = " ".join(line.strip() for line in lines if line[:1] not in ("|", "#", ">", "-", "*"))
    if _is_english(passage.text):
        yield from ((2, question) for question in _of_tables(lines))
        for match in _KEPT.finditer(prose):
            if len(words := match["what"].split()) <= _MOST_WORDS and "and" not in words:
                yield 3, f"How long {match['be']} {_inside(match['what'])} kept?"
        for match in _DEFINED.finditer(prose):
            if match["what"].split()[-1].lower() not in _NO_NOUN:
                article = (match["article"] or "").lower()
                yield 4, f"What is {article}{match['what'] if not article else _inside(match['what'])}?"


def _of_tables(lines: Sequence[str]) -> Iterator[str]:
    """A question about the first cell with a number of each row."""
    columns: list[str] = []
    for line, following in pairwise([*lines, ""]):
        if not line.startswith("|"):
            columns = []
        elif re.fullmatch(r"[|:\- ]+", following) and following.startswith("|"):
            columns = _cells(line)
        elif columns and not re.fullmatch(r"[|:\- ]+", line):
            name, *cells = _cells(line)
            for column, cell in zip(columns[1:], cells, strict=False):
                if re.search(r"\d", cell) and _is_name(name) and _is_name(column):
                    is_ = "are" if re.search(r"[^sui]s$", column) else "is"
                    yield f"What {is_} the {_inside(column)} of {name}?"
                    break


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("*`") for cell in line.strip().strip("|").split("|")]


def _is_name(text: str) -> bool:
    return bool(re.fullmatch(r"[^\W\d][\w .&/-]*", text)) and len(text.split()) <= _MOST_WORDS


def _inside(phrase: str) -> str:
    """As it is written inside a sentence: with a small letter unless a later one of its first word is a capital."""
    first = phrase.split()[0]
    return phrase if any(letter.isupper() for letter in first[1:]) or len(first) == 1 else phrase[0].lower() + phrase[1:]


def _is_english(text: str) -> bool:
    """Whether a passage has English function words, or is only a table in plain letters."""
    words = re.findall(r"[^\W\d]+", " ".join(line for line in text.splitlines() if not line.startswith("|")).lower())
    if len(words) < 8:
        return text.isascii()
    return sum(word in _ENGLISH for word in words) >= len(words) / 20
