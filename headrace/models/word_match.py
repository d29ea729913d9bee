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
    """How well one of the terms matches a word: 1 if it is the word or a form of it, less if it means the same, else 0."""
    if has(there, word):
        return 1.0
    means = concepts_of(word)
    return _MEANT if means and not means.isdisjoint(_meanings(there)) else 0.0


@lru_cache(maxsize=4096)
def _meanings(there: frozenset[str]) -> frozenset[str]:
    return frozenset[str]().union(*map(concepts_of, there))


@lru_cache(maxsize=65536)
def has(there: frozenset[str], word: str) -> bool:
    """Whether one of the terms is a word or a form of it."""
    return word in there or any(alike(word, other) for other in there)
