"""The clauses of a sentence, each with what it says something of.

"The deck oven was built by Winkler in 2016; the mixer came from Horn" has two: what is said of the mixer is not said of the
oven. There is no parser: a clause begins behind a semicolon, a dash or a conjunction if a verb follows, and before "which" or
"whose". A clause without a subject of its own ("and runs on gas", "it was cleaned", "whose door was painted") goes on about what
the one before it is about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from headrace.models.asked import ADVERBS, AUXILIARIES, CONJUNCTIONS, PREPOSITIONS

_READ = 800  # characters of a sentence
_TOKEN = re.compile(r"\d+(?:[.,:–-]\d+)*\w*|['’]\w+|\w+(?:[-.]\w+)*|[^\w\s]")
_RELATIVE = frozenset(["which", "who", "whose", "whom", "where", "that"])
_JOINS = frozenset(
    re.findall(r"\w+", "and but while whereas or so because since though although und aber während sondern weil oder")
)
_WHO = re.compile(r"(?:who|which|that|der|die|das)\b", re.IGNORECASE)
_PRONOUNS = frozenset(
    re.findall(r"\w+", "it its they their he his she her this these there es er sie ihr ihre sein seine dies diese")
)
_FINITE = re.compile(
    r"\w{2,}ed|came|went|took|gave|got|made|ran|led|built|bought|sold|held|paid|kept|sent|left|lost|found|won|wrote|began|fell|felled"
    r"|burnt|stood|stands|holds|runs|costs|cost|serves|lies|makes|takes|gives|goes|comes|has|keeps|needs|drew|grew|became|rose|met|put|set|cut|hit|broke|spoke|chose|drove"
)


BEGINS_WITH_PRONOUN = re.compile(rf"\W*(?:{'|'.join(sorted(_PRONOUNS))}|\w+ing)\b", re.IGNORECASE)
"""What is about a thing that the sentence before names: "It takes …", "Heating it up takes …"."""


@dataclass(frozen=True)
class Clause:
    """Characters `start` to `end` of a sentence, and the number of the clause whose subject it goes on about; `None`: its own."""

    start: int
    end: int
    goes_on: int | None

    def of(self, sentence: str) -> str:
        """The clause's own text."""
        return sentence[self.start : self.end]


@lru_cache(maxsize=4096)
def clauses(sentence: str) -> tuple[Clause, ...]:
    """The clauses of a sentence, in order; one if it is not divided."""
    tokens = [(match[0].lower(), match[0], match.start(), match.end()) for match in _TOKEN.finditer(sentence[:_READ])]
    begins: list[tuple[int, bool]] = [(0, False)]  # the first token of each, and whether it goes on about the one before
    for at, (low, _, _, _) in enumerate(tokens):
        if at <= begins[-1][0] + 1 or at + 2 >= len(tokens):
            continue
        before = tokens[at - 1][0]
        if low in ";—–":
            begins.append((at + 1, _has_no_subject(tokens, at + 1)))
        elif (low in _RELATIVE and before == ",") or (low in ("which", "whose") and before not in PREPOSITIONS):
            begins.append((at, True))
        elif low in _JOINS and _has_verb(tokens, at + 1) and _has_verb(tokens, begins[-1][0], at):
            begins.append((at + 1, _has_no_subject(tokens, at + 1)))
    found = []
    for number, (at, goes_on) in enumerate(begins):
        end = tokens[begins[number + 1][0] - 1][3] if number + 1 < len(begins) else len(sentence)
        start = tokens[at][2] if at < len(tokens) else 0
        found.append(Clause(start, end, number - 1 if goes_on and number else None))
    return tuple(found)


def about(sentence: str, number: int) -> str:
    """The text of a clause with that of the clauses whose subject it goes on about."""
    parts = clauses(sentence)
    texts = []
    at: int | None = number
    while at is not None:
        texts.append(parts[at].of(sentence))
        at = parts[at].goes_on
    return " ".join(reversed(texts))


def with_relative(sentence: str, number: int) -> str:
    """The text of a clause with one that says more of what it ends in: "Helena Brandt, who manages the rota"."""
    parts = clauses(sentence)
    more = [one.of(sentence) for one in parts[number + 1 : number + 2] if _WHO.match(one.of(sentence))]
    return " ".join([parts[number].of(sentence), *more])


def _has_verb(tokens: list[tuple[str, str, int, int]], begin: int, end: int | None = None) -> bool:
    """Whether a verb follows before the next mark or conjunction."""
    for at in range(begin, len(tokens) if end is None else end):
        low, word = tokens[at][0], tokens[at][1]
        if end is None and (low in ";:—–" or (at > begin + 1 and low in _JOINS)):
            return False
        if low in AUXILIARIES or (word[0].islower() and _FINITE.fullmatch(low) and low not in ADVERBS):
            return True
    return False


def _has_no_subject(tokens: list[tuple[str, str, int, int]], begin: int) -> bool:
    """Whether a clause begins with a pronoun or with its verb."""
    for low, word, _, _ in tokens[begin : begin + 3]:
        if low in ADVERBS or low in CONJUNCTIONS:
            continue
        return low in _PRONOUNS or low in AUXILIARIES or (word[0].islower() and _FINITE.fullmatch(low) is not None)
    return False
