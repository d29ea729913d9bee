"""Counted things: what "how many avalanche beacons" counts, and what the numbers of a text count."""

from __future__ import annotations

import re
from collections.abc import Collection

from headrace.models.asked import AUXILIARIES, CONJUNCTIONS, DETERMINERS, NUMERALS, OWNERS, PREPOSITIONS, PRONOUNS
from headrace.models.support import UNITS
from headrace.models.word_match import terms

_READ = 200  # characters of what is counted
_MOST = 4  # words of it
_FUNCTION = AUXILIARIES | CONJUNCTIONS | DETERMINERS | OWNERS | PREPOSITIONS | PRONOUNS
_CARDINALS = "|".join(sorted(NUMERALS - {"second", "third", "fourth", "fifth"}, key=len, reverse=True))
COUNT = re.compile(rf"(?<![\w.,-])(?:\d+(?:[.,:]\d+)*|{_CARDINALS})(?!\w)", re.IGNORECASE)
"""A number in digits or in words."""
SOME = re.compile(
    r"\b(?:an?|one|all|no|none|few|several|some|both|each|every|until|half|always|never|forever|permanently|overnight|pair|couple|dozens?)\b",
    re.IGNORECASE,
)
"""An amount without a number."""
COUNT_COLUMNS = frozenset(
    ["number", "count", "quantity", "amount", "total", "pieces", "anzahl", "menge", "stück", "nombre", "cantidad"]
)
"""Words in the name of a column that counts."""
# "tracks 7 and 8", "room 12": which one, not how many. No measure follows: "a platform 12 metres long".
_LABELS = (
    "tracks?|platforms?|gates?|doors?|halls?|rooms?|floors?|buildings?|blocks?|lines?|lanes?|bus(?:es)?|trams?|pages?|chapters?|sections?|paragraphs?|clauses?"
    "|appendix|figures?|tables?|steps?|phases?|versions?|releases?|models?|types?|class(?:es)?|zones?|bays?|docks?|berths?|piers?|sheds?|racks?|cabinets?"
    "|lockers?|rows?|items?|questions?|Gleise?|Hallen?|Räume?|Raum|Tore?|Zimmer|Kapitel|Seiten?|Linien?|Stufen?|Etagen?|Abschnitte?|Absatz|Bahnsteige?|Klassen?"
)
_ONE = rf"\d{{1,4}}(?!\w|[.,:/]\d)(?!\s?(?:{'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})(?!\w))"
LABELLED = re.compile(rf"\b(?:{_LABELS})\s+{_ONE}(?:\s*(?:,|and|or|to|und|oder|bis|[-–&])\s*{_ONE})*", re.IGNORECASE)
"""Numbers that say which of several things is meant, with the noun before them."""
_BEHIND = re.compile(r"(?:\s+[^\W\d_][\w'-]*){1,4}")
_NO_COUNT = re.compile(r"1[5-9]\d\d|20\d\d|\d{1,2}[:.]\d\d")
_IS_COUNT = re.compile(r"\W*\d[\d.,]*\W*$")
_DECADE = re.compile(r"\b(1\d|20)?(\d0)['’]?s\b")
_ROMAN_NUMERAL = re.compile(r"\b[IVX]+\b")
_NUMBERED = {
    word: str(number)
    for number, words in enumerate(
        [
            "I first",
            "II second",
            "III third",
            "IV fourth",
            "V fifth",
            "VI sixth",
            "VII seventh",
            "VIII eighth",
            "IX ninth",
            "X tenth",
            "XI eleventh",
            "XII twelfth",
        ],
        1,
    )
    for word in words.split()
}


def counted_words(text: str, slight: Collection[str]) -> tuple[str, ...]:
    """The words for what is counted at the beginning of a text: "avalanche" and "beacons" of "avalanche beacons are there".

    None where it is a unit ("days"); `slight` words name nothing.
    """
    found: list[str] = []
    for word in re.findall(r"[\w'-]+", text[:_READ].lower())[:_MOST]:
        if word in _FUNCTION or word in UNITS or word in slight:
            break
        found += [part for part in terms(word) if part not in slight]
    return tuple(found)


def behind_numbers(text: str) -> dict[tuple[int, int], str]:
    """The place of each number of a text, with at most four words behind it, up to the next mark."""
    found = {}
    for number in COUNT.finditer(text):
        behind = _BEHIND.match(text, number.end())
        found[number.span()] = behind[0] if behind else ""
    return found


def is_count(cell: str) -> bool:
    """Whether a cell is a number and nothing else."""
    return _IS_COUNT.match(cell) is not None


def is_no_count(number: str) -> bool:
    """Whether a number is more often a year or a time of day."""
    return _NO_COUNT.fullmatch(number) is not None


def numerals_in(text: str) -> frozenset[str]:
    """The numbers of a text's ordinals in words, Roman numerals and decades: "tenth", "grade I", "the 1970s"."""
    found = {_NUMBERED[word] for word in re.findall(r"\w+", text.lower()) if word in _NUMBERED}
    found |= {_NUMBERED[word] for word in _ROMAN_NUMERAL.findall(text) if word in _NUMBERED}
    for century, decade in _DECADE.findall(text):
        found |= {decade, f"{century}{decade}"}
    return frozenset(found)
