"""Citations: which passage each sentence of an answer is supported by, and what is not shown because a passage says otherwise."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from headrace.models.support import best_of, content_words

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_BULLET = re.compile(r"^(?:[-*•]|\d{1,3}[.)]|[A-Za-z][.)])\s+")
_MARKER = re.compile(r"\s*\[\d+(?:\s*,\s*\d+)*\]")
# A point that ends no sentence: behind a list's number, an initial, an abbreviation.
_NO_END = re.compile(
    r"(?:^|\n)\s*(?:\d{1,3}|[A-Za-z])[.)]$|\b(?:e\.g|i\.e|approx|vs|cf|no|nr|ca|bzw|z\.\s?b|d\.\s?h|dr|mr|mrs|st|fig)\.$", re.I
)


@dataclass(frozen=True)
class Support:
    """A sentence of an answer and what it stands on: passage `number` (from 1), characters `start` to `end` of its text.

    `number` is `None` where no passage supports it.
    """

    sentence: str
    number: int | None
    start: int = 0
    end: int = 0


class Citations:
    """Puts [n] behind each sentence of an answer that passage n supports, by the rule of `support`.

    A small generator does not cite reliably, so citations are found from the text, and markers of its own are taken out. What
    no passage supports gets none and is thereby visible as unsupported. A sentence that a passage contradicts in a number
    (the same statement, another figure) is not shown: it is in `withheld`.
    """

    def __init__(self, passages: Sequence[str], question: str = "") -> None:
        self._passages = list(passages)
        self._question = question
        self.supports: list[Support] = []
        self.withheld: list[Support] = []

    @property
    def cited(self) -> set[int]:
        """Numbers of the passages that support a sentence."""
        return {support.number for support in self.supports if support.number is not None}

    @property
    def groundedness(self) -> float | None:
        """The share of the sentences, withheld ones too, that a passage supports; `None` where nothing was said."""
        sentences = len(self.supports) + len(self.withheld)
        return sum(support.number is not None for support in self.supports) / sentences if sentences else None

    def mark(self, pieces: Iterable[str]) -> Iterator[str]:
        """The streamed answer with citations in it, sentence by sentence: what is said is checked before it is shown.

        What comes out, put together, does not depend on how the text was cut into pieces.
        """
        pending = ""
        for character in itertools.chain.from_iterable(pieces):
            ends = character.isspace() and pending.strip() and not _NO_END.search(pending)
            if ends and (character == "\n" or _SENTENCE_END.search(pending)):
                yield from self._checked(pending)
                pending = ""
            pending += character
        yield from self._checked(pending.rstrip())

    def _checked(self, said: str) -> Iterator[str]:
        said = _MARKER.sub("", said)
        sentence = said.strip()
        if not content_words(sentence):
            if said:
                yield said  # white space, a dash: nothing that could be held against a passage
            return
        found = best_of(_BULLET.sub("", sentence), self._passages, self._question)
        if found is None:
            self.supports.append(Support(sentence, None))
            yield said
            return
        number, evidence = found
        support = Support(sentence, number, evidence.start, evidence.end)
        if evidence.contradicts:
            self.withheld.append(support)
            return
        self.supports.append(support)
        yield f"{said} [{number}]"
