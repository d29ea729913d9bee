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
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from headrace.models.arguments import arguments_of, language_of
from headrace.models.asked import AUXILIARIES, CONJUNCTIONS, DETERMINERS, OWNERS, PREPOSITIONS, PRONOUNS, asked_of
from headrace.models.clauses import BEGINS_WITH_PRONOUN, about, clauses, with_relative
from headrace.models.concepts import concepts_of, contrasting, contrasts
from headrace.models.counts import COUNT, behind_numbers, counted_words, is_count, is_no_count, numerals_in
from headrace.models.fact_kinds import DAY_OF_MONTH, MONEY, FactKind, fact_kind
from headrace.models.question_parts import NAMED
from headrace.models.quotable import PASSAGES, Quote, SourceText, is_whole
from headrace.models.ranges import included
from headrace.models.support import alike, content_words, facts
from headrace.models.word_match import has, match, terms
from headrace.storage.vectors.words import unspaced_pieces

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
LACKING = 0.45
"""The share of the words for what a question is about, rare ones weighted higher, that a quote may lack."""
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
_WORDS = 64  # words of a question that are used
_LESS_KNOWN = 0.1  # what a second quote may have less of the question
_LISTED = 5  # further rows of a table that are quoted
_SECONDS = 4  # quotes of which one may be a second answer
_BESIDE = 0.7  # what a word beside a quote counts as evidence
_SHORT_SENTENCE = 16  # words of a sentence that says one thing; the embedding of a longer one is like a question's only in part
# Similarities from which other words may mean the same: of short sentences and rows, and of long ones.
_SAME_THING, _SAME_THING_LONG = 0.72, 0.4
_SAME_ACT, _SAME_ACT_LONG = 0.6, 0.4
# The share of the words for what a question is about that the clause with the number, date or name may lack, the similarity of
# the sentence from which it may lack more, and that of verbs which may mean the same.
_LACKING_CLAUSE, _SAME_STATEMENT, _SAME_VERB = 0.75, 0.6, 0.35
_ELSEWHERE = 0.4  # how far a word lacks that is elsewhere in the passage, but not in another row
_BESIDE_SIBLINGS = 1.0  # that a quote may score less than one about another thing of the sort that is asked for
_ANOTHER = 6.0  # by which a quote about another thing is put behind others
_USUAL = {"embedding": 0.45, "passage": 0.5}  # similarities without an embedder: the same for all quotes
_LEAST_PIECES = 0.5  # of a question in a script without spaces
_LEAST_WORD, _LEAST_NAME = 0.2, 1.5  # lowest weights of a word of the question and of a name in it
# Words of a question that say little about the answer: in how it is put, and after "how", where the kind of fact says it.
_SLIGHT = frozenset(
    re.findall(
        r"\S+",
        """
        get gets got go goes going need needs must should could please tell me give there currently exactly something
        anything happen happens happened place take takes kind sort type name s find know called make makes made want
        quelle quel quelles quels est sont la le les du des au aux une un dans pour sur combien comment quand où qui
        que il elle on cela ça cuánto cuánta cuántos cuándo cuál dónde quién qué cómo el los las del al una uno unos
        en por para se es son está hay que lo
        """,
    )
)
_SEVERAL = re.compile(
    r"\b(?:which|what|quelles|quels|qué|cuáles)\s+(?!does\b|is\b|was\b|has\b|this\b)\w{3,}(?<![siu])s\b|\bwho are\b",
    re.IGNORECASE,
)
# Asks which of all rows has the most of something: no row says that of itself.
_SUPERLATIVE = re.compile(
    r"\b(?:most|least|fewest|(?:larg|bigg|small|great|high|low|cheap|dear|long|short|old|new|lat|earli|heavi|light|fast|slow|deep|tall|b)est|worst"
    r"|(?:größ|kleins|höchs|niedrigs|billigs|teuers|meis|wenigs|längs|kürzes|ältes|neues|bes)te[nrsm]?)\b",
    re.IGNORECASE,
)
_MEASURED = re.compile(
    r"\b(?:how|wie)\s+(long|often|soon|far|old|late|early|quickly|big|large|lange|oft|alt|weit|hoch|groß)\b", re.IGNORECASE
)
_GENERIC = frozenset(
    re.findall(
        r"\S+",
        """
        name kind type sort year day date time number amount percentage person people man woman place city country
        thing things month period part word percent century state term many much
        """,
    )
)
_DIMENSION = re.compile(r"\bhow (deep|wide|tall|heavy|hot|warm|cold)\b|\bwie (tief|breit|schwer|heiß|warm|kalt)\b", re.IGNORECASE)
_COUNTED = re.compile(r"\b(?:how many|wie ?viele|combien d[e'’]|cuánt[oa]s)\b", re.IGNORECASE)
_HOW_MUCH = re.compile(r"\b(?:how (?:many|much)|wie ?viele?)\b", re.IGNORECASE)
_ROLE = re.compile(
    r"\W*(?:who|wer|qui|quién) (?:is|was|are|were|ist|war|sind|est|es) (?:the|our|der|die|das|le|la|el) ((?:[\w-]+ )?[\w-]+)",
    re.IGNORECASE,
)
_MEANT_FOR = re.compile(r"\b(?:for|für|pour|para)\s+((?:[^\W\d_]{2,40}\s+){0,2}[^\W\d_]{3,40})\W*$")
_FOR = re.compile(r"\b(?:for|für|pour|para)\s+(?:the\s+|an?\s+|die\s+|den\s+|das\s+|les\s+|los\s+)?([^\W\d_]{3,40})")
_NON = re.compile(r"\b[Nn]on-(\w{3,40})")
_READ = 400  # characters of a question in which names and their nouns are looked for
_POSSESSED = re.compile(r"\w['’]s?\s+((?:[a-z][\w-]*\s+){0,2}[a-z][\w-]*)")
_STATED = ("person", "date", "number")  # kinds of facts that one clause of a sentence states
_WHO_DID = re.compile(r"\W*(?:who|wer)\s+([^\W\d_]+)", re.IGNORECASE)
_WHEN = r"\W*(?:when|in (?:what|which) (?:year|month)|wann)\s+"
_WHEN_DONE = re.compile(rf"{_WHEN}(?:was|were|did|does|do|is|are|wurde|wurden)\b", re.IGNORECASE)
_WAS_DONE = re.compile(rf"{_WHEN}(?:was|were|did|wurde|wurden)\b", re.IGNORECASE)
_NAME = re.compile(r"[A-ZÄÖÜ]")
_DONE_TO = re.compile(r"\bfor\s+(?:the\s+|our\s+|an?\s+)?(?:[\w-]+\s+){0,2}?([^\W\d_]{4,40})\s+(?:of|to|on)\b")
_HYPHENATED = re.compile(r"(?<![\w-])([^\W\d_]{2,20})-([^\W\d_]{3,20})(?![\w-])")
_COUNT_COLUMNS = frozenset(
    ["number", "count", "quantity", "amount", "total", "pieces", "anzahl", "menge", "stück", "nombre", "cantidad"]
)
_DONE = re.compile(
    r"\w{2,}(?:ed|ing|ion|ment)|built|bought|sold|sent|broken|stolen|torn|written|driven|lent|lost|found|cut|set|put"
)
_WHEN_CLOSES = re.compile(r"\W*when\s+(?:do|does)\s+.{1,100}\b(?:close|shut)\W*$", re.IGNORECASE)
_CLOSES_AT = re.compile(
    r"\b(?:close|shut)s?\b|(?:\b(?:to|until|till|at|by|before)|[-–])\s*(?:\d|noon|midnight|dusk|sunset"
    r"|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b)",
    re.IGNORECASE,
)
_HOW_MEASURED = re.compile(r"\W*how (?:many|long|old|far|tall|heavy|deep|wide)\b", re.IGNORECASE)
_SOME = re.compile(
    r"\b(?:an?|one|all|no|none|few|several|some|both|each|every|until|half|always|never|forever|permanently|overnight|pair|couple|dozens?)\b",
    re.IGNORECASE,
)
_PERSONS = frozenset(["child", "pupil", "apprentice", "pensioner", "couple", "family"])
_COUPLE_OF = re.compile(r"\bcouple of\b", re.IGNORECASE)
_TICKETS = frozenset(["ticket", "tickets", "card", "cards", "pass", "passes", "permit", "permits"])
_SAYS_NOTHING = 3  # words beside an identifier and the question's
_SLIGHT_VERBS = frozenset(
    re.findall(
        r"\S+",
        """
        occur occurred happen happened place take took become became get got have had be been make made go work works
        """,
    )
)
_OPENS = re.compile(r"\b(?:open|close)(?:s|d|ed|ing)?\b", re.IGNORECASE)
_FROM_TO = re.compile(r"\b(?:to|until|till)\b|\d\s?[-–]\s?\d", re.IGNORECASE)
# Somebody without a name.
_ROLE_WORD = re.compile(
    r"\b(?:by|von|durch)\s+(?:the|an?|our|its|their|de[rmn]|die|das)\b|\b(?:we|volunteers|members|owners?)\b", re.IGNORECASE
)
_FUNCTION = AUXILIARIES | CONJUNCTIONS | DETERMINERS | OWNERS | PREPOSITIONS | PRONOUNS
_GERMAN = re.compile(
    r"^\W*(?:(?:ab|bis|seit|in|an|zu|von|für|auf|bei|mit)\s+)?(?:was|wer|wie|wo|wann|warum|welche[rsnm]?|wieviele?|wohin)\b",
    re.IGNORECASE,
)


WordSimilarity = Callable[[str, Sequence[str]], float | None]
"""The largest similarity of a word's embedding to those of other words; `None` if the embedder does not answer."""


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
    shares = [_share(terms(f"{source.name}\n{source.text}"), weights) for source in sources]
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
    values = [one.values for one in _compared(_Question(question, sources), sources, found, similarities, read)]
    return np.array(values, np.float64).reshape(len(found), len(WEIGHTS))


@dataclass(frozen=True)
class _Compared:
    """A quote compared with a question: its features, the question's words that it has, and whether it is about another thing.

    `words` are in the quote or above it, `own` in the quote. `of_sibling` says whether the other thing is one of the same sort:
    another row of the table, hourly instead of daily, another year. `is_settled` says that the quote, or what is above it, has
    all that tells one of a sort from another: the question's names, its numbers, "daily".
    """

    values: list[float]
    words: frozenset[str]
    own: frozenset[str]
    known: float
    evidence: float
    doubtful: bool
    about_another: bool
    of_sibling: bool
    is_settled: bool


def _compared(
    asked: _Question,
    sources: Sequence[SourceText],
    found: Sequence[Quote],
    similarities: Sequence[float] | None,
    read: Sequence[Quote],
) -> list[_Compared]:
    tables = _tables(sources, read or found)
    return [
        asked.compare(quote, None if similarities is None else similarities[index], tables.get(_table(sources, quote), ()))
        for index, quote in enumerate(found)
    ]


class _Question:
    """A question, compared with quotes of its passages."""

    def __init__(self, question: str, sources: Sequence[SourceText]) -> None:
        self._question, self._sources = question, sources
        self._texts = [terms(f"{source.name}\n{source.text}") for source in sources]
        self._words = terms(question)
        self._numbers = [readings for readings, _ in facts(question).numbers]
        self._names = _names(question)
        self._weights = word_weights(question, sources)
        self._total = sum(self._weights.values()) or 1.0
        self._kind: FactKind = fact_kind(question, self._numbers, [source.text for source in sources])
        low = [source.text.lower() for source in sources]
        self._modified = [
            (one, other)
            for one, other in pairwise(re.findall(r"\w+", question.lower()[:_READ]))
            if not {one, other} & _FUNCTION
            and min(len(one), len(other)) > 3
            and one.isalpha()
            and any(f"{one} {other}" in text for text in low)
        ]
        self._persons = [word for word in terms(_COUPLE_OF.sub(" ", question[:_READ])) if concepts_of(word) & _PERSONS]
        self._named_things = [
            (one, other)
            for one, other in pairwise(re.findall(r"\w+", question.lower()[:_READ]))
            if other in _TICKETS and one not in _FUNCTION | _SLIGHT and any(f"{one} {other}" in text for text in low)
        ]
        meant = _MEANT_FOR.search(question[-_READ:])
        known = frozenset[str]().union(*self._texts)
        self._meant_for = [word for word in terms(meant[1]) if has(known, word)] if meant else []
        self._contrasting = {word for word in self._weights if contrasting(word)}
        self._measured = _DIMENSION.search(question) is not None
        self._focus = _focus(question)
        counted = _COUNTED.search(question)
        self._counted = counted is not None
        self.counts = (
            counted_words(question[counted.end() :], _SLIGHT | _GENERIC) if counted and self._kind.kind == "number" else ()
        )
        self._hyphenated = _HYPHENATED.findall(question[:_READ].lower())
        self._beside_names = _beside_names(question, self._names)
        about = arguments_of(question)
        asked = frozenset[str]() if _HOW_MUCH.search(question) else asked_of(question, {}).nouns
        told = {word for word, weight in self._weights.items() if weight > _LEAST_WORD}
        self._things = sorted(about.nouns & told - asked - _GENERIC)
        # Other questions have verbs of their own: "On which day is the sauna heated?" of "The sauna is warm on Fridays."
        self._acts = sorted(about.verbs & told) if self._kind.kind == "person" else []
        self._language = language_of(question)
        self._pieces = unspaced_pieces(question[:_READ])
        self.event = _identified(question) if self._kind.identifier else _event(question)

    def compare(self, quote: Quote, similarity: float | None, rows: Sequence[frozenset[str]]) -> _Compared:
        """`rows` are the words in the cells of each row of the quote's table."""
        source = self._sources[quote.source]
        inside = included(self._question, quote.own)
        own, over, beside = terms(quote.own) | inside.words, terms(quote.over), terms(quote.beside)
        shares = {"own": 0.0, "over": 0.0, "beside": 0.0}
        known, in_quote = set(), set()
        for word, weight in self._weights.items():
            for where, there in (("own", own), ("over", over), ("beside", beside)):
                if strength := match(there, word):
                    shares[where] += strength * weight / self._total
                    if where != "beside":
                        known.add(word)
                    if where == "own":
                        in_quote.add(word)
                    break
        share_of_pieces = self._share_of_pieces(quote)
        shares["own"] = max(shares["own"], share_of_pieces or 0.0)
        numerals = numerals_in(f"{quote.over}\n{quote.own}")
        missing = [name for name in self._names if not (has(own, name) or has(over, name) or name in numerals)]
        nowhere = [name for name in missing if not (has(beside, name) or self._in_passage(quote, name))]
        around = facts(f"{quote.over}\n{quote.own}\n{quote.beside}")
        # "oxygen-18" and "third-and-9" are read as names.
        held = [readings for readings, _ in around.numbers]
        held += [frozenset(re.findall(r"\d+", name)) for name in around.names] + [inside.numbers]
        held.append(numerals)
        lacks_number = [read for read in self._numbers if not any(read & other for other in held)]
        fits, unit = self._kind.fits(quote)
        focus = self._focus_in(own | over, own | over | beside)
        cells = terms("\n".join(cell for _, cell in quote.cells))
        # In a table, a word that another row has is about that row; a row of which the question has nothing is not singled out.
        of_others = sum(
            weight for word, weight in self._weights.items() if word not in known and any(match(row, word) for row in rows)
        )
        singled = any(match(cells, word) for word in self._weights) if len(rows) > 1 else True
        named = {
            **shares,
            "embedding": _USUAL["embedding"] if similarity is None else similarity,
            "passage": _USUAL["passage"] if source.similarity is None else source.similarity,
            "fits": fits,
            "unit": unit,
            "focus": focus,
            "lacks_name": len(nowhere) / len(self._names) if self._names else 0.0,
            "far_name": (len(missing) - len(nowhere)) / len(self._names) if self._names else 0.0,
            "lacks_number": len(lacks_number) / len(self._numbers) if self._numbers else 0.0,
            "of_others": of_others / self._total,
            "unnamed_row": 0.0 if singled else 1.0,
        }
        sibling = (
            any(has(row, name) for name in missing for row in rows)
            or contrasts(self._words, own | over, own)
            or self._is_modified(quote, own | over)
            or self._is_denied(quote)
            or self._is_for_another(quote, own | over)
            or self._is_otherwise(quote)
            or self._is_for_others(quote, own | over)
        )
        another = (
            sibling
            or (bool(self._names) and len(nowhere) == len(self._names))
            or bool(lacks_number)
            or self._kind.is_missing(quote, fits)
            or unit < 0
            or (self._measured and unit <= 0 and focus <= 0)
            or (self._counted and quote.is_row and not self._has_count(quote))
            or (not singled and _SUPERLATIVE.search(self._question) is not None)
            or self._names_another(quote, missing)
            or self._is_without_fact(quote, fits)
        )
        another = another or self._is_of_another(quote, own | over | beside, named["embedding"])
        another = another or self._is_in_another_clause(quote, over, named["embedding"])
        another = another or (quote.is_row and self._is_empty(quote))
        another = another or (share_of_pieces is not None and share_of_pieces < _LEAST_PIECES)
        doubtful = bool(nowhere) or fits < 0 or (focus < 0 and unit <= 0) or not singled
        share = shares["own"] + shares["over"]
        return _Compared(
            [named[name] for name in WEIGHTS],
            frozenset(known),
            frozenset(in_quote),
            share,
            share + _BESIDE * shares["beside"] + named["embedding"],
            doubtful,
            another,
            of_sibling=sibling or (quote.is_row and bool(lacks_number)),
            is_settled=not missing and not lacks_number and self._contrasting <= known,
        )

    def _is_of_another(self, quote: Quote, around: frozenset[str], similarity: float) -> bool:
        """Whether a quote lacks words for what the question is about, or for what is done, and is no paraphrase of it.

        "Who repaired the deck oven?" is not answered by who built it, nor "a season ticket for the library" by that of the pool.
        """
        is_short = quote.is_row or len(quote.said.split()) <= _SHORT_SENTENCE
        there = self._texts[quote.source]
        total = sum(self._weights[word] for word in self._things) or 1.0
        missing = [word for word in self._things if not match(around, word)]
        lacking = (
            sum(self._weights[word] * (_ELSEWHERE if not quote.is_row and match(there, word) else 1.0) for word in missing)
            / total
        )
        if self._is_foreign(quote):
            return False
        if lacking > LACKING and (quote.is_row or similarity < (_SAME_THING if is_short else _SAME_THING_LONG)):
            return True
        undone = not quote.is_row and any(not match(around, word) for word in self._acts)
        return undone and similarity < (_SAME_ACT if is_short else _SAME_ACT_LONG)

    def _stating(self, quote: Quote) -> list[int]:
        """The numbers of the clauses of a sentence that have the kind of fact asked for."""
        parts = clauses(quote.said)
        return [n for n, one in enumerate(parts) if self._kind.fits(replace(quote, text=one.of(quote.said)))[0] > 0]

    def _is_in_another_clause(self, quote: Quote, over: frozenset[str], similarity: float) -> bool:
        """Whether the clause with the number, date or name is about another thing than the question, or none has a name.

        "The beech is 31 metres tall" is no answer about the ginkgo, whatever the next sentence says of it.
        """
        if quote.is_row or self._kind.kind not in _STATED or self._is_foreign(quote):
            return False
        stating = self._stating(quote)
        if not stating:
            return self._kind.kind == "person" and self.event != "" and _ROLE_WORD.search(quote.said) is None
        if similarity < _SAME_THING and self._lacking(self._texts[quote.source] | over) >= _LACKING_CLAUSE:
            return True  # the whole passage knows nothing of it
        if similarity >= _SAME_STATEMENT:
            return False
        for number in stating:
            text = f"{about(quote.said, number)} {with_relative(quote.said, number)}"
            there = terms(text) | over | (self._texts[quote.source] if BEGINS_WITH_PRONOUN.match(text) else frozenset())
            if self._lacking(there) < _LACKING_CLAUSE:
                return False
        return True

    def _lacking(self, there: frozenset[str]) -> float:
        """The share of the words for what the question is about, rare ones weighted higher, that some words lack."""
        total = sum(self._weights[word] for word in self._things) or 1.0
        return sum(self._weights[word] for word in self._things if not match(there, word)) / total

    def _is_foreign(self, quote: Quote) -> bool:
        """Whether a quote is in another language than the question, so that its words are others whatever it is about."""
        return bool(self._language) and language_of(quote.said) not in ("", self._language)

    def _share_of_pieces(self, quote: Quote) -> float | None:
        """The share of a question in a script without spaces that a quote has; `None` if one of them is in another script.

        It is used in place of the share of words, since no spaces divide these.
        """
        there = unspaced_pieces(f"{quote.over}\n{quote.own}") if self._pieces else frozenset()
        return len(self._pieces & there) / len(self._pieces) if there else None

    def is_undone(self, quote: Quote, similarity: WordSimilarity) -> bool:
        """Whether the clause with the date or the name says that something else was done.

        Who cabled a beech is not who insured it, and when an oven was built not when it was repaired.
        """
        if not self.event or self._is_foreign(quote):
            return False
        if quote.is_row:
            return self._is_of_another_column(quote)
        if self._kind.identifier:
            return self._is_identifier_of_another(quote, similarity)
        if _WHEN_CLOSES.match(self._question) and not _CLOSES_AT.search(quote.said):
            return True  # "is closed on Mondays", "is open from May": at another time of day
        parts = clauses(quote.said)
        numbers = self._stating(quote) or list(range(len(parts)))
        texts = [with_relative(quote.said, number) for number in numbers]
        own = terms(" ".join(texts))
        if match(own, self.event) or any(alike(self.event, word) for word in own):
            return False
        if _OPENS.fullmatch(self.event) and any(map(_OPENS.search, texts)):
            return not any(map(_FROM_TO.search, texts))
        if match(terms(quote.said), self.event):
            return True  # another clause says it
        over = terms(quote.over)  # "tree" below "Notable trees" is what all of it is about
        known = self._words | over
        others = sorted(word for word in own if word.isalpha() and not has(known, word) and not _is_name_in(word, texts))
        near = similarity(self.event, others) if others else 0.0
        return near is not None and near < _SAME_VERB

    def _is_identifier_of_another(self, quote: Quote, similarity: WordSimilarity) -> bool:
        """Whether the sentence with an identifier says that something else was done, with the same thing.

        A sentence that says nothing but the identifier is about what the sentence before is about.
        """
        own, over = terms(quote.said), terms(quote.over)
        others = {word for word in own if word.isalpha() and not has(self._words, word)}
        there = own | over | (terms(quote.beside) if len(others) <= _SAYS_NOTHING else frozenset())
        if match(there, self.event) or any(alike(self.event, word) for word in there):
            return False
        done = sorted(word for word in others if _DONE.fullmatch(word))
        near = similarity(self.event, done) if done else None
        return near is not None and near < _SAME_VERB

    def _is_of_another_column(self, quote: Quote) -> bool:
        """Whether the dates of a row are of something else that was done, or the column of what was done has no name."""
        own = [(terms(name), cell) for name, cell in quote.cells]
        done = [cell for name, cell in own if match(name, self.event) or any(alike(self.event, word) for word in name)]
        if self._kind.kind == "person":
            return bool(done) and not any(map(_NAME.search, done))
        return self._kind.kind == "date" and not done and _WAS_DONE.match(self._question) is not None

    def _is_empty(self, quote: Quote) -> bool:
        """Whether the cell of a row that the question asks for is empty: the table's header has its name, the cells have not."""
        header, own = terms(quote.over.rpartition("\n")[2]), terms(quote.own)
        asked = [word for word in self._focus if match(header, word)]
        return bool(asked) and not any(match(own, word) for word in asked)

    def _in_passage(self, quote: Quote, name: str) -> bool:
        whole = facts(f"{quote.over}\n{self._sources[quote.source].text}")
        return has(self._texts[quote.source] | whole.names, name)

    def _focus_in(self, near: frozenset[str], around: frozenset[str]) -> float:
        """Whether the thing that the question asks for ("what capacity") is named: 1 in a quote, 0 beside it, -1 nowhere."""
        if not self._focus:
            return 0.0
        if any(match(near, word) for word in self._focus):
            return 1.0
        return 0.0 if any(match(around, word) for word in self._focus) else -1.0

    def _is_for_another(self, quote: Quote, there: frozenset[str]) -> bool:
        """Whether a quote says what is so for databases, and the question asks for home directories, which the passages know."""
        if not self._meant_for or any(match(there, word) for word in self._meant_for):
            return False
        return any(other.lower() not in self._words for other in _FOR.findall(quote.text))

    def _is_without_fact(self, quote: Quote, fits: float) -> bool:
        """Whether a question when something was done, or how much of it there is, has no date or number here at all."""
        if fits >= 0 or self._is_foreign(quote):
            return False
        if self._kind.kind == "date":
            return _WAS_DONE.match(self._question) is not None
        is_amount = self._kind.kind == "number" and _HOW_MEASURED.match(self._question) is not None
        return is_amount and not COUNT.search(quote.own) and not _SOME.search(quote.own)

    def _is_for_others(self, quote: Quote, there: frozenset[str]) -> bool:
        """Whether a price is no price for those that a question names, or of another thing with a name of two words.

        Students of whom the passage says nothing may pay something else, and a year card's price is not a day ticket's.
        """
        if not self._kind.units >= MONEY or self._is_foreign(quote):
            return False
        known = self._texts[quote.source] | there
        if any(not match(known, word) for word in self._persons):
            return True
        if BEGINS_WITH_PRONOUN.match(quote.said):
            return False
        return any(not has(there, one) and not has(there, other) for one, other in self._named_things)

    def _is_otherwise(self, quote: Quote) -> bool:
        """Whether a quote is about full-time work, and the question about part-time work."""
        there = _HYPHENATED.findall(f"{quote.over}\n{quote.own}".lower())
        return any(
            (first, last) not in there and any(same == last and other != first for other, same in there)
            for first, last in self._hyphenated
        )

    def _has_count(self, quote: Quote) -> bool:
        """Whether a row has a number of what the question counts: below a column of that name, or in front of it."""
        if not self.counts:
            return any(match(terms(name), word) for name, _ in quote.cells for word in self._focus)
        return any(
            (is_count(cell) and (self._has_counted(terms(name)) or terms(name) & _COUNT_COLUMNS))
            or any(self._has_counted(terms(behind)) for behind in behind_numbers(cell).values())
            for name, cell in quote.cells
        )

    def is_miscounted(self, quote: Quote, similarity: WordSimilarity) -> bool:
        """Whether all numbers of a sentence count or measure something else than the question asks to be counted."""
        if not self.counts or quote.is_row or self._is_foreign(quote):
            return False
        said = DAY_OF_MONTH.sub(" ", quote.said)
        behind = behind_numbers(said)
        if any(self._has_counted(terms(words)) for words in behind.values()):
            return False
        near = [terms(words) for number, words in behind.items() if not is_no_count(said[slice(*number)])]
        if not near:
            return True  # a year, a time of day
        if not all(near):
            return False
        others = sorted({word for words in near for word in words if word.isalpha()})
        likeness = similarity(" ".join(self.counts), others) if others else 0.0
        return likeness is not None and likeness < _SAME_VERB

    def _has_counted(self, there: frozenset[str]) -> bool:
        return any(match(there, word) for word in self.counts)

    def _is_denied(self, quote: Quote) -> bool:
        """Whether a quote is about non-members, and the question about members."""
        if "non" in self._words:
            return False
        denied = {word.lower() for word in _NON.findall(quote.own)}
        return bool(denied) and any(
            has(frozenset(denied), word) and not has(terms(_NON.sub(" ", quote.own)), word) for word in self._words
        )

    def _is_modified(self, quote: Quote, there: frozenset[str]) -> bool:
        """Whether a quote is about the deck oven, and the question about the rotary oven, which the passages know."""
        for modifier, noun in self._modified:
            if not has(there, modifier):
                others = re.findall(rf"\b([^\W\d_]{{3,40}})\s+{re.escape(noun)}\b", quote.text, re.IGNORECASE)
                if any(other.lower() not in self._words | _FUNCTION for other in others):
                    return True
        return False

    def _names_another(self, quote: Quote, missing: Sequence[str]) -> bool:
        """Whether a quote names another of the same sort: "the Malmö site" where the question names the Lund site."""
        for name, pattern in self._beside_names:
            if name in missing and any(found.casefold() not in self._words for found in pattern.findall(quote.text)):
                return True
        return False


def _nothing_alike(_word: str, _others: Sequence[str]) -> float:
    return 0.0


def _event(question: str) -> str:
    """The verb of a question who did something, or when something was done; empty for any other question."""
    if (who := _WHO_DID.match(question)) and who[1].lower() not in _FUNCTION:
        return "" if who[1].lower() in _SLIGHT_VERBS else who[1].lower()
    verbs = arguments_of(question).verbs - _SLIGHT_VERBS if _WHEN_DONE.match(question) else ()
    if len(verbs) != 1:
        return ""
    (verb,) = verbs
    behind = question.lower().partition(verb)[2]
    return "" if _SLIGHT_VERBS & set(re.findall(r"\w+", behind[:_READ])) else verb  # "does the course take place"


def _identified(question: str) -> str:
    """What was done, of a question for its identifier: "upgrade" of "the change ticket for the firmware upgrade of array A7"."""
    done = _DONE_TO.search(question[:_READ])
    return done[1].lower() if done and done[1].lower() not in _FUNCTION else ""


def _is_name_in(word: str, texts: Sequence[str]) -> bool:
    return any(re.search(rf"(?<=\w ){re.escape(word.capitalize())}\b", text) for text in texts)


def _focus(question: str) -> frozenset[str]:
    """The words for what is asked for: "capacity" of "what capacity has …" and "what is the capacity of …"."""
    nouns = set(asked_of(question, {}).nouns)
    if role := _ROLE.match(question):
        nouns |= {word for word in role[1].lower().split() if word not in _FUNCTION}
    for how in _DIMENSION.finditer(question):
        nouns.add((how[1] or how[2]).lower())
    for possessed in _POSSESSED.finditer(question):
        nouns |= {word for word in possessed[1].split() if word not in _FUNCTION}
    return frozenset(word for noun in nouns for word in terms(noun) if word not in _GENERIC)


def _beside_names(question: str, names: frozenset[str]) -> list[tuple[str, re.Pattern[str]]]:
    """For each name with a noun beside it, the pattern of another name in its place: any site for "the Lund site"."""
    words = re.findall(r"[\w'’-]+", question[:_READ])
    found = []
    for at, word in enumerate(words):
        name = re.sub(r"['’]s?$", "", word.casefold())
        if name not in names:
            continue
        for noun, pattern in (
            (words[at + 1 : at + 2], r"\b([A-ZÄÖÜ][\w-]*)\s+{}s?\b"),
            (words[max(0, at - 1) : at], r"\b{}\s+([A-ZÄÖÜ0-9][\w-]*)\b"),
        ):
            if noun and noun[0].islower() and noun[0] not in _FUNCTION and noun[0] not in _SLIGHT and len(noun[0]) > 2:
                found.append((name, re.compile(pattern.format(re.escape(noun[0])))))
    return found


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


def word_weights(question: str, sources: Sequence[SourceText]) -> dict[str, float]:
    """What each word of a question counts: names and words that few passages have count more."""
    wanted = sorted(content_words(question), key=question.lower().find)[:_WORDS]
    texts = [terms(f"{source.name}\n{source.text}") for source in sources[:PASSAGES]]
    names = _names(question)
    slight = _SLIGHT | _FUNCTION | {how[1].lower() for how in _MEASURED.finditer(question)}
    return {
        word: max(_LEAST_NAME, _idf(word, texts))
        if word in names
        else _LEAST_WORD
        if word in slight
        else max(_LEAST_WORD, _idf(word, texts))
        for word in wanted
    }


def _names(question: str) -> frozenset[str]:
    """The names of a question; of a German one, which writes every noun like a name, only what is none of its words."""
    named = {name.casefold() for name in NAMED.findall(question)}
    own = {re.sub(r"['’]s?$", "", name) for name in facts(question).names}
    if _GERMAN.match(question):
        own = {name for name in own if any(c.isdigit() for c in name) or not concepts_of(name)}
    return frozenset(own | named)


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
    asked = _Question(question, sources)
    compared = _compared(asked, sources, found, similarities, read)
    scores = np.array([one.values for one in compared]) @ np.array(list(WEIGHTS.values()))
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
    also = _also(question, sources, found[first], compared[first], read or found) if enough and _SEVERAL.search(question) else ()
    other = found[close[0]] if enough and close and not also else None
    return Extract(question, found[first], float(scores[first]), enough, other, also, compared[first].known)


def _also(
    question: str, sources: Sequence[SourceText], first: Quote, compared: _Compared, read: Sequence[Quote]
) -> tuple[Quote, ...]:
    """The other rows of a quote's table that have all words of the question that it has."""
    rows = [quote for quote in read if first.is_row and quote != first and _table(sources, quote) == _table(sources, first)]
    each = _compared(_Question(question, sources), sources, rows, None, read)
    same = [quote for quote, one in zip(rows, each, strict=True) if one.words >= compared.words and not one.about_another]
    return tuple(same[:_LISTED]) if len(same) < len(rows) else ()  # of all rows, none is singled out


def _is_like(other: _Compared, first: _Compared, *, row: bool) -> bool:
    """Whether a second quote has as much of the question as the first; a table's row, all the same words of it."""
    if other.doubtful > first.doubtful:
        return False
    return other.own >= first.own if row else other.known >= first.known - _LESS_KNOWN


def has_both(quote: Quote, first: str, second: str) -> bool:
    """Whether a quote, or what is above it, has the words of two things."""
    there = terms(quote.own) | terms(quote.over)
    return all(match(there, word) for word in terms(f"{first} {second}"))


def _enough(score: float, compared: _Compared) -> bool:
    """Whether a quote with this score, less `IN_DOUBT` if there is doubt, is evidence."""
    return (
        not compared.about_another and score >= ENOUGH and compared.evidence >= LEAST_EVIDENCE + MORE_EVIDENCE * compared.doubtful
    )


def _share(there: frozenset[str], weights: Mapping[str, float]) -> float:
    """The weighted share of a question's words that a text has."""
    return sum(weight * match(there, word) for word, weight in weights.items()) / (sum(weights.values()) or 1.0)


def _idf(word: str, texts: Sequence[frozenset[str]]) -> float:
    """Inverse document frequency over the passages (Robertson and Sparck Jones); a word in none of them counts as in one more."""
    count = sum(match(there, word) > 0 for there in texts)
    return math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) if count else math.log(1 + 2 * len(texts))
