"""Quoting: the sentence or table row of the passages that answers a question. It touches no storage, so it is no stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.answering.rerank import Passage
from headrace.errors import Transient
from headrace.models.citations import Support
from headrace.models.client import Embedder
from headrace.models.extract import Extract, Quote, SourceText, best, parts, quotes, shortlist

NOT_FOUND = "That is not in these documents."
_NO_EMBEDDER = "the embedder did not answer: quotes were chosen by their words alone"


@dataclass(frozen=True)
class QuotedAnswer:
    """The lines of an answer with what each is quoted from: `None` of a line that says what the documents do not hold.

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
    """The best quote for each part of the question, a line each.

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
    quoted = [one.quote for one in extracts if one.found and one.quote is not None]
    order = list(dict.fromkeys([*(found.source for found in quoted), *range(len(passages))]))
    lines = dict(_line(one, order) for one in extracts if one.found or quoted)  # one row may answer two parts
    return QuotedAnswer(lines or {NOT_FOUND: None}, tuple(passages[at] for at in order), note)


def _line(one: Extract, order: Sequence[int]) -> tuple[str, Support | None]:
    """The line of one part of a question, some part of which was found."""
    if not one.found or one.quote is None:
        return f"{NOT_FOUND.removesuffix('.')}: {one.part}", None
    number = order.index(one.quote.source) + 1
    return f"{one.quote.said} [{number}]", Support(one.quote.said, number, one.quote.start, one.quote.end)


def _similarities(part: str, short: Sequence[Quote], embedder: Embedder) -> list[float]:
    vectors = embedder.embed([part, *(found.said for found in short)], kind="passage")
    return [float(near) for near in vectors[1:] @ vectors[0]]
