"""Questions for whatever the documents say about something, and what they say of it: "What do the documents say about X?".

Such a question asks for no fact, so its answer is the statements that are about X: those that have the words of X, or are below a
heading that has them. Words like "documents" and "say" are about nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.models.question_words import word_weights
from headrace.models.quotable import Quote, SourceText, is_whole
from headrace.models.support import content_words
from headrace.models.word_match import match, terms

MOST = 5
"""Statements that are quoted."""
_READ = 400  # characters of a question
_ABOVE = 0.6  # what a word of the subject counts where only the heading has it
_MISSING = 0.2  # the most of a subject's words, rare ones weighted higher, that a statement may lack
_LONGEST = 8  # words of a subject
_SOURCES = (
    r"(?:(?:the|these|those|this|that|my|our|your|all|any|die|diese|meine|unsere|den|diesen|unseren|les|ces|nos|los|estos|nuestros)\s+)*"
    r"(?:documents?|docs|files?|papers?|pages?|texts?|folder|sources?|handbooks?|manuals?|notes"
    r"|Dokumente?n?|Dateien|Unterlagen|documentos|fichiers|archivos)"
)
_ASKS = re.compile(
    r"(?:who|whom|whose|when|where|why|how|what|which|whether|if|wer|wann|wo|warum|wie|was|ob|quand|où|pourquoi|combien|quién|cuándo"
    r"|dónde|cuánt[oa]s?)\b",
    re.IGNORECASE,
)
_NARROW = r"(?:about|regarding|concerning|über)"
_ABOUT = r"(?:about|on|regarding|concerning|of|über|zu[mr]?|au sujet (?:de|du|des)|à propos (?:de|du|des)|de|sur|sobre|acerca de)"
_PATTERNS = tuple(
    re.compile(rf"\s*(?:{pattern})\s+(?P<subject>\S.*?)[\s?.!]*", re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"what\s+(?:do|does|did)\s+{_SOURCES}\s+(?:say|tell(?:\s+(?:me|us))?|state|contain|have|mention|know)\s+{_ABOUT}",
        rf"what\s+(?:is|else\s+is)\s+(?:said|written|stated|known|there)\s+(?:(?:in|by)\s+{_SOURCES}\s+)?{_NARROW}",
        rf"(?:what|which)\s+(?:information|rules?)\s+(?:is|are)\s+there\s+(?:in\s+{_SOURCES}\s+)?{_NARROW}",
        rf"(?:please\s+|can you\s+|could you\s+)?(?:tell\s+(?:me|us)|show\s+(?:me|us)|quote|list|find)\s+"
        rf"(?:everything\s+|all\s+|something\s+|more\s+|what\s+{_SOURCES}\s+(?:say|says|have|has)\s+|what\s+is\s+said\s+)?{_NARROW}",
        rf"what\s+(?:do|can)\s+(?:we|you|I)\s+(?:know|find|say|tell me)\s+{_NARROW}",
        rf"was\s+(?:sagen|steht|wissen|enthalten)\s+(?:in\s+)?{_SOURCES}\s+(?:über|zu[mr]?)",
        rf"que\s+disent\s+{_SOURCES}\s+(?:sur|au sujet (?:de|du|des)|à propos (?:de|du|des))",
        rf"¿?\s*qué\s+dicen\s+{_SOURCES}\s+(?:sobre|de|acerca de)",
    )
)


@dataclass(frozen=True)
class AskedSubject:
    """What a question wants to know everything about, or the question in it: "what do the documents say about when it opens"."""

    text: str
    is_question: bool


def subject_of(question: str) -> AskedSubject | None:
    """What a question wants to know everything about; `None` if it asks for one thing."""
    if len(question) > _READ:
        return None
    for pattern in _PATTERNS:
        if found := pattern.fullmatch(question):
            text = found["subject"]
            is_question = _ASKS.match(text) is not None
            known = content_words(text) and (is_question or len(text.split()) <= _LONGEST)
            return AskedSubject(text, is_question) if known else None
    return None


def about(
    subject: str, sources: Sequence[SourceText], read: Sequence[Quote], similarities: Sequence[float] | None
) -> list[Quote]:
    """At most `MOST` of the quotes `read`, those that have the words of a subject, or are below a heading with the rest of them.

    One with more of the words itself comes first, then what is more similar; `similarities` are those of the quotes' embeddings.
    """
    weights = word_weights(subject, sources)
    total = sum(weights.values()) or 1.0
    found: list[tuple[float, int]] = []
    for at, quote in enumerate(read):
        own, over = terms(quote.own), terms(quote.over)
        strengths = [(weight, match(own, word), match(over, word)) for word, weight in weights.items()]
        missing = sum(weight for weight, inside, above in strengths if not inside and not above) / total
        if not is_whole(quote.text) or missing > _MISSING:
            continue
        share = sum(weight * max(inside, _ABOVE * above) for weight, inside, above in strengths) / total
        found.append((share + (similarities[at] if similarities is not None else 0.0), at))
    best = sorted(found, key=lambda one: (-one[0], one[1]))[:MOST]
    return [read[at] for _, at in best]
