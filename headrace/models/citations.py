"""Citations: the passage that supports each sentence of an answer. A sentence that a passage contradicts is withheld."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from headrace.models.support import best_of, content_words

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_BULLET = re.compile(r"^(?:[-*•]|\d{1,3}[.)]|[A-Za-z][.)])\s+")
_BRACKETS = str.maketrans("", "", "[]")
_OPEN, _CLOSE, _DIGITS = r"\[［【〔", r"\]］】〕", r"\d⁰¹²³⁴-⁹₀-₉"  # what a reader takes for a citation
_MARKER = re.compile(rf"(?<!\s)\s*+[{_OPEN}]\s*+[{_DIGITS}]++(?:\s*+,\s*+[{_DIGITS}]++)*+\s*+[{_CLOSE}]")
_LIKE_ONE = re.compile(rf"[{_OPEN}]\s*+([{_DIGITS}]++)\s*+[{_CLOSE}]")
_TURNED = re.compile("[\u202a-\u202e\u2066-\u2069]")  # what follows one is shown in the other direction
# A full stop that does not end a sentence: after a list's number, an initial or an abbreviation.
_NO_END = re.compile(
    r"(?:^|\n)\s*(?:\d{1,3}|[A-Za-z])[.)]$|\b(?:e\.g|i\.e|approx|vs|cf|no|nr|ca|bzw|z\.\s?b|d\.\s?h|dr|mr|mrs|st|fig)\.$", re.I
)


@dataclass(frozen=True)
class Support:
    """A sentence of an answer and its evidence: characters `start` to `end` of passage `number` (from 1).

    `number` is `None` where no passage supports it.
    """

    sentence: str
    number: int | None
    start: int = 0
    end: int = 0


def quotable(text: str) -> str:
    """Text of a document, without what a reader could take for a citation of another: its numbers in square brackets.

    These get round ones. Characters that turn the direction of writing are left out: they make "]1[" look like one.
    """
    return _LIKE_ONE.sub(r"(\1)", _TURNED.sub("", text))


class Citations:
    """Appends [n] to each sentence of an answer that passage n supports, by the rule of `support`.

    A small generator does not cite reliably. Its own markers are therefore removed, and citations are derived from the text. A
    sentence that no passage supports gets no marker. A sentence whose number a passage contradicts (the same statement with
    another figure) is not shown; `withheld` lists it.
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
        """The share of the sentences, including withheld ones, that a passage supports; `None` for an empty answer."""
        sentences = len(self.supports) + len(self.withheld)
        return sum(support.number is not None for support in self.supports) / sentences if sentences else None

    def mark(self, pieces: Iterable[str]) -> Iterator[str]:
        """Stream the answer with its citations. Each sentence is checked before it is yielded.

        The joined output does not depend on how the text was split into `pieces`.
        """
        pending = ""
        for character in itertools.chain.from_iterable(pieces):
            ends = character.isspace() and pending.strip() and not _NO_END.search(pending)
            if ends and (character == "\n" or _SENTENCE_END.search(pending)):
                yield from self._checked(pending)
                pending = ""
            pending += character
        yield from self._checked(pending.rstrip())

    def _checked(self, text: str) -> Iterator[str]:
        text = _MARKER.sub("", _TURNED.sub("", text))
        if _MARKER.search(text):  # one inside another left a third; once and for all, as there may be thousands
            text = text.translate(_BRACKETS)
        sentence = text.strip()
        if not content_words(sentence):
            if text:
                yield text  # white space or a dash: nothing to check
            return
        found = best_of(_BULLET.sub("", sentence), self._passages, self._question)
        if found is None:
            self.supports.append(Support(sentence, None))
            yield text
            return
        number, evidence = found
        support = Support(sentence, number, evidence.start, evidence.end)
        if evidence.contradicts:
            self.withheld.append(support)
            return
        self.supports.append(support)
        yield f"{text} [{number}]"
