"""Which words of a sentence answer a question, and how sure that is.

Every run of at most `_LONGEST` words that may be a phrase is a candidate. A linear model scores them by features of the question
(who, when, how many, what noun), of the run (a name, a number, a date; its length), of the words beside it, and of how near the
question's words are; softmax makes shares of that. `python -m bench.spans` fits the weights in `spans.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.models.asked import (
    ADVERBS,
    AUXILIARIES,
    CONJUNCTIONS,
    DETERMINERS,
    LARGE,
    NUMERALS,
    OWNERS,
    PREPOSITIONS,
    PRONOUNS,
    Asked,
)
from headrace.models.support import MONTHS, UNITS, WORDS_FOR

_LONGEST, _CLAUSE = 10, 25  # words of a candidate; of one that is a cause
_SCALES = {"near": 2.0, "around": 6.0}  # words at which a question's word counts 1/e
_BEFORE, _AFTER = set("\"'“„‘($£€"), set("\"'”“’)%")  # marks that belong to a candidate's first or last word

_LOOSE = ("why", "how", "other", "what", "noun")  # kinds whose answer may have a verb
_PHRASAL = ("why", "how", "where", "when", "other")  # kinds whose answer may begin with a preposition
_TOKEN = re.compile(r"\d+(?:[.,:–-]\d+)*\w*|['’]\w+|\w+(?:[-.]\w+)*|[^\w\s]")
_YEAR = re.compile(r"(?:1\d|20)\d\ds?|\d{1,2}:\d\d|century|centuries")


# Words and classes of words beside a candidate.
_LEADS = ("by", "in", "of", "to", "for", "from", "at", "with", "as", "called", "named")
_BESIDE = (
    "determiner",
    "preposition",
    "conjunction",
    "auxiliary",
    "genitive",
    "capital",
    "number",
    "verb",
    "adverb",
    "other",
    "mark",
)

Row = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnswerSpan:
    """Characters `start` to `end` of a sentence, and their share, with candidates that contain them or are part of them."""

    text: str
    start: int
    end: int
    share: float


def best_span(asked: Asked, sentence: str) -> AnswerSpan | None:
    """The best candidate of a sentence; `None` if there is none or the question asks for none ("Is …?")."""
    tokens = Tokens(sentence)
    starts, ends = candidates(asked, tokens)
    if not len(starts):
        return None
    best, share = nested(scored(asked, tokens, starts, ends), starts, ends)
    start, end = tokens.spans[starts[best]][0], tokens.spans[ends[best]][1]
    return AnswerSpan(sentence[start:end], start, end, share)


def nested(scores: Row, starts: Places, ends: Places) -> tuple[int, float]:
    """The best candidate's place, and its share with those of which it is part or that are part of it."""
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = int(np.argmax(scores))
    inside = (starts >= starts[best]) & (ends <= ends[best]) | (starts <= starts[best]) & (ends >= ends[best])
    return best, float(shares[inside].sum())


class Tokens:
    """The words and marks of a sentence, with a flag for each and each class of words."""

    def __init__(self, text: str) -> None:
        self.spans = [match.span() for match in _TOKEN.finditer(text)]
        self.words = [text[start:end] for start, end in self.spans]
        self.low = [word.lower() for word in self.words]
        known = {
            "determiner": DETERMINERS | OWNERS,
            "owner": OWNERS,
            "preposition": PREPOSITIONS,
            "conjunction": CONJUNCTIONS,
            "pronoun": PRONOUNS,
            "auxiliary": AUXILIARIES,
        }
        self.is_ = {name: self.these(*words) for name, words in known.items()}
        is_ = self.is_
        function = np.logical_or.reduce(list(is_.values()))
        is_["function"] = function
        is_["adverb"] = self.flags(lambda low, _: low in ADVERBS or (len(low) > 4 and low.endswith("ly")))
        is_["genitive"] = self.flags(lambda low, _: low in ("'s", "’s"))
        is_["mark"] = self.flags(lambda low, _: not (low[0].isalnum() or low[0] == "_" or len(low) > 1))
        is_["number"] = self.flags(lambda low, _: low[0].isdigit() or low in NUMERALS)
        capital = self.flags(lambda _, word: word[0].isupper())
        capital[:1] &= ~(function | is_["adverb"])[:1]
        is_["capital"] = capital
        is_["date"] = self.flags(lambda low, word: _YEAR.fullmatch(low) is not None or (low in MONTHS and word[0].isupper()))
        is_["unit"] = self.flags(lambda low, _: low in UNITS or low in LARGE or low == "°")
        is_["verb"] = self.flags(lambda low, _: len(low) > 4 and low.endswith(("ed", "ing"))) & ~capital
        is_["other"] = ~(function | is_["number"] | is_["mark"] | capital | is_["genitive"])
        is_["content"] = ~(function | is_["mark"] | is_["genitive"])

    def flags(self, holds: Callable[[str, str], bool]) -> Flags:
        """One flag per token, by its lower and its written form."""
        return np.array([holds(low, word) for low, word in zip(self.low, self.words, strict=True)], bool)

    def these(self, *words: str) -> Flags:
        """A flag for each of these words."""
        known = frozenset(words)
        return self.flags(lambda low, _: low in known)


def candidates(asked: Asked, tokens: Tokens) -> tuple[Places, Places]:
    """The first and the last token of each run that may be the answer."""
    is_, words, low = tokens.is_, tokens.words, tokens.low
    loose, phrasal = asked.kind in _LOOSE, asked.kind in _PHRASAL
    because = tokens.these("because", "weil") & loose
    closed = is_["conjunction"] & ~because | is_["auxiliary"] | is_["genitive"]
    opens = ~(closed | is_["mark"] & ~tokens.flags(lambda _, word: word in _BEFORE))
    if not phrasal:
        opens &= ~is_["preposition"]
    inner = is_["determiner"] | is_["preposition"] | is_["conjunction"] | is_["auxiliary"]
    closes = ~(inner | is_["mark"] & ~tokens.flags(lambda _, word: word in _AFTER))
    joined = tokens.these("$", "£", "€")
    counted = tokens.these("%", "°", *LARGE) | is_["number"]
    longest = _CLAUSE if asked.kind == "why" else _LONGEST
    found = []
    for first in np.flatnonzero(opens).tolist() if asked.kind else ():
        splits = is_["capital"] & np.roll(is_["capital"], 1) | is_["number"] & np.roll(is_["number"] | joined, 1)
        if first and splits[first]:
            continue
        for last in range(first, min(len(words), first + longest)):
            point = low[last] == "." and last + 1 < len(words)
            stop = low[last] in ".!?;:" and not (point and (low[last + 1] in MONTHS or not is_["capital"][last + 1]))
            if stop or (not loose and (is_["auxiliary"][last] or is_["pronoun"][last])):
                break
            if not closes[last] or (first == last and (is_["mark"][first] or is_["function"][first])):
                continue
            behind = last + 1
            if behind < len(words) and (
                (is_["capital"][last] and is_["capital"][behind]) or (is_["number"][last] and counted[behind])
            ):
                continue
            run = words[first:behind]
            if run.count("(") == run.count(")") and run.count('"') % 2 == 0:
                found.append((first, last))
    starts, ends = zip(*found, strict=True) if found else ((), ())
    return np.array(starts, np.int64), np.array(ends, np.int64)


def scored(asked: Asked, tokens: Tokens, starts: Places, ends: Places) -> Row:
    """The score of each candidate."""
    weights = span_weights()
    total = np.zeros(len(starts))
    for name, values in features(asked, tokens, starts, ends).items():
        if name in weights:
            total += weights[name] * values
    return total


@cache
def span_weights() -> Mapping[str, float]:
    """The fitted weight of each feature; docs/reference/benchmarks.md names the data."""
    weights: dict[str, float] = json.loads(files("headrace.models").joinpath("spans.json").read_text(encoding="utf-8"))
    return weights


def features(asked: Asked, tokens: Tokens, starts: Places, ends: Places) -> dict[str, Row]:
    """Each feature's value for each candidate."""
    is_, size = tokens.is_, len(tokens.words)
    matched = np.array([_weight(low, asked.weights) for low in tokens.low]) * is_["content"]
    matched /= sum(asked.weights.values()) or 1.0
    hits = matched > 0
    noun = tokens.flags(lambda low, _: any(_alike(low, known) for known in asked.nouns))
    length = np.log(ends - starts + 1.0)
    words = np.maximum(_count(is_["content"], starts, ends), 1)
    before, behind = np.maximum(starts - 1, 0), np.minimum(ends + 1, size - 1)

    def prior(flags: Flags) -> Flags:
        return flags[before] & (starts > 0)

    def after(flags: Flags) -> Flags:
        return flags[behind] & (ends < size - 1)

    def within(flags: Flags) -> Flags:
        return _count(flags, starts, ends) > 0

    comma, auxiliary, conjunction, verb = tokens.these(","), is_["auxiliary"], is_["conjunction"], is_["verb"]
    number, capital, other = is_["number"], is_["capital"], is_["other"]
    plain = other & ~verb
    values: dict[str, Row | Flags] = {
        "matched": _count(hits, starts, ends) / words,
        "all_matched": _count(hits, starts, ends) >= _count(is_["content"], starts, ends),
        "length": length,
        **{f"words_{count}": ends - starts + 1 == count for count in (1, 2, 3)},
        "long": ends - starts + 1 > 5,
        "has_comma": within(comma),
        "has_conjunction": within(conjunction),
        "has_auxiliary": within(auxiliary),
        "has_pronoun": within(is_["pronoun"]),
        "has_verb": within(verb),
        "has_of": within(tokens.these("of")),
        "has_preposition": _count(is_["preposition"], starts, ends) - is_["preposition"][starts] > 0,
        "quoted": _count(tokens.these('"', "“", "”"), starts, ends) == 2,
        **{f"begins_{name}": is_[name][starts] for name in ("determiner", "adverb", "preposition", "verb")},
        "begins_matched": hits[starts],
        "ends_matched": hits[ends],
        **{f"ends_{name}": is_[name][ends] for name in ("adverb", "verb", "genitive")},
        **{f"behind_{word}": prior(tokens.these(word)) for word in _LEADS},
        "behind_nothing": starts == 0,
        **{f"behind_{name}": prior(is_[name]) for name in _BESIDE},
        "behind_comma": prior(comma),
        "behind_matched": prior(hits),
        "before_end": (ends == size - 1) | after(tokens.these(".", "!", "?")),
        **{f"before_{name}": after(is_[name]) for name in _BESIDE},
        "before_comma": after(comma),
        "before_of": after(tokens.these("of")),
        "before_bracket": after(tokens.these("(")),
        "before_close": after(tokens.these(")", "”", '"')),
        "before_matched": after(hits),
        # a phrase that is cut
        "cut_left": prior(plain) & other[starts],
        "cut_right": after(plain) & (other & ~is_["adverb"])[ends],
        "cut_name_left": prior(plain) & capital[starts],
        "cut_name_right": after(plain) & capital[ends],
        "cut_before_name": after(capital) & other[ends],
        "number_of": number[ends] & after(other),
        "number_of_matched": number[ends] & after(other & hits),
        # what the question says of the answer
        "noun_in": within(noun),
        "noun_behind": after(noun),
        "noun_before": prior(noun),
        "noun_ends": noun[ends],
        "noun_near": _nearness(noun.astype(float), starts, ends, 4.0).max(0) * ~within(noun),
        "preposition_asked": prior(tokens.these(asked.preposition)) | tokens.these(asked.preposition)[starts],
    }
    unit = tokens.flags(lambda low, _: UNITS.get(low, "") in asked.units if asked.units else False)
    measured = within(unit & ~number) & within(number) | after(unit) & number[ends] | prior(unit) & number[starts]
    values["unit_asked"] = measured
    values["unit_lacks"] = ~measured & bool(asked.units)
    for name, scale in _SCALES.items():
        values[f"{name}_left"], values[f"{name}_right"] = _nearness(matched, starts, ends, scale)
    for name, word in (("first", asked.first), ("last", asked.last)):
        there = np.array([float(bool(word) and _alike(low, word)) for low in tokens.low])
        values[f"{name}_left"], values[f"{name}_right"] = np.minimum(_nearness(there, starts, ends, 2.0), 1.0)
    if asked.acts:
        sides = [name for name in values if name.endswith(("_left", "_right")) and not name.startswith("cut")]
        values |= {f"acts_{name}": values[name] for name in sides}
    clause = np.cumsum(tokens.flags(lambda low, _: low in ",;:—–()"))
    by_clause = np.bincount(clause, weights=matched)
    values["clause"] = by_clause[clause[starts]] - _count(matched, starts, ends) * (clause[starts] == clause[ends])
    values["best_clause"] = by_clause[clause[starts]] == by_clause.max()
    shape = _shapes(tokens, starts, ends)
    values |= {f"{asked.kind}_{name}": flags for name, flags in shape.items()}
    values |= {
        f"{asked.kind}_length": length,
        f"{asked.kind}_by": prior(tokens.these("by", "von", "durch")),
        f"{asked.kind}_in": prior(tokens.these("in", "at", "on", "im", "am", "bei")),
        f"{asked.kind}_preposition": is_["preposition"][starts],
        f"{asked.kind}_because": tokens.these("because", "weil", "due")[starts],
        f"{asked.kind}_noun_behind": number[ends] & (_nearness(noun.astype(float), starts, ends, 4.0)[1] > 0),
    }
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def _shapes(tokens: Tokens, starts: Places, ends: Places) -> dict[str, Flags]:
    """What each candidate looks like: exactly one of these."""
    counts = {name: _count(tokens.is_[name], starts, ends) for name in ("capital", "other", "number", "date", "unit")}
    capital, other, number, date = (counts[name] > 0 for name in ("capital", "other", "number", "date"))
    verbal = _count(tokens.is_["auxiliary"] | tokens.is_["conjunction"] | tokens.is_["pronoun"], starts, ends) > 0
    is_date = date & (counts["other"] <= 1)
    named_number = capital & ~other & number & ~date
    numeric = number & ~is_date & ~named_number
    lower = ~capital & other & ~number
    return {
        "name": capital & ~other & ~number,
        "named_number": named_number,
        "date": is_date,
        "number": numeric & ~other & (counts["unit"] == 0),
        "measure": numeric & (counts["unit"] > 0),
        "counted": numeric & other & (counts["unit"] == 0),
        "named_thing": capital & other & ~is_date & ~numeric,
        "thing": lower & ~verbal,
        "clause": lower & verbal,
    }


def _count(flags: npt.NDArray[Any], starts: Places, ends: Places) -> Row:
    """The sum over each candidate's tokens."""
    sums = np.concatenate([[0.0], np.cumsum(flags, dtype=np.float64)])
    found: Row = sums[ends + 1] - sums[starts]
    return found


def _nearness(weights: Row, starts: Places, ends: Places, scale: float) -> Row:
    """How near weighted tokens are on the left and on the right: a weight counts 1/e at `scale` tokens. Shape (2, candidates)."""
    at = np.flatnonzero(weights)
    left, right = starts[:, None] - at[None], at[None] - ends[:, None]
    found: Row = np.stack([(np.where(far > 0, np.exp(-(far - 1) / scale), 0.0) * weights[at]).sum(1) for far in (left, right)])
    return found


def _weight(low: str, weights: Mapping[str, float]) -> float:
    return max((weight for word, weight in weights.items() if _alike(low, word)), default=0.0)


@lru_cache(maxsize=65536)
def _alike(one: str, other: str) -> bool:
    """Whether two words may be forms of one: intercepted, interceptions; five, 5."""
    if one == other:
        return True
    if one[0].isdigit() or other[0].isdigit():
        return WORDS_FOR.get(one, one) == WORDS_FOR.get(other, other)
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return same >= max(3, min(len(one), len(other)) - 2) and same >= max(len(one), len(other)) / 2
