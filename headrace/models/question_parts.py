"""The parts of a question: each asks for one thing, and an answer has a line for each.

"Who owns C and which version does it run?" is two. "How long are daily and weekly snapshots kept?" (`pair`) is two as well if no
single sentence or row has both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.models.asked import DETERMINERS, PREPOSITIONS, asked_of
from headrace.models.concepts import CONTRASTS, concepts_of, contrasting
from headrace.models.support import content_words, facts

NAMED = re.compile(r"(?<=\s)(?!I\b)[A-Z]\b|(?<=\s)\d\b(?!-\w)")  # "cluster C", "wave 2"
_MOST = 4  # parts of a question, each with embeddings of its own: one of 400 parts took minutes
_ASKS = (
    r"(?:who|when|where|why|how|what|which|whose|wer|wann|wo|warum|wie|was|welche[rsnm]?"
    r"|qui|quand|où|pourquoi|combien|comment|quel(?:le)?s?|quién|cuándo|dónde|cuánt[oa]s?|cómo|qué|cuál)"
)
_AND = r"(?:and|und|et|y)"
_BEFORE = r"(?:(?:on|in|at|from|to|for|of|by|since|until|with|in|am|an|auf|bis|seit|von|à|de|en|a)\s+)?"
_PART = re.compile(rf",?\s+{_AND}\s+(?={_BEFORE}{_ASKS}\b)|(?<=\?)\s+(?:{_AND}\s+)?(?={_BEFORE}{_ASKS}\b)", re.IGNORECASE)
_MEANT = re.compile(r"\b(?:it|its|they|their|them|he|his|she|her|there|er|sie|es|dort|ihr|ihre|sein|seine)\b", re.IGNORECASE)
_WORD = r"[^\W_][\w'’./-]{0,40}"
_PAIR = re.compile(
    rf"(?<![\w'’./-])({_WORD}(?:\s{_WORD}){{0,2}}?)\s+(?:{_AND}|or|oder|ou|o)\s+((?:{_WORD}\s){{0,2}}?{_WORD})(?![\w'’./-])"
)
_ATTRIBUTES = re.compile(
    rf"\b(?:what|which|was|welche)\s+(?:is|are|was|were|sind|ist)\s+(?:the|die|der|das)?\s*"
    rf"({_WORD}(?:\s{_WORD})?)\s+(?:and|und)\s+(?:the\s|die\s|der\s|das\s)?({_WORD}(?:\s{_WORD})?)\s+(?:of|for|in|at|von|des|der)\s",
    re.IGNORECASE,
)
_LINKS = DETERMINERS | PREPOSITIONS


@dataclass(frozen=True)
class Pair:
    """A question that names two things, `first` and `second`, and the two questions that name one each."""

    first: str
    second: str
    questions: tuple[str, str]


def parts(question: str) -> list[str]:
    """Split a question: "who owns C and which version does it run" is two, and the second gets what the first names.

    A question of many parts has the rest of them in its last.
    """
    first, *more = _PART.split(question.strip(), maxsplit=_MOST - 1)
    named = " ".join([*sorted(facts(first).names), *NAMED.findall(first)])
    result = [first]
    for part in more:
        about = _subject(first) if len(part) < _LONG and _MEANT.search(part) else "" if facts(part).names else named
        result.append(f"{part} ({about})" if about else part)
    return result


_LONG = 200  # characters of a part that may need what the first is about


def _subject(question: str) -> str:
    """What a question is about, without what it asks for: "avalanche beacons" of "how many avalanche beacons are there"."""
    known = content_words(question)
    asked = asked_of(question, {})
    drop = set() if asked.kind == "count" else asked.nouns
    words = re.findall(r"\w+", question[:_LONG])
    return " ".join(
        word
        for before, word in zip(["", *words], words, strict=False)
        if (word.lower() in known or NAMED.fullmatch(f" {word}", 1))
        and word.lower() not in drop
        and before.lower() not in ("who", "wer", "how", "wie")  # what somebody does, or how much
        and "price" not in concepts_of(word)
        and not re.fullmatch(_ASKS, word, re.IGNORECASE)
    )


def pair(question: str) -> Pair | None:
    """The two things that a question names beside each other, if each could be asked for alone; `None` if it names none.

    They are two names or numbers ("Lund and Malmö"), two that exclude each other ("daily and weekly"), or two attributes of one
    thing ("the length and the weight of the rope").
    """
    if len(question) > 2 * _LONG:
        return None
    for match in _ATTRIBUTES.finditer(question):
        return _without(question, match.span(1), match.span(2))
    names = facts(question).names | {name.casefold() for name in NAMED.findall(question)}
    for match in _PAIR.finditer(question):
        (a, b), (c, d) = _last(question, *match.span(1)), _first(question, *match.span(2))
        one, other = question[a:b], question[c:d]
        if not one or not other:
            continue
        both_named = _is_named(one, names) and _is_named(other, names)
        if both_named or _exclude(one, other):
            return _without(question, (a, b), (c, d))
    return None


def _last(question: str, start: int, end: int) -> tuple[int, int]:
    """Of words before "and" those that name: all capital ones at the end, else the last."""
    words = [(start + m.start(), start + m.end()) for m in re.finditer(_WORD, question[start:end])]
    at = len(words) - 1
    while at > 0 and question[words[at][0]].isupper() and question[words[at - 1][0]].isupper():
        at -= 1
    return (words[at][0], end) if words else (start, start)


def _first(question: str, start: int, end: int) -> tuple[int, int]:
    """Of words behind "and" those that name: after articles and prepositions, all capital ones, else the first."""
    words = [(start + m.start(), start + m.end()) for m in re.finditer(_WORD, question[start:])]
    at = 0
    while at < len(words) and question[slice(*words[at])].lower() in _LINKS:
        at += 1
    if at == len(words):
        return start, start
    last = at
    while (
        last + 1 < len(words)
        and question[words[last][0]].isupper()
        and question[words[last + 1][0]].isupper()
        and not question[words[last][1] : words[last + 1][0]].strip()
    ):
        last += 1
    return words[at][0], words[last][1]


def _is_named(words: str, names: frozenset[str] | set[str]) -> bool:
    return all(word.casefold() in names for word in words.split())


def _exclude(one: str, other: str) -> bool:
    """Whether one word excludes the other: daily, weekly."""
    a, b = contrasting(one), contrasting(other)
    return any(group & a and group & b and group & a != group & b for group in CONTRASTS)


def _without(question: str, first: tuple[int, int], second: tuple[int, int]) -> Pair:
    """The question about the first alone, and about the second alone."""
    one, other = question[slice(*first)], question[slice(*second)]
    # What stands between them goes with the second: "at Millbrook and at Stonegate".
    only_first = question[: first[1]] + question[second[1] :]
    only_second = question[: first[0]] + other + question[second[1] :]
    return Pair(one, other, (only_first, only_second))
