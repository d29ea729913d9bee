"""What a client asks of one answer beyond the settings: its mode, instructions, length, ends, and how tokens are sampled."""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from headrace.answering.record import Answer
from headrace.models.prompt import Ending
from headrace.settings import AnswerMode

INSTRUCTIONS_CHARACTERS = 16_000
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")


@dataclass(frozen=True)
class AnswerOptions:
    """How one answer is to be made; what is `None` or empty is as the settings say.

    `most_tokens` and `stop` end any text. `instructions` (a system prompt) and `sampling` are for the generator: a quoted answer
    cannot follow them, which `unused` then says.
    """

    mode: AnswerMode | None = None
    instructions: str = ""
    most_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `SamplingParameters`."""

    @property
    def unused(self) -> str:
        """What no quoted answer can follow, as a note; empty if there is nothing."""
        names = ["the system message"] if self.instructions else []
        names += [name for name in ("temperature", "frequency_penalty", "presence_penalty") if self.sampling.get(name)]
        return f"{' and '.join(names)} had no effect: the answer is quoted, not generated" if names else ""


DEFAULT = AnswerOptions()


class Limit:
    """Ends a text before a stop, and, where no model counts them, after so many tokens: here a word or a mark counts as one."""

    def __init__(self, stop: tuple[str, ...], most_tokens: int | None) -> None:
        self._ending = Ending([text for text in stop if text])
        self._left = most_tokens
        self.ended: Literal["", "stop", "length"] = ""

    def take(self, piece: str) -> str:
        """The part of the next piece that is within the limit. A piece ends at the end of a word."""
        if self.ended:
            return ""
        shown = self._counted(self._ending.take(piece))
        if self._ending.reached:
            self.ended = self.ended or "stop"
        return shown

    def rest(self) -> str:
        """What was held back in case it became a stop."""
        return "" if self.ended else self._counted(self._ending.rest())

    def _counted(self, text: str) -> str:
        if self._left is None:
            return text
        tokens = list(_TOKEN.finditer(text))
        if len(tokens) <= self._left:
            self._left -= len(tokens)
            return text
        self.ended = "length"
        return text[: tokens[self._left - 1].end()] if self._left else ""


def limited(
    pieces: abc.Generator[str, None, Answer], options: AnswerOptions, *, counted: bool
) -> abc.Generator[str, None, Answer]:
    """The pieces of an answer's text that are within a client's limits; returns the answer as it is then.

    With `counted` tokens are counted here, by `Limit`. A sentence that was cut cites nothing.
    """
    limit = Limit(options.stop, options.most_tokens if counted else None)
    shown = ""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as ended:
            result: Answer = ended.value
            break
        if kept := limit.take(piece):
            shown += kept
            yield kept
    if kept := limit.rest():
        shown += kept
        yield kept
    if not limit.ended:
        return result
    text = shown.strip()
    supports = tuple(support for support in result.supports if support.sentence in text)
    return replace(result, text=text, supports=supports, finish_reason=limit.ended)
