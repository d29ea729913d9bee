"""What a question asks for: the kind of answer, the nouns after its question word, its unit, and what the answer follows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.models.support import WORDS_FOR

_READ = 400  # characters of a question


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "the a an this that these those some any each every another no der die das den dem des ein eine einen einem einer"
)
OWNERS = _words("his her its their our my your sein seine ihr ihre")
PREPOSITIONS = _words(
    """of in on at by for from to with within without into onto over under between among through during after before
        since until about against around near per as than via across along behind beyond upon toward towards like
        including despite throughout besides outside inside above below off out up down auf aus bei bis durch für gegen
        mit nach ohne seit über um unter von vom vor zu zum zur im am pro je"""
)
CONJUNCTIONS = _words(
    "and or but nor while whereas although though if because that so und oder aber weil dass wenn when which who whom whose where"
)
PRONOUNS = _words("he she it they them him we i you us me himself herself itself themselves there er sie es")
AUXILIARIES = _words(
    """is are was were be been being am has have had do does did will would can could may might must shall should ist
        sind war waren wird werden wurde wurden hat haben hatte kann konnte muss"""
)
ADVERBS = _words(
    """also only just not never often usually still even then thus however later now very more most less least such
        both too already once again yet first early currently approximately about"""
)
LARGE = _words("hundred thousand million billion trillion percent hundreds thousands millions")
NUMERALS = (
    (frozenset(WORDS_FOR) - _words("ein eins eine null"))
    | LARGE
    | _words(
        "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
    )
    | _words("dozen half twice once second third fourth fifth")
)
# What a noun after "what" or "which" asks for.
_NOUNS = {
    "when": _words("year date day time month century decade era period season jahr tag datum monat"),
    "quantity": _words(
        """percentage percent number amount temperature rate share proportion size length distance cost price population
        age speed capacity limit threshold score height width depth weight fee period deadline objective"""
    ),
    "where": _words(
        """city country state place region town county continent nation area location river district province street island
        capital stadium venue museum building"""
    ),
    "who": _words(
        """person people man woman king queen president player coach actor author emperor leader general scientist singer
        artist director prince pope ruler khan minister scholar composer inventor engineer philosopher founder writer
        architect"""
    ),
}
_KINDS: tuple[tuple[str, str], ...] = (
    (r"\bhow many\b|\bwie ?viele\b", "count"),
    (
        r"\bhow (?:much|long|far|old|big|large|tall|high|fast|wide|deep|heavy|low|often|quickly|late|early|soon|hot"
        r"|warm|cold|small)\b"
        r"|\bwie ?(?:lange|hoch|groß|oft|alt|weit|schnell|teuer|viel)\b",
        "quantity",
    ),
    (r"^(?!.*\b(?:what|which)\b.*\bwho).*\b(?:who|whom|whose|wer|wem|wen|wessen)\b", "who"),
    (r"^(?!what|which|who|how|where|why).*\b(?:when|wann)\b", "when"),
    (r"^(?!what|which|who|how).*\b(?:where|wo|wohin|woher)\b", "where"),
    (r"\b(?:why|warum|weshalb|wieso)\b", "why"),
    (r"\b(?:what|which|welche[rsnm]?)\b", "what"),
    (r"^was\b.*\b(?:ist|sind|wird|hat|kostet|bedeutet|passiert|der|die|das|den|dem|eine?|ich|man|wir)\b", "what"),
    (r"\b(?:how|wie)\b", "how"),
)
_ASKS = re.compile(r"what|which|who|whose|whom|how|when|where|why|wer|was|wann|wo|wie|welche[rsnm]?")
RATE_BY_TIME = (
    r"\b(?:hourly|daily|weekly|monthly|yearly|annual|hour|day|week|month)(?:[\s-]+\w+)?[\s-]+rates?\b"
    r"|\brates?\s+(?:per|an?)\s+\w+"
)
"""A pattern of what something costs by time: "the hourly rate"."""
# Units that a question asks for, by its words.
_MEASURES = (
    (r"how (?:long|often|soon|late|early|much time)|wie (?:lange|oft)|what period", "second minute hour day week month year"),
    (r"\b(?:costs?|price|fee|paid|pay|salary|budget|money|revenue|worth|charged?|income|kostet|teuer)\b", "eur usd gbp"),
    (RATE_BY_TIME, "eur usd gbp chf"),
    (r"percent|share|proportion|Prozent", "percent"),
    (r"how (?:far|tall|high|wide|deep)|distance|length|altitude|wie (?:weit|hoch)", "m km"),
    (r"how (?:big|large|heavy)|\bsize|capacity|weigh", "byte kb mb gb tb pb kib mib gib tib kg w kw"),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a question asks for: its kind, the nouns after its question word, and its other words with their weights.

    `acts` says whether the answer is what acts ("who wrote it"); `preposition` is the one that the answer may follow.
    """

    kind: str
    nouns: frozenset[str]
    weights: Mapping[str, float]
    acts: bool
    preposition: str
    units: frozenset[str]
    first: str
    last: str


def asked_of(question: str, weights: Mapping[str, float]) -> Asked:
    """Read a question. `weights` has its words in lower case and what they count."""
    low = question.lower()[:_READ]
    words = re.findall(r"[\w'-]+", low)
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, low.strip())), "")
    kind = kind or ("" if words and words[0] in AUXILIARIES else "other")
    at = next((place for place, word in enumerate(words) if _ASKS.fullmatch(word)), 0)
    nouns = _nouns(words, at)
    if kind == "what":
        kind = next((kind for kind, known in _NOUNS.items() if nouns & known), "noun" if nouns else "what")
    own = [word for word in words if word in weights]
    before = words[at - 1] if at else ""
    return Asked(
        kind,
        nouns,
        weights,
        acts=not any(word in AUXILIARIES for word in words[at + 1 : at + 5]),
        preposition=words[-1] if words and words[-1] in PREPOSITIONS else before if before in PREPOSITIONS else "",
        units=next((frozenset(units.split()) for pattern, units in _MEASURES if re.search(pattern, low)), frozenset()),
        first=next((word for word in words[at + 1 :] if word in weights and word not in nouns), ""),
        last=own[-1] if own else "",
    )


def _nouns(words: Sequence[str], at: int) -> frozenset[str]:
    """The nouns after "what", "which" or "how many", or of "what is the name of"."""
    rest = list(words[at + 1 :])
    if words[at : at + 1] in (["how"], ["wie"]):
        rest = rest[1:] if rest[:1] and rest[0] in ("many", "much", "viel", "viele") else []
    elif not words[at : at + 1] or (words[at] not in ("what", "which", "was") and not words[at].startswith("welche")):
        rest = []
    elif rest[:1] and rest[0] in ("is", "are", "was", "were") and rest[1:2] and rest[1] in DETERMINERS:
        rest = rest[2:]
    found: list[str] = []
    for word in rest:
        if word == "of" and found and found[-1] in ("type", "types", "kind", "kinds", "sort", "form", "name"):
            continue
        if word in DETERMINERS and found and found[-1] in ("type", "kind", "name"):
            continue
        if word in PREPOSITIONS | AUXILIARIES | CONJUNCTIONS | DETERMINERS | PRONOUNS | OWNERS or len(found) > 3:
            break
        found.append(word)
    return frozenset(found)
