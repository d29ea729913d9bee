"""Quoting: the sentence or table row of the passages that answers a question, or the words of it that do. Not a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.answering.rerank import Passage
from headrace.errors import Transient
from headrace.models.citations import Support, quotable
from headrace.models.client import Embedder
from headrace.models.extract import Extract, Quote, SourceText, best, parts, quotes, shortlist, with_block, word_weights
from headrace.models.short_answer import cell_answer, short_answer

NOT_FOUND = "That is not in these documents."
OR = "Or: "
"""Before a second quote that may be the answer."""
KNOWN = 0.4
"""The least share of a question's words that its quote has, with what is above it, if only some words of the quote are shown."""
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

    Otherwise the whole quote. Below it comes another that is nearly as good, unless only the first one's words are sure.

    Where the embedder cannot be asked, words alone decide, and the note says so.
    """
    sources = [SourceText(passage.hit.text, passage.hit.uri, passage.hit.similarity) for passage in passages]
    read = quotes(sources)
    extracts: list[Extract] = []
    note = ""
    for part in parts(question):
        short = shortlist(part, sources, read)
        similarities = None
        if short and embedder is not None:
            try:
                similarities = _similarities(part, short, embedder)
            except Transient:
                embedder, note = None, _NO_EMBEDDER
        extracts.append(best(part, sources, short, similarities))
    quoted = [found for one in extracts for found in _quotes(one)]
    order = list(dict.fromkeys([*(found.source for found in quoted), *range(len(passages))]))
    lines: dict[str, Support | None] = {}
    for one in extracts if quoted else ():
        sure: str | None = None
        for found in _quotes(one):
            best_one = found is one.quote
            few = _shortened(one, found, sources) if best_one or sure else None
            if sure and not few:
                continue
            sure = few
            shown = found if few else with_block(found, sources[found.source], read)
            number, said = order.index(found.source) + 1, quotable(few or shown.said)
            if said not in {support.sentence for support in lines.values() if support}:  # one row may answer two parts
                before = "" if best_one else OR
                lines[f"{before}{said} [{number}]"] = Support(said, number, shown.start, shown.end)
        if not _quotes(one):
            lines[f"{NOT_FOUND.removesuffix('.')}: {one.part}"] = None
    return QuotedAnswer(lines or {NOT_FOUND: None}, tuple(passages[at] for at in order), note)


def _quotes(one: Extract) -> list[Quote]:
    """What answers one part of a question, best first; nothing if that is no evidence."""
    return [found for found in (one.quote, one.other) if found is not None] if one.found else []


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
