"""Quality measures of an answer's text, shared by evaluation, the gate and rewards."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from headrace.models.citations import Citations

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKERS = re.compile(r"(?<!\s)\s*+\[\d++\]")


def unmarked(text: str) -> str:
    """The text without citation markers."""
    return _MARKERS.sub("", text)


def normal(text: str) -> list[str]:
    """SQuAD's normalisation (Rajpurkar et al. 2016): lower case, without punctuation and articles, split at white space."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def exact_match(text: str, known: str) -> float:
    """1 if both are the same after normalisation, else 0."""
    return float(normal(text) == normal(known))


def f1(text: str, known: str) -> float:
    """Harmonic mean of precision and recall over the words."""
    ours, theirs = normal(text), normal(known)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def groundedness(text: str, passages: Sequence[str]) -> float | None:
    """The share of the text's sentences that a passage supports, by `Citations`; `None` for an empty text."""
    citations = Citations(passages)
    for _ in citations.mark([text]):
        pass
    return citations.groundedness


def repetition(text: str) -> float:
    """The share of repeated three-word sequences: 1 − distinct-3 (Li et al. 2016, arXiv:1510.03055)."""
    words = text.lower().split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0
