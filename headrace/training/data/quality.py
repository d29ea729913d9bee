"""What is too poor to learn from: questions that ask nothing, answers that say nothing."""

from __future__ import annotations

import re

from headrace.settings import Preparing

# How assistants begin when they decline, and how this service does.
_REFUSAL = re.compile(
    r"(?:i(?:'| a)m (?:very )?sorry|sorry|unfortunately)?[\s,.;:]*(?:but )?"
    r"(?:i (?:found nothing|do ?n[o']t (?:know|have)|ca(?:n'?t|n ?not)|(?:am|was) (?:not able|unable)|could ?n[o']t)"
    r"|i'm (?:not able|unable)"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)"
    r"|(?:the|these|this) (?:given |provided )?(?:document|passage|text|context)s? do(?:es)? ?n[o']t"
    r" (?:contain|give|have|hold|include|mention|provide|say|specify|state))\b",
    re.IGNORECASE,
)


def poor_question(text: str, normal: str, settings: Preparing) -> str | None:
    """Why a question is left out, or `None`; its length is in characters, of its normal form at the lower bound."""
    if len(normal) < settings.shortest_question:
        return "question too short"
    if len(text) > settings.longest_question:
        return "question too long"
    return None


def poor_answer(text: str) -> str | None:
    """Why an answer nobody corrected is left out, or `None`."""
    if not text.strip():
        return "empty"
    return "refusal" if refused(text) else None


def refused(text: str) -> bool:
    """Whether an answer declines to answer: told by how it begins, with apostrophes of either kind."""
    return _REFUSAL.match(text.strip().replace("’", "'")) is not None
