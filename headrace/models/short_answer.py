"""Short answers: the words of a quote that answer a question, if it is sure enough which they are.

Of a sentence they are a number, a time, or the full name of who did it (`spans.py` finds it), of a table row one of its cells
with its column's name. A short
answer must not say more than its quote, so it keeps what limits it ("up to 8 metres", "every four months", "1,240 EUR a year").
The whole quote is the answer if

- the question asks for something else than a number, a time or who: a thing was wrong in every third case,
- it asks who, and the span is no name of two words and more, or one of several,
- the span has none, or one of another unit ("over three years" of "how much"), or more than that ("9 Uhr und dauert eine Woche"),
- the question has all its words already ("pump P-7"),
- it is a line of code,
- the quote denies something and the question does not, or the other way round,
- the best span's share is below `SURE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from headrace.models.arguments import arguments_of
from headrace.models.asked import Asked, asked_of
from headrace.models.clauses import clauses, with_relative
from headrace.models.spans import AnswerSpan, Tokens, best_span
from headrace.models.support import MONTHS, UNITS, alike, content_words, facts
from headrace.models.word_match import match, terms

SURE = {"when": 0.6, "quantity": 0.7, "count": 0.85, "who": 0.6}
"""The least share of a span that is shown, by what is asked for (docs/reference/benchmarks.md)."""
_READ, _LONGEST = 800, 160  # characters of a sentence that is read, and of its short answer
_LIMITS = re.compile(
    r"(?:\b(?:up to|at (?:least|most)|(?:more|less|fewer|later|earlier) than|over|under|about|around|approximately|roughly"
    r"|nearly|almost|before|after|until|by|since|every|each|within|only|bis zu|mindestens|höchstens|mehr als|weniger als|etwa"
    r"|rund|ca\.|fast|vor|nach|bis|seit|alle|nur|day|week|Tag|Woche)\s+)+(?:the\s+|den\s+|dem\s+)?$",
    re.IGNORECASE,
)
_WEEKDAY = re.compile(
    r"(?:\b(?:each|every|on|am|jeden)\s+)?\b(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?|(?:Mon|Diens|Donners|Frei|Sams|Sonn)tags?"
    r"|Mittwochs?)\s+(?:at|um)\s+$",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"\s?(?:{'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})(?!\w)", re.IGNORECASE)
_MEASURED = re.compile(rf"\d[\d.,]*{_UNIT.pattern}", re.IGNORECASE)
_RATE = re.compile(
    r"(?:\s+(?:per|an?|pro|je)\s+[^\W\d]\w*(?:\s+and\s+(?:hour|day|week|month|year|user)\b)?)?"
    r"(?:\s+or (?:more|less|later|earlier)\b|,?\s+at (?:the )?(?:most|least|latest|earliest)\b"
    r"|,?\s+(?:höchstens|mindestens|maximal)\b)?"
)
_PER = re.compile(r"/[^\W\d_]{1,12}\b")  # "5 km/h", "40 EUR/night"
_MONTH = rf"(?:{'|'.join(sorted(MONTHS, key=len, reverse=True))})\b"
_DATE = re.compile(
    rf"\b\d{{1,2}}(?:\.|st|nd|rd|th)?\s+{_MONTH}(?:,?\s+\d{{4}}\b)?|\b{_MONTH}\s+\d{{1,2}}\b(?:,?\s+\d{{4}}\b)?|\b\d{{4}}-\d\d-\d\d\b",
    re.IGNORECASE,
)
# "between 06:00 and 22:00", of which neither time alone is the answer
_RANGE = re.compile(
    r"\b(?:between|from|zwischen|von)\s+(?=[^,.;]{0,40}\d)(?:[^\s,;]{1,20}\s+){1,3}?(?:and|to|until|till|und|bis)\s+"
    r"[^\s,;]{0,20}[^\s,;.](?:\s(?:am|pm|Uhr)\b)?",
    re.IGNORECASE,
)
_CODE = re.compile(r"[={}<>#|]|\w_\w|\w\(")
_UNLESS = re.compile(r"\b(?:except|unless|closed|rather than|instead of|außer|geschlossen)\b", re.IGNORECASE)
_HAS_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|half|twice|once|dozen|hundreds?|thousands?"
    r"|millions?|ein\w*|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|zweimal|einmal|daily|weekly|monthly|yearly)\b",
    re.IGNORECASE,
)
_HAS_TIME = re.compile(
    r"\d|day\b|days\b|\b(?:January|February|March|April|May|June|July|August|September|October|November|December|century|noon|midnight"
    r"|morning|evening|night|spring|summer|autumn|winter|week|month|year|Easter|Christmas|tag\b|Januar|Februar|März|Mai|Juni|Juli"
    r"|Oktober|Dezember|Mittag)",
    re.IGNORECASE,
)
_BOTH = re.compile(r"\b(?:and|und|et|y)\b", re.IGNORECASE)
_NEEDS = {"count": _HAS_NUMBER, "quantity": _HAS_NUMBER, "when": _HAS_TIME, "who": re.compile(r"[A-ZÄÖÜ]")}
_SEVERAL = re.compile(r"\bwho (?:are|were)\b|\bpeople\b|\b(?:which|what) \w+(?<!s)s\b|\bwer sind\b", re.IGNORECASE)
_CAPITAL = r"(?:(?:Dr|Prof|St|Mr|Mrs|Ms)\.|[A-ZÄÖÜÉ][^\W\d_]+(?:[-'’][^\W\d_]{2,})?)"
_FULL_NAME = re.compile(rf"(?:the\s+)?{_CAPITAL}(?:\s+(?:(?:of|de|da|van|von|der|la)\s+){{0,2}}{_CAPITAL}){{1,5}}")
_ANOTHER_BEHIND = re.compile(r"['’]s?\b|,?\s+(?:and|or|und|oder|et|y|&)\s+(?:the\s+)?[A-ZÄÖÜÉ]|,\s+[A-ZÄÖÜÉ]")
# "Runa Holm and …", and "the insurance of …", where who is asked for stands before the name
_ANOTHER_BEFORE = re.compile(
    r"(?:[A-ZÄÖÜÉ]\w*(?:,|\s+(?:and|or|und|oder|et|y|&))|\b(?:of|von|vom|des|der|de|du|del))\s+(?:the\s+)?$"
)
_TIMES = frozenset(["second", "minute", "hour", "day", "week", "month", "year"])
_CLOCK = re.compile(r"(?:\w+\s+)?\d{1,2}(?:[:.]\d\d)?(?:\s?(?:am|pm|Uhr|UTC|h))?", re.IGNORECASE)
_TIME_OF_DAY = re.compile(r"\b\d{1,2}:\d\d\b")
_HOUR = re.compile(r"\d{1,3}")
_AT = re.compile(r"\b(?:at|from|to|and|till|until|before|after|um|ab|bis|gegen|à|las)\s+$", re.IGNORECASE)
_DAY_ASKED = re.compile(r"\b(?:day|date|month|year|tag|datum|monat|jahr)\b", re.IGNORECASE)
_TIME_ASKED = re.compile(r"\b(?:how (?:long|often|old|soon|late|early)|time|wie ?(?:lange|oft|alt))\b", re.IGNORECASE)


def short_answer(question: str, sentence: str, weights: Mapping[str, float]) -> str | None:
    """The words of a sentence that answer; `None` where the sentence is to be shown as it is.

    `weights` has the question's words and what they count (`word_weights`).
    """
    asked = asked_of(question, weights)
    if asked.kind not in SURE or len(sentence) > _READ or _CODE.search(sentence):
        return None
    if facts(sentence).negated != facts(question).negated or (_UNLESS.search(sentence) and not _UNLESS.search(question)):
        return None
    span = best_span(asked, sentence)
    if span is None or span.share < SURE[asked.kind] or not _fits(asked, span.text):
        return None
    if asked.kind == "who":
        start, end, is_right = span.start, span.end, _is_one_name(question, sentence, span)
    else:
        start, end = _with_limits(asked, sentence, span.start, span.end)
        is_right = _is_amount(asked, question, sentence[start:end].strip())
        if asked.kind == "when" and _HOUR.fullmatch(span.text):  # "at 8" is a time, "30 cubic metres" none
            is_right = is_right and (end > span.end or _AT.search(sentence, 0, span.start) is not None)
    if not _is_in_its_clause(question, sentence, start):
        return None
    said = sentence[start:end].strip()
    if not is_right or _said_already(said, set(weights)):
        return None
    return said if len(said) <= _LONGEST and said != sentence.rstrip(".!") else None


def _is_in_its_clause(question: str, sentence: str, start: int) -> bool:
    """Whether the clause with the span has the question's verb, if one of the sentence's clauses has it."""
    parts = clauses(sentence)
    verbs = arguments_of(question).verbs
    has_verb = [any(match(terms(with_relative(sentence, number)), verb) for verb in verbs) for number in range(len(parts))]
    return not any(has_verb) or any(has_verb[number] for number, one in enumerate(parts) if one.start <= start < one.end)


def _is_one_name(question: str, sentence: str, span: AnswerSpan) -> bool:
    """Whether a span is a full name, of two words and more, where one is asked for and no other stands beside it."""
    if _SEVERAL.search(question) or _ANOTHER_BEHIND.match(sentence, span.end) or _ANOTHER_BEFORE.search(sentence, 0, span.start):
        return False
    return _FULL_NAME.fullmatch(span.text) is not None


def _is_amount(asked: Asked, question: str, said: str) -> bool:
    """Whether words are a number or a time and nothing beside it, in the unit that is asked for."""
    tokens = Tokens(said)
    is_ = tokens.is_
    joins = is_["conjunction"] & ~(np.roll(is_["number"], 1) & np.roll(is_["number"], -1))  # "3 and 4", but no "02:00 and takes"
    if (joins | is_["auxiliary"] | is_["pronoun"]).any():
        return False
    if asked.kind != "when" and _TIME_OF_DAY.search(said):
        return False  # "13:34" of "how much"
    if asked.kind == "when":
        return not _CLOCK.fullmatch(said) or not _DAY_ASKED.search(question)
    if any(low in MONTHS and word[0].isupper() for low, word in zip(tokens.low, tokens.words, strict=True)):
        return False  # "March 2021" of "what capacity"
    units = facts(said).units
    if asked.units & _TIMES:
        return bool(units & asked.units)  # "9" of "how long" says nothing
    if units and asked.units:
        return bool(units & asked.units)
    return asked.kind != "quantity" or not units or not units <= _TIMES or _TIME_ASKED.search(question) is not None


def _with_limits(asked: Asked, sentence: str, start: int, end: int) -> tuple[int, int]:
    """A number or a date with its unit and what limits it."""
    for whole in (*_DATE.finditer(sentence), *_RANGE.finditer(sentence)):
        if whole.start() < end and whole.end() > start:
            start, end = min(start, whole.start()), max(end, whole.end())
    if asked.kind == "quantity" and (measured := _MEASURED.search(sentence, start, end)):
        end = measured.end()
    # "after 24" of "after 24 months" says nothing; a year is no number of metres.
    unit = _UNIT.match(sentence, end) if sentence[end - 1].isdigit() else None
    if unit and (asked.kind != "when" or facts(f"1 {unit[0]}").units & _TIMES):
        end = unit.end()
    if asked.kind != "when":
        end = per.end() if (per := _PER.match(sentence, end)) else _RATE.match(sentence, end).end()  # type: ignore[union-attr]
    if limits := _WEEKDAY.search(sentence, 0, start) or _LIMITS.search(sentence, 0, start):
        start = limits.start()
    return start, end


def cell_answer(question: str, row: Sequence[tuple[str, str]], weights: Mapping[str, float]) -> str | None:
    """The cell of a table row that answers, with its column's name; `None` where it is not sure which.

    It is the one whose column the question names, or the only one of the kind it asks for. If a question names two things, as in
    "the length and the weight", it is the cells of both columns.
    """
    asked = asked_of(question, weights)
    wanted = set(weights)
    open_cells = [(name, cell) for name, cell in row if not _said_already(cell, wanted)]
    if asked.units:  # a price is none of "IOPS per TB", and "EUR" alone is no price
        open_cells = [one for one in open_cells if facts(" ".join(one)).units & asked.units and not _is_unit(one[1])]
    named = [{word: match(terms(name), word) * weights[word] for word in wanted} for name, _ in open_cells]
    sums = [sum(words.values()) for words in named]
    best = max(sums, default=0.0)
    if best > 0:
        found = [at for at, weight in enumerate(sums) if weight == best]
        if _BOTH.search(question):
            found += [at for at in range(len(sums)) if at not in found and _has_own(named[at], [named[one] for one in found])]
            return "; ".join(_with_column(*open_cells[at]) for at in sorted(found))
    else:
        found = [at for at, (_, cell) in enumerate(open_cells) if asked.kind in _NEEDS and _fits(asked, cell)]
    return _with_column(*open_cells[found[0]]) if len(found) == 1 else None


def _is_unit(cell: str) -> bool:
    """Whether a cell names a unit and has no number, as beside a column of amounts."""
    read = facts(cell)
    return bool(read.units) and not read.numbers


def _with_column(column: str, cell: str) -> str:
    return f"{column}: {cell}" if column else cell


def _has_own(words: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> bool:
    """Whether a column's name has a word of the question that the names of other columns do not have."""
    return any(weight > 0 and not any(other[word] for other in others) for word, weight in words.items())


def _said_already(cell: str, wanted: set[str]) -> bool:
    """Whether the question has all words of a cell, which then names the row, or of a short answer."""
    words = content_words(cell)
    return bool(words) and all(any(alike(word, other) for other in wanted) for word in words)


def _fits(asked: Asked, text: str) -> bool:
    """Whether a text has what is asked for."""
    if asked.kind in ("who", "where", "noun") and any(unit for _, unit in facts(text).numbers):
        return False  # "2,900 EUR" of "which insurer"
    needs = _NEEDS.get(asked.kind)
    return needs is None or needs.search(text) is not None
