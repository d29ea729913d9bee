"""Quoting: the sentence or table row of the passages that answers a question. It touches no storage, so it is no stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from headrace.answering.rerank import Passage
from headrace.errors import Transient
from headrace.models.client import Embedder
from headrace.models.extract import Extract, Quote, SourceText, best, parts, quotes, shortlist


def extract(question: str, passages: Sequence[Passage], embedder: Embedder | None) -> list[Extract]:
    """The best quote for each part of the question; its `source` is the place of its passage.

    Where the embedder cannot be asked, words alone decide.
    """
    sources = [SourceText(passage.hit.text, passage.hit.uri, passage.hit.similarity) for passage in passages]
    read = quotes(sources)
    return [_best(part, sources, shortlist(part, sources, read), embedder) for part in parts(question)]


def _best(part: str, sources: Sequence[SourceText], short: Sequence[Quote], embedder: Embedder | None) -> Extract:
    similarities = None
    if short and embedder is not None:
        with suppress(Transient):
            vectors = embedder.embed([part, *(quote.said for quote in short)], kind="passage")
            similarities = [float(near) for near in vectors[1:] @ vectors[0]]
    return best(part, sources, short, similarities)
