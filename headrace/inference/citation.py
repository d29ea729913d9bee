"""Citations: which passage each sentence of an answer stands on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_MARKER = re.compile(r"\s*\[\d+\]$")
_WORD = re.compile(r"\w+")
_LEAST_OVERLAP = 0.5
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


class Citations:
    """Puts [n] behind each sentence of an answer, n being the passage that holds most of its words.

    A small generator does not cite reliably, so citations are found from the text: a sentence gets one if at least half of its
    content words stand in that passage. What stands in none gets none, and is thereby visible as unsupported.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._passages = [content_words(passage) for passage in passages]
        self.cited: set[int] = set()

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
        number = self.source(sentence)
        if number is None:
            return ""
        self.cited.add(number)
        return f" [{number}]"
