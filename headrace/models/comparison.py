"""A question compared with quotes: what of it each quote has, and whether the quote is about another thing (`extract.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from headrace.models.arguments import arguments_of, language_of
from headrace.models.asked import asked_of
from headrace.models.clauses import BEGINS_WITH_PRONOUN, about, clauses, with_relative
from headrace.models.concepts import concepts_of, contrasting, contrasts
from headrace.models.counts import (
    COUNT,
    COUNT_COLUMNS,
    LABELLED,
    SOME,
    behind_numbers,
    counted_words,
    is_count,
    is_no_count,
    numerals_in,
)
from headrace.models.fact_kinds import CLOSES_AT, DAY_OF_MONTH, MONEY, ROLE_WORD, FactKind, fact_kind
from headrace.models.question_words import (
    ASKS_WHEN,
    COUNTED,
    DIMENSION,
    FUNCTION,
    GENERIC,
    HOW_MEASURED,
    HOW_MUCH,
    HOW_MUCH_REMAINS,
    LEAST_WORD,
    MEANT_FOR,
    READ,
    REMAINING,
    SLIGHT,
    SUPERLATIVE,
    TEMPORAL,
    WAS_DONE,
    WHEN_CLOSES,
    beside_names,
    event_of,
    focus_of,
    identified,
    is_name_in,
    names_of,
    word_weights,
)
from headrace.models.quotable import Quote, SourceText
from headrace.models.ranges import included
from headrace.models.support import alike, facts
from headrace.models.word_match import has, has_name, match, terms
from headrace.storage.vectors.words import unspaced_pieces

LACKING = 0.45
"""The share of the words for what a question is about, rare ones weighted higher, that a quote may lack."""
_BESIDE = 0.7  # what a word beside a quote counts as evidence
_SHORT_SENTENCE = 16  # words of a sentence that says one thing; the embedding of a longer one is like a question's only in part
# Similarities from which other words may mean the same: of short sentences and rows, and of long ones.
_SAME_THING, _SAME_THING_LONG = 0.72, 0.4
_SAME_ACT, _SAME_ACT_LONG = 0.6, 0.4
# The share of the words for what a question is about that the clause with the number, date or name may lack, the similarity of
# the sentence from which it may lack more, and that of verbs which may mean the same.
_LACKING_CLAUSE, _SAME_STATEMENT, _SAME_VERB = 0.75, 0.6, 0.35
_ELSEWHERE = 0.4  # how far a word lacks that is elsewhere in the passage, but not in another row
_USUAL = {"embedding": 0.45, "passage": 0.5}  # similarities without an embedder: the same for all quotes
_LEAST_PIECES = 0.5  # of a question in a script without spaces
_FOR = re.compile(r"\b(?:for|für|pour|para)\s+(?:the\s+|an?\s+|die\s+|den\s+|das\s+|les\s+|los\s+)?([^\W\d_]{3,40})")
_NON = re.compile(r"\b[Nn]on-(\w{3,40})")
_STATED = ("person", "date", "number")  # kinds of facts that one clause of a sentence states
_NAME = re.compile(r"[A-ZÄÖÜ]")
_HYPHENATED = re.compile(r"(?<![\w-])([^\W\d_]{2,20})-([^\W\d_]{3,20})(?![\w-])")
_DONE = re.compile(
    r"\w{2,}(?:ed|ing|ion|ment)|built|bought|sold|sent|broken|stolen|torn|written|driven|lent|lost|found|cut|set|put"
)
_PERSONS = frozenset(["child", "pupil", "apprentice", "pensioner", "couple", "family"])
_COUPLE_OF = re.compile(r"\bcouple of\b", re.IGNORECASE)
_TICKETS = frozenset(["ticket", "tickets", "card", "cards", "pass", "passes", "permit", "permits"])
_SAYS_NOTHING = 3  # words beside an identifier and the question's
_CODE = re.compile(r"[^\W_]+(?:[-./][^\W_]+)*")
_OPENS = re.compile(r"\b(?:open|close)(?:s|d|ed|ing)?\b", re.IGNORECASE)
_FROM_TO = re.compile(r"\b(?:to|until|till)\b|\d\s?[-–]\s?\d", re.IGNORECASE)

WordSimilarity = Callable[[str, Sequence[str]], float | None]
"""The largest similarity of a word's embedding to those of other words; `None` if the embedder does not answer."""


@dataclass(frozen=True)
class ComparedQuote:
    """A quote compared with a question: its features, the question's words that it has, and whether it is about another thing.

    `words` are in the quote or above it, `own` in the quote. `of_sibling` says whether the other thing is one of the same sort:
    another row of the table, hourly instead of daily, another year. `is_settled` says that the quote, or what is above it, has
    all that tells one of a sort from another: the question's names, its numbers, "daily".
    """

    values: Mapping[str, float]
    words: frozenset[str]
    own: frozenset[str]
    known: float
    evidence: float
    doubtful: bool
    about_another: bool
    of_sibling: bool
    is_settled: bool


class Comparison:
    """A question, compared with quotes of its passages."""

    def __init__(self, question: str, sources: Sequence[SourceText]) -> None:
        self._question, self._sources = question, sources
        self._texts = [terms(f"{source.name}\n{source.text}") for source in sources]
        self._words = terms(question)
        self._numbers = [readings for readings, _ in facts(question).numbers]
        self._names = names_of(question)
        self._weights = word_weights(question, sources)
        self._total = sum(self._weights.values()) or 1.0
        self._kind: FactKind = fact_kind(question, self._numbers, [source.text for source in sources])
        low = [source.text.lower() for source in sources]
        words = pairwise(re.findall(r"\w+", question.lower()[:READ]))
        known_pairs = [(one, other) for one, other in words if any(f"{one} {other}" in text for text in low)]
        self._modified = [
            (one, other)
            for one, other in known_pairs
            if not {one, other} & FUNCTION and min(len(one), len(other)) > 3 and one.isalpha()
        ]
        self._persons = [word for word in terms(_COUPLE_OF.sub(" ", question[:READ])) if concepts_of(word) & _PERSONS]
        self._named_things = [(one, other) for one, other in known_pairs if other in _TICKETS and one not in FUNCTION | SLIGHT]
        meant = MEANT_FOR.search(question[-READ:])
        known = frozenset[str]().union(*self._texts)
        self._meant_for = [word for word in terms(meant[1]) if has(known, word)] if meant else []
        self._contrasting = {word for word in self._weights if contrasting(word)}
        self._remaining = HOW_MUCH_REMAINS.search(question) is not None
        self._measured = DIMENSION.search(question) is not None
        self._focus = focus_of(question)
        counted = COUNTED.search(question)
        self._counted = counted is not None
        self.counts = (
            counted_words(question[counted.end() :], SLIGHT | GENERIC) if counted and self._kind.kind == "number" else ()
        )
        self._hyphenated = _HYPHENATED.findall(question[:READ].lower())
        self._beside_names = beside_names(question, self._names)
        about = arguments_of(question)
        asked = frozenset[str]() if HOW_MUCH.search(question) else asked_of(question, {}).nouns
        told = {word for word, weight in self._weights.items() if weight > LEAST_WORD}
        self._things = sorted(about.nouns & told - asked - GENERIC)
        # Other questions have verbs of their own: "On which day is the sauna heated?" of "The sauna is warm on Fridays."
        self._acts = sorted(about.verbs & told) if self._kind.kind == "person" else []
        self._language = language_of(question)
        self._pieces = unspaced_pieces(question[:READ])
        self.event = identified(question) if self._kind.identifier else event_of(question)

    def compare(self, quote: Quote, similarity: float | None, rows: Sequence[frozenset[str]]) -> ComparedQuote:
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
            any(has_name(row, name) and not has_name(own | over, name) for name in missing for row in rows)
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
            or (not singled and SUPERLATIVE.search(self._question) is not None)
            or self._names_another(quote, missing)
            or self._numbers_another(quote, [name for name in missing if not has_name(own | over | beside, name)])
            or (self._remaining and REMAINING.search(f"{quote.over}\n{quote.own}") is None)
            or self._is_without_fact(quote, fits)
        )
        another = another or self._is_of_another(quote, own | over | beside, named["embedding"])
        another = another or self._is_in_another_clause(quote, over, named["embedding"])
        another = another or (quote.is_row and self._is_empty(quote))
        another = another or (share_of_pieces is not None and share_of_pieces < _LEAST_PIECES)
        doubtful = bool(nowhere) or fits < 0 or (focus < 0 and unit <= 0) or not singled
        share = shares["own"] + shares["over"]
        return ComparedQuote(
            named,
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
            return self._kind.kind == "person" and self.event != "" and ROLE_WORD.search(quote.said) is None
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
        if WHEN_CLOSES.match(self._question) and not CLOSES_AT.search(quote.said):
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
        others = sorted(word for word in own if word.isalpha() and not has(known, word) and not is_name_in(word, texts))
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
        return self._kind.kind == "date" and not done and WAS_DONE.match(self._question) is not None

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
            return WAS_DONE.match(self._question) is not None or (not quote.is_row and self._is_timeless(quote))
        is_amount = self._kind.kind == "number" and HOW_MEASURED.match(self._question) is not None
        return is_amount and not COUNT.search(quote.own) and not SOME.search(quote.own)

    def _is_timeless(self, quote: Quote) -> bool:
        """Whether a sentence says of no time and under no condition what it says: no answer to "When may the lathe be used?"."""
        return ASKS_WHEN.match(self._question) is not None and TEMPORAL.search(LABELLED.sub(" ", quote.said)) is None

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
            (is_count(cell) and (self._has_counted(terms(name)) or terms(name) & COUNT_COLUMNS))
            or any(self._has_counted(terms(behind)) for behind in behind_numbers(cell).values())
            for name, cell in quote.cells
        )

    def is_miscounted(self, quote: Quote, similarity: WordSimilarity) -> bool:
        """Whether all numbers of a sentence count or measure something else than the question asks to be counted."""
        if not self.counts or quote.is_row or self._is_foreign(quote):
            return False
        said = LABELLED.sub(" ", DAY_OF_MONTH.sub(" ", quote.said))
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
                if any(other.lower() not in self._words | FUNCTION for other in others):
                    return True
        return False

    def _numbers_another(self, quote: Quote, missing: Sequence[str]) -> bool:
        """Whether a quote has another code of the form of one of the question: BP-700-S where that has BP-700-H."""
        forms = {_form(name) for name in missing if any(map(str.isdigit, name)) and any(map(str.isalpha, name))}
        if not forms or BEGINS_WITH_PRONOUN.match(quote.said):
            return False
        return any(_form(code) in forms and code.casefold() not in self._names for code in _CODE.findall(quote.own))

    def _names_another(self, quote: Quote, missing: Sequence[str]) -> bool:
        """Whether a quote names another of the same sort: "the Malmö site" where the question names the Lund site."""
        for name, pattern in self._beside_names:
            if name in missing and any(found.casefold() not in self._words for found in pattern.findall(quote.text)):
                return True
        return False


def _form(code: str) -> str:
    """A code with a letter for each letter and a digit for each digit: all like KR-101 have the same."""
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", code.casefold()))
