"""Whether a text has a word of a question: the word, a form of it, or one that means the same."""

from __future__ import annotations

from functools import lru_cache

from headrace.models.concepts import concepts_of
from headrace.models.support import alike, content_words

_MEANT = 0.8  # what a word of the same meaning counts of the word itself


@lru_cache(maxsize=4096)
def terms(text: str) -> frozenset[str]:
    """The words of a text, and the parts of its identifiers: max_buckets is also max and buckets."""
    words = content_words(text)
    return frozenset(words) | {part for word in words if "_" in word for part in word.split("_") if part}


@lru_cache(maxsize=65536)
def match(there: frozenset[str], word: str) -> float:
    """How well one of the terms matches a word: 1 if it is the word or a form of it, else 0.

    It is less than 1 if the term means the same, or is derived from the same word as "transferring" and "transfer" are.
    """
    if has(there, word):
        return 1.0
    # One of both is a verb's form: "hire" and "hiring", not "depart" and "department".
    known = _roots_of(there)
    for stem, kind in _roots(word):
        if (stem, "verbal") in known if kind != "verbal" else (stem, "nominal") in known or (stem, "plain") in known:
            return _MEANT
    means = concepts_of(word)
    return _MEANT if means and not means.isdisjoint(_meanings(there)) else 0.0


@lru_cache(maxsize=4096)
def _meanings(there: frozenset[str]) -> frozenset[str]:
    return frozenset[str]().union(*map(concepts_of, there))


@lru_cache(maxsize=65536)
def has(there: frozenset[str], word: str) -> bool:
    """Whether one of the terms is a word or a form of it."""
    return word in there or any(alike(word, other) for other in there)


_VERBAL = ("ing", "ings", "ed")
_NOMINAL = ("ation", "ations", "ition", "itions", "ion", "ions", "ment", "ments", "ance", "ances", "ence", "ences", "al", "als")
_PLAIN = ("", "e", "s", "es")
_LEAST_ROOT, _LONGEST_WORD = 4, 40  # letters


@lru_cache(maxsize=16384)
def _roots(word: str) -> frozenset[tuple[str, str]]:
    """What a word may be derived from, each with what is added: a verb's ending, a noun's, or none."""
    if not (word.isascii() and word.isalpha()) or len(word) > _LONGEST_WORD:
        return frozenset()
    found = set()
    for kind, suffixes in (("verbal", _VERBAL), ("nominal", _NOMINAL), ("plain", _PLAIN)):
        for suffix in suffixes:
            stem = word.removesuffix(suffix) if suffix and word.endswith(suffix) else "" if suffix else word
            if kind == "verbal" and len(stem) > _LEAST_ROOT and stem[-1] == stem[-2]:
                found.add((stem[:-1], kind))  # "planning"
            if len(stem) >= _LEAST_ROOT or (len(stem) == _LEAST_ROOT - 1 and kind != "nominal"):
                found.add((stem, kind))
    return frozenset(found)


@lru_cache(maxsize=4096)
def _roots_of(there: frozenset[str]) -> frozenset[tuple[str, str]]:
    return frozenset[tuple[str, str]]().union(*map(_roots, there))


def has_name(there: frozenset[str], name: str) -> bool:
    """Whether a name is there, or all parts of one with a hyphen: of "RS-13" the words are "rs" and "13"."""
    return has(there, name) or ("-" in name and terms(name) <= there)
