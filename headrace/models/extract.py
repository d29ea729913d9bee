"""Extractive answers: the sentence or table row of the passages that answers a question, word for word, or none.

Each sentence and row (a quote) gets a score, a weighted sum of features:

- the shares of the question's words in the quote itself (a row's are its cells with the names of their columns), in the heading,
  caption or file name above it, and in the sentences beside it; rare words count more, and a word of the same meaning
  (`concepts.py`) nearly as much as the word itself;
- the similarity of the quote's and of the passage's embedding to the question's;
- whether the quote has what the question asks for and does not have itself: a number and its unit, a date, a person, a cause;
- which names and numbers of the question are missing.

A quote is evidence if its score reaches `ENOUGH`, and if it is not about another thing than the question:

- its passage has one of the question's names, and it is no row of a table in which another row has that name;
- all of the question's numbers are in the quote, above it or beside it: what a 15 TB drive does is no answer about one of 30 TB;
- it has half of the words for what the question is about and, of "who", the verb, or is so similar that it may say the same in
  other words: who built an oven is no answer to who repaired it (`arguments.py`);
- it says nothing that excludes what the question says: "hourly" of "daily" (`concepts.CONTRASTS`), "the Malmö site" of "the
  Lund site", full-time of part-time;
- it has the identifier that is asked for (`identifiers.py`), a price for those whose price it is, and of "how many" a number of
  what is counted (`counts.py`).

Otherwise the answer is that the documents contain none. `python -m bench.reader` fits the weights and measures them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.models.comparison import ComparedQuote, Comparison, WordSimilarity
from headrace.models.question_words import SEVERAL, share_of, word_weights
from headrace.models.quotable import PASSAGES, Quote, SourceText, is_whole
from headrace.models.word_match import match, terms

FURTHER = 3
"""Passages below the best that are searched too, if they have as much of the question as these: its words, or their meaning."""
ENOUGH = 5.0
"""The lowest score of an answer."""
LEAST_EVIDENCE = 0.72
"""The least sum of two figures of a quote: the share of the question's words that it has, with what is above and partly beside
it, and its embedding's similarity. A number in euros is no evidence of which."""
MORE_EVIDENCE = 0.06
"""What more of it is needed if there is doubt."""
IN_DOUBT = 0.5
"""The additional score required if the passage lacks a name of the question or the quote lacks the kind of fact asked for."""
CLOSE = 1.0
"""A second quote whose score is so near the first's is shown, too: of the development questions, one answer in four has one."""
CLOSE_ELSEWHERE = 0.25
"""The same of a quote from another passage."""
WEIGHTS: Mapping[str, float] = {
    "own": 6.2,
    "over": 2.4,
    "beside": 1.8,
    "embedding": 6.0,
    "passage": 4.1,
    "fits": 1.1,
    "unit": 0.4,
    "focus": 0.5,
    "lacks_name": -1.1,
    "far_name": -0.5,
    "lacks_number": -1.7,
    "of_others": -2.0,
    "unnamed_row": -1.0,
}
"""The fitted weight of each feature; docs/reference/benchmarks.md names the data."""
_SHORT = (
    5  # quotes that are embedded; eight of them, or four, answered none of 797 questions otherwise (docs/reference/benchmarks.md)
)
_LESS_KNOWN = 0.1  # what a second quote may have less of the question
_LISTED = 5  # further rows of a table that are quoted
_SECONDS = 4  # quotes of which one may be a second answer
_BESIDE_SIBLINGS = 1.0  # that a quote may score less than one about another thing of the sort that is asked for
_ANOTHER = 6.0  # by which a quote about another thing is put behind others


@dataclass(frozen=True)
class Extract:
    """A part of the question, the best quote (`None` if there are no passages), its score, and whether that is evidence enough.

    `other` is the second best, if it is evidence too and nearly as good. `also` are, of a question for several things ("which
    boats"), the other rows of the same table that have as much of the question. `known` is the share of the question's words,
    rare ones weighted higher, that the quote or what is above it has. `label` is the one of two things that a part is about.
    """

    part: str
    quote: Quote | None
    score: float
    found: bool
    other: Quote | None = None
    also: tuple[Quote, ...] = ()
    known: float = 0.0
    label: str = ""


def to_read(question: str, sources: Sequence[SourceText]) -> list[int]:
    """The places of the passages to search for quotes: the best, and those below that have as much of the question."""
    first = list(range(min(PASSAGES, len(sources))))
    weights = word_weights(question, sources)
    shares = [share_of(terms(f"{source.name}\n{source.text}"), weights) for source in sources]
    most = max(shares[: len(first)], default=0.0)
    below = sorted(range(len(first), len(sources)), key=lambda at: -shares[at])
    further = [at for at in below if shares[at] >= most and shares[at] > 0]
    return [*first, *further[:FURTHER]]


def features(
    question: str,
    sources: Sequence[SourceText],
    found: Sequence[Quote],
    similarities: Sequence[float] | None,
    read: Sequence[Quote] = (),
) -> npt.NDArray[np.float64]:
    """One row per quote, with columns in the order of `WEIGHTS`.

    `similarities` are those of the quotes' embeddings. `read` are all quotes of the passages, by default those `found`: other
    rows of a table say what its rows are about.
    """
    return _features(_compared(Comparison(question, sources), sources, found, similarities, read))


def _features(compared: Sequence[ComparedQuote]) -> npt.NDArray[np.float64]:
    values = [[one.values[name] for name in WEIGHTS] for one in compared]
    return np.array(values, np.float64).reshape(len(compared), len(WEIGHTS))


def _compared(
    asked: Comparison,
    sources: Sequence[SourceText],
    found: Sequence[Quote],
    similarities: Sequence[float] | None,
    read: Sequence[Quote],
) -> list[ComparedQuote]:
    tables = _tables(sources, read or found)
    return [
        asked.compare(quote, None if similarities is None else similarities[index], tables.get(_table(sources, quote), ()))
        for index, quote in enumerate(found)
    ]


def _nothing_alike(_word: str, _others: Sequence[str]) -> float:
    return 0.0


def _table(sources: Sequence[SourceText], quote: Quote) -> tuple[str, str]:
    """A table's file and header, which are the same in each passage that has a part of it."""
    return sources[quote.source].name, quote.over.rpartition("\n")[2] if quote.is_row else ""


def _tables(sources: Sequence[SourceText], found: Sequence[Quote]) -> dict[tuple[str, str], list[frozenset[str]]]:
    """The words in the cells of each row of each table."""
    tables: dict[tuple[str, str], list[frozenset[str]]] = {}
    for quote in found:
        if quote.is_row:
            tables.setdefault(_table(sources, quote), []).append(terms("\n".join(cell for _, cell in quote.cells)))
    return tables


def shortlist(question: str, sources: Sequence[SourceText], found: Sequence[Quote], most: int = _SHORT) -> list[Quote]:
    """The quotes to embed: at most so many, those with the highest scores by words alone."""
    if not found:
        return []
    scores = features(question, sources, found, None) @ np.array(list(WEIGHTS.values()))
    return [found[index] for index in np.argsort(-scores, kind="stable")[:most]]


def best(
    question: str,
    sources: Sequence[SourceText],
    found: Sequence[Quote],
    similarities: Sequence[float] | None,
    read: Sequence[Quote] = (),
    similarity: WordSimilarity = lambda _word, _others: None,
) -> Extract:
    """The quote that answers one part of a question best, and another that may. The arguments are as in `features`.

    `similarity` is asked whether another verb means the same as the question's.
    """
    if not found:
        return Extract(question, None, -math.inf, False)
    asked = Comparison(question, sources)
    compared = _compared(asked, sources, found, similarities, read)
    scores = _features(compared) @ np.array(list(WEIGHTS.values()))
    # Where the best are about others of the same sort, what is asked for would be among them.
    siblings = max((score for score, one in zip(scores, compared, strict=True) if one.of_sibling), default=-math.inf)
    scores -= [_ANOTHER * one.about_another + IN_DOUBT * one.doubtful for one in compared]
    undone: dict[int, bool] = {}
    while (first := int(np.argmax(scores))) not in undone and _enough(scores[first], compared[first]):
        # Below one that says something else the next has to have the verb itself.
        undone[first] = asked.is_undone(
            found[first], _nothing_alike if any(undone.values()) else similarity
        ) or asked.is_miscounted(found[first], similarity)
        scores[first] -= _ANOTHER * undone[first]
    second = [int(index) for index in np.argsort(-scores, kind="stable")[:_SECONDS] if index != first]
    enough = (
        not undone.get(first, False)
        and _enough(scores[first], compared[first])
        and (compared[first].is_settled or bool(scores[first] > siblings - _BESIDE_SIBLINGS))
    )
    close = [
        index
        for index in second
        if scores[first] - scores[index] <= (CLOSE if found[index].source == found[first].source else CLOSE_ELSEWHERE)
        and _enough(scores[index], compared[index])
        and not asked.is_undone(found[index], similarity)
        and not asked.is_miscounted(found[index], similarity)
        and _is_like(compared[index], compared[first], row=found[first].is_row or found[index].is_row)
        and is_whole(found[index].text)
    ]
    also = _also(question, sources, found[first], compared[first], read or found) if enough and SEVERAL.search(question) else ()
    other = found[close[0]] if enough and close and not also else None
    return Extract(question, found[first], float(scores[first]), enough, other, also, compared[first].known)


def _also(
    question: str, sources: Sequence[SourceText], first: Quote, compared: ComparedQuote, read: Sequence[Quote]
) -> tuple[Quote, ...]:
    """The other rows of a quote's table that have all words of the question that it has."""
    rows = [quote for quote in read if first.is_row and quote != first and _table(sources, quote) == _table(sources, first)]
    each = _compared(Comparison(question, sources), sources, rows, None, read)
    same = [quote for quote, one in zip(rows, each, strict=True) if one.words >= compared.words and not one.about_another]
    return tuple(same[:_LISTED]) if len(same) < len(rows) else ()  # of all rows, none is singled out


def _is_like(other: ComparedQuote, first: ComparedQuote, *, row: bool) -> bool:
    """Whether a second quote has as much of the question as the first; a table's row, all the same words of it."""
    if other.doubtful > first.doubtful:
        return False
    return other.own >= first.own if row else other.known >= first.known - _LESS_KNOWN


def has_both(quote: Quote, first: str, second: str) -> bool:
    """Whether a quote, or what is above it, has the words of two things."""
    there = terms(quote.own) | terms(quote.over)
    return all(match(there, word) for word in terms(f"{first} {second}"))


def _enough(score: float, compared: ComparedQuote) -> bool:
    """Whether a quote with this score, less `IN_DOUBT` if there is doubt, is evidence."""
    return (
        not compared.about_another and score >= ENOUGH and compared.evidence >= LEAST_EVIDENCE + MORE_EVIDENCE * compared.doubtful
    )
