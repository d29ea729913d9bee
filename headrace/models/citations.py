"""Citations: which passage each sentence of an answer stands on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_MARKER = re.compile(r"\s*\[\d+\]$")
_WORD = re.compile(r"\w+")
_LEAST_OVERLAP = 0.5
_SENTENCES = 3
# A point ends a sentence before white space; a line break always does (headings, rows of a table).
_PASSAGE_SENTENCE = re.compile(r"[^\n]+?(?:[.!?][\"')\]]*(?=\s)|(?=\n)|$)")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been but by can do does for from had has have if in into is it its may more no not of on or
        other so such than that the their them then there these they this to used uses using was were what when where
        which who will with would you your""",
    )
)


def content_words(text: str) -> set[str]:
    """The words that carry a text's meaning: lower case, without the commonest."""
    return {word for word in _WORD.findall(text.lower()) if word not in _COMMON}


@dataclass(frozen=True)
class Support:
    """A sentence of an answer and what it stands on: passage `number` (from 1), characters `start` to `end` of its text.

    `number` is `None` where no passage holds it.
    """

    sentence: str
    number: int | None
    start: int = 0
    end: int = 0


class Citations:
    """Puts [n] behind each sentence of an answer, n being the passage that holds most of its words.

    A small generator does not cite reliably, so citations are found from the text: a sentence gets one if at least half of its
    content words stand in that passage. What stands in none gets none, and is thereby visible as unsupported.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._texts = list(passages)
        self._passages = [content_words(passage) for passage in passages]
        self.supports: list[Support] = []

    @property
    def cited(self) -> set[int]:
        """Numbers of the passages that hold a sentence."""
        return {support.number for support in self.supports if support.number is not None}

    @property
    def groundedness(self) -> float | None:
        """The share of the sentences that a passage holds; `None` where nothing was said."""
        if not self.supports:
            return None
        return sum(support.number is not None for support in self.supports) / len(self.supports)

    def source(self, sentence: str) -> int | None:
        """Number (from 1) of the passage a sentence stands on, or `None`."""
        words = content_words(sentence)
        if not words or not self._passages:
            return None
        shares = [len(words & passage) / len(words) for passage in self._passages]
        best = max(range(len(shares)), key=shares.__getitem__)
        return best + 1 if shares[best] >= _LEAST_OVERLAP else None

    def mark(self, pieces: Iterable[str]) -> Iterator[str]:
        """The streamed answer with citations in it: words as they come, a marker at each sentence's end.

        What comes out, put together, does not depend on how the text was cut into pieces. Markers of the generator's own are
        taken out.
        """
        said = held = ""  # of the sentence under way: what went out, and what may still become a marker or a sentence's end
        for character in itertools.chain.from_iterable(pieces):
            if character == "]":
                held = _MARKER.sub("", held + character)
            elif not character.isspace():
                held += character
            elif _SENTENCE_END.search(held):
                yield held + self._marker(said + held)
                said, held = "", character
            elif held.strip() and "[" not in held:
                yield held
                said, held = said + held, character
            else:
                held += character
        if (said + held).strip():
            yield held.rstrip() + self._marker(said + held)

    def _marker(self, sentence: str) -> str:
        words = content_words(sentence)
        if not words:
            return ""  # a heading's dash, say: nothing that could be held against a passage
        number = self.source(sentence)
        if number is None:
            self.supports.append(Support(sentence.strip(), None))
            return ""
        self.supports.append(Support(sentence.strip(), number, *span(words, self._texts[number - 1])))
        return f" [{number}]"


def span(words: set[str], passage: str) -> tuple[int, int]:
    """The shortest run of a passage's sentences that holds as many of the words as any; its first and last character.

    A run is at most `_SENTENCES` long: what takes more is better shown as the passage.
    """
    places = [match.span() for match in _PASSAGE_SENTENCE.finditer(passage) if match.group().strip()]
    held = [words & content_words(passage[start:end]) for start, end in places]
    best, found = (0, 0), (0, len(passage))
    for first in range(len(places)):
        union: set[str] = set()
        for last in range(first, min(first + _SENTENCES, len(places))):
            union |= held[last]
            start, end = places[first][0], places[last][1]
            if (rank := (len(union), start - end)) > best:
                best, found = rank, (start, end)
    start, end = found
    text = passage[start:end]
    return (start + len(text) - len(text.lstrip()), start + len(text.rstrip())) if text.strip() else (0, 0)
