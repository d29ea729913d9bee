"""Quoting: the sentence or table row of the passages that answers a question, or the words of it that do. Not a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.answering.rerank import Passage
from headrace.errors import Transient
from headrace.models.citations import Support, quotable
from headrace.models.client import Embedder
from headrace.models.extract import Extract, best, has_both, shortlist, to_read
from headrace.models.question_parts import pair, parts
from headrace.models.question_words import word_weights
from headrace.models.quotable import Quote, SourceText, quotes, with_block
from headrace.models.short_answer import cell_answer, short_answer
from headrace.models.subject import about, subject_of

NOT_FOUND = "That is not in these documents."
OR = "Or: "
"""Before a second quote that may be the answer."""
KNOWN = 0.4
"""The least share of a question's words that its quote has, with what is above it, if only some words of the quote are shown."""
_ABOUT = 16  # quotes that are embedded for "what do the documents say about …"
_NO_EMBEDDER = "the embedder did not answer: quotes were chosen by their words alone"


@dataclass(frozen=True)
class QuotedAnswer:
    """The lines of an answer with what each is quoted from: `None` of a line that says what the documents do not hold.

    A line is a whole quote or the words of it that answer; its support is the whole quote.

    `passages` are those that were quoted, in the order of their numbers, then the others. `note` says what was left out.
    """

    lines: Mapping[str, Support | None]
    passages: tuple[Passage, ...]
    note: str = ""

    @property
    def supports(self) -> tuple[Support, ...]:
        """What the lines are quoted from."""
        return tuple(support for support in self.lines.values() if support is not None)


def quote(question: str, passages: Sequence[Passage], embedder: Embedder | None) -> QuotedAnswer:
    """The answer to each part of the question, a line each: the words of its best quote that answer, where that is sure.

    Otherwise the whole quote. Below it comes another that is nearly as good, unless only the first one's words are sure. "What do
    the documents say about X?" is answered by several whole quotes about X.

    Where the embedder cannot be asked, words alone decide, and the note says so.
    """
    sources = [SourceText(passage.hit.text, passage.hit.uri, passage.hit.similarity, passage.hit.heading) for passage in passages]
    subject = subject_of(question)
    question = subject.text if subject else question
    reading = _Reading(sources, quotes(sources, to_read(question, sources)), embedder)
    if subject and not subject.is_question:
        return reading.about(question, passages)
    extracts = [extract for part in parts(question) for extract in reading.extracts(part)]
    quoted = [found for one in extracts for found in _quotes(one)]
    order = list(dict.fromkeys([*(found.source for found in quoted), *range(len(passages))]))
    lines: dict[str, Support | None] = {}
    for one in extracts if quoted else ():
        sure: str | None = None
        for found in _quotes(one):
            second = found is one.other
            few = _shortened(one, found, sources) if sure or not second else None
            if second and sure and not few:
                continue
            sure = few
            shown = found if few else with_block(found, sources[found.source], reading.read)
            number, said = order.index(found.source) + 1, quotable(few or shown.said)
            label = f"{one.label}: " if few and one.label else ""
            # One row may answer two parts; of two things the same may be true.
            if label or said not in {support.sentence for support in lines.values() if support}:
                before = OR if second else ""
                lines[f"{before}{label}{said} [{number}]"] = Support(said, number, shown.start, shown.end)
        if not _quotes(one):
            lines[f"{NOT_FOUND.removesuffix('.')}: {one.part}"] = None
    return QuotedAnswer(lines or {NOT_FOUND: None}, tuple(passages[at] for at in order), reading.note)


class _Reading:
    """The quotes of a question's passages, and the embedder as long as it answers; `note` says if it did not."""

    def __init__(self, sources: Sequence[SourceText], read: Sequence[Quote], embedder: Embedder | None) -> None:
        self.read = read
        self.note = ""
        self._sources, self._embedder = sources, embedder

    def about(self, subject: str, passages: Sequence[Passage]) -> QuotedAnswer:
        """A line for each of the best quotes about a subject."""
        candidates = shortlist(subject, self._sources, self.read, _ABOUT)
        found = about(subject, self._sources, candidates, self._near(subject, candidates))
        order = list(dict.fromkeys([*(one.source for one in found), *range(len(passages))]))
        lines: dict[str, Support | None] = {}
        for one in found:
            number, said = order.index(one.source) + 1, quotable(one.said)
            if said not in {support.sentence for support in lines.values() if support}:
                lines[f"{said} [{number}]"] = Support(said, number, one.start, one.end)
        return QuotedAnswer(lines or {NOT_FOUND: None}, tuple(passages[at] for at in order), self.note)

    def extracts(self, part: str) -> list[Extract]:
        """The best quote for a part of a question, or for each of the two things it names unless one that has both is as good."""
        whole = self._extract(part)
        two = pair(part)
        if two is None:
            return [whole]
        labels = (two.first, two.second)
        each = [replace(self._extract(question), label=label) for question, label in zip(two.questions, labels, strict=True)]
        both = whole.found and whole.quote is not None and has_both(whole.quote, two.first, two.second)
        same = each[0].quote == each[1].quote
        split = all(one.found for one in each) and not same
        return each if split or (not both and any(one.found for one in each)) else [whole]

    def _extract(self, part: str) -> Extract:
        short = shortlist(part, self._sources, self.read)
        return best(part, self._sources, short, self._near(part, short), self.read, self._nearest)

    def _nearest(self, word: str, others: Sequence[str]) -> float | None:
        """A word's similarity to the nearest of others."""
        if self._embedder is not None:
            try:
                vectors = self._embedder.embed([word, *others], kind="passage")
                return float((vectors[1:] @ vectors[0]).max())
            except Transient:
                self._embedder, self.note = None, _NO_EMBEDDER
        return None

    def _near(self, part: str, short: Sequence[Quote]) -> list[float] | None:
        """The quotes' similarities; `None` where the embedder does not answer."""
        if short and self._embedder is not None:
            try:
                return _similarities(part, short, self._embedder)
            except Transient:
                self._embedder, self.note = None, _NO_EMBEDDER
        return None


def _quotes(one: Extract) -> list[Quote]:
    """What answers one part of a question, best first; nothing if that is no evidence."""
    return [found for found in (one.quote, *one.also, one.other) if found is not None] if one.found else []


def _shortened(one: Extract, found: Quote, sources: Sequence[SourceText]) -> str | None:
    """The words of a quote that answer, where that is sure; `None` where the quote is shown as it is."""
    if one.known < KNOWN:
        return None
    weights = word_weights(one.part, sources)
    if found.cells:
        return cell_answer(one.part, found.cells, weights)
    return short_answer(one.part, found.said, weights)


def _similarities(part: str, short: Sequence[Quote], embedder: Embedder) -> list[float]:
    vectors = embedder.embed([part, *(found.said for found in short)], kind="passage")
    return [float(near) for near in vectors[1:] @ vectors[0]]
