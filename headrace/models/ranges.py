"""Ranges of months, weekdays and times: "open from May to September" says something of June, "Monday to Friday" of Wednesday.

It also says something of January, if the question is whether it is open then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from headrace.models.concepts import concepts_of
from headrace.models.support import MONTHS

_READ = 2000  # characters of a text
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_SHORT = {day[:3]: day for day in _DAYS} | {"tues": "tuesday", "thur": "thursday", "thurs": "thursday"}
_MONTH = rf"(?:{'|'.join(sorted(MONTHS, key=len, reverse=True))})\b\.?"
_DAY = r"\d{1,2}(?:\.|st|nd|rd|th|er)?\s+(?:of\s+|de\s+)?"
_TO = r"\s*(?:[-–—]|\b(?:to|till|until|through|bis|à|au|al|a|hasta)\b)\s*"
_EDGE = r"(?:(?:the|la|le|el|zum|einschließlich|including|early|late|mid|mi|mitte|anfang|ende|end of)\b[\s-]*){0,2}"
_MONTHS = re.compile(
    rf"(?<![\w-])(?P<day>{_DAY})?(?P<month>{_MONTH})(?:,?\s+\d{{4}})?{_TO}{_EDGE}(?P<last_day>{_DAY})?(?P<last>{_MONTH})(?!\w)",
    re.IGNORECASE,
)
_MONTHS_DAY_LAST = re.compile(  # "May 3 to June 9"
    rf"(?<![\w-])(?P<month>{_MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?{_TO}(?P<last>{_MONTH})\s+(?P<last_day>\d{{1,2}})\b",
    re.IGNORECASE,
)
_ASKED_MONTH = re.compile(
    rf"(?<=\w )(?:(?P<day>\d{{1,2}})(?:\.|st|nd|rd|th)?\s+(?:of\s+)?)?(?P<month>{_MONTH})(?:\s+(?P<last>\d{{1,2}})\b)?",
    re.IGNORECASE,
)
_WORD = r"[^\W\d_]{2,12}"
_WEEKDAYS = re.compile(rf"\b(?P<first>{_WORD})\.?{_TO}(?P<last>{_WORD})\b")
_TIME = r"(?<![\d.:])(\d{1,2})[:.](\d\d)(?![\d:]|\.\d)"
_TIMES = re.compile(rf"{_TIME}(?:\s?(?:h|Uhr))?{_TO}{_TIME}")
_WHETHER = re.compile(
    r"\W*(?:is|are|was|were|do|does|did|can|may|ist|sind|hat|kann|darf|est|sont|es|son|está|están)\b", re.IGNORECASE
)
_ALL_YEAR = re.compile(r"\ball (?:the )?year\b|\ball year round\b|\bganzjährig|\btoute l'année\b|\btodo el año\b", re.IGNORECASE)
_WORKDAYS = re.compile(r"\bweekdays\b|\bworking days\b|\bwerktags\b", re.IGNORECASE)
_WEEKEND = re.compile(r"\bweekends?\b|\bwochenende\b|\bam wochenende\b", re.IGNORECASE)


@dataclass(frozen=True)
class Included:
    """What a question names and a range of a text includes: words in lower case, and numbers as `facts` reads them."""

    words: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()


def included(question: str, text: str) -> Included:
    """The months, days of a month, weekdays and times of day of a question that are inside a range of a text.

    If a question is whether something is so, any range answers it.
    """
    dates, days, times = _asked(question)
    if not dates and not days and not times:
        return Included()
    words, numbers = set[str](), set[str]()
    ranges, named, hours = _ranges(text[:_READ])
    whether = _WHETHER.match(question) is not None
    for word, month, day in dates:
        if any(whether or _is_in(first, last, month, day) for first, last in ranges):
            words.add(word)
            numbers |= {f"month {month}", *([str(day)] if day else [])}
    words |= {word for word, day in days if day in named or (whether and named)}
    words |= {word for word, time in times if any(whether or first <= time <= last for first, last in hours)}
    return Included(frozenset(words), frozenset(numbers))


@lru_cache(maxsize=256)
def _asked(question: str) -> tuple[list[tuple[str, int, int | None]], list[tuple[str, str]], list[tuple[str, int]]]:
    """The months of a question, with their days, its weekdays and its times in minutes: each with its word in the question."""
    dates = []
    for found in _ASKED_MONTH.finditer(question[:_READ]):
        word = found["month"].rstrip(".")
        day = found["day"] or found["last"]
        if word.lower() not in ("may", "mars", "march") or word[0].isupper() or day:
            dates.append((word.lower(), MONTHS[word.lower()], int(day) if day else None))
    days = [(word.lower(), day) for word in re.findall(r"\w+", question[:_READ]) for day in _weekday(word)]
    times = [(match[0], _minutes(match[1], match[2])) for match in re.finditer(_TIME, question[:_READ])]
    return dates, days, times


@lru_cache(maxsize=4096)
def _ranges(text: str) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], frozenset[str], list[tuple[int, int]]]:
    """Ranges of (month, day), the ends included, the weekdays in ranges of these, and ranges of minutes of a day."""
    found = []
    for pattern in (_MONTHS, _MONTHS_DAY_LAST):
        for match in pattern.finditer(text):
            first, last = (MONTHS[match[name].rstrip(".").lower()] for name in ("month", "last"))
            begin, end = (int(re.findall(r"\d+", match[name])[0]) if match[name] else None for name in ("day", "last_day"))
            found.append(((first, begin or 1), (last, end or 31)))
    if _ALL_YEAR.search(text):
        found.append(((1, 1), (12, 31)))
    days = set[str]()
    for match in _WEEKDAYS.finditer(text):
        for one in _weekday(match["first"]):
            for other in _weekday(match["last"]):
                begin, end = _DAYS.index(one), _DAYS.index(other)
                days |= set(_DAYS[begin : end + 1] if begin <= end else _DAYS[begin:] + _DAYS[: end + 1])
    if _WORKDAYS.search(text):
        days |= set(_DAYS[:5])
    if _WEEKEND.search(text):
        days |= set(_DAYS[5:])
    hours = [(_minutes(m[1], m[2]), _minutes(m[3], m[4])) for m in _TIMES.finditer(text)]
    return found, frozenset(days), hours


def _minutes(hour: str, minute: str) -> int:
    return int(hour) * 60 + int(minute)


def _weekday(word: str) -> list[str]:
    """The weekday that a word is, in a list; empty for any other word."""
    means = concepts_of(word)
    return [day for day in _DAYS if day in means or (word[0].isupper() and _SHORT.get(word.lower()) == day)]


def _is_in(first: tuple[int, int], last: tuple[int, int], month: int, day: int | None) -> bool:
    """Whether a day of a month, or some day of it, is in a range, which may go on into the next year."""
    begin, end = ((first[0], 1), (last[0], 31)) if day is None else (first, last)
    at = (month, day or 1)
    return begin <= at <= end if begin <= end else at >= begin or at <= end
