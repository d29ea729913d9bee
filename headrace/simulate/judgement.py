"""How a simulated user judges: by what the folder says of its documents and of the answers to its questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from headrace.models.measures import f1, normal, unmarked
from headrace.simulate.beir import BeirQuestion

RULE = (
    "A passage is liked if its document is relevant to the question and, where answers are known, the passage holds one; any"
    " other passage of the folder is disliked. An answer is liked if its F1 against a known one is at least 0.5; otherwise the"
    " known answer is the correction."
)
LEAST_F1 = 0.5


@dataclass(frozen=True)
class Shown:
    """A passage as the user sees it."""

    chunk_id: str
    uri: str
    text: str


@dataclass(frozen=True)
class GivenAnswer:
    """What came back for a question; `text` is `None` for a search."""

    answer_id: str
    passages: tuple[Shown, ...]
    text: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Judgement:
    """A verdict to be given: on a passage, or on the whole answer where `chunk_id` is empty."""

    up: bool
    reason: str
    chunk_id: str = ""
    correction: str = ""


def judged(
    question: BeirQuestion, given: GivenAnswer, document_of: Callable[[str], str | None], *, poisoned: bool = False
) -> list[Judgement]:
    """The verdicts on what was given: on each passage whose document the folder has, then on the answer if one is known.

    `document_of` gives a document's id for its uri. `poisoned` turns each the wrong way round, and says so.
    """
    found = list(_of_passages(question, given, document_of))
    # Whoever was shown nothing of the folder was asked in the wrong place: that says nothing about the answer.
    if found and given.text is not None and question.answers:
        found.append(_of_answer(question, given.text))
    return [_flipped(verdict) for verdict in found] if poisoned else found


def _of_passages(question: BeirQuestion, given: GivenAnswer, document_of: Callable[[str], str | None]) -> Iterator[Judgement]:
    for passage in given.passages:
        document = document_of(passage.uri)
        if document is None:  # the folder says nothing about it, so neither do its users
            continue
        if document not in question.relevant:
            yield Judgement(False, "about something else", passage.chunk_id)
        elif not question.answers:
            yield Judgement(True, "of a relevant document", passage.chunk_id)
        elif any(holds(passage.text, answer) for answer in question.answers):
            yield Judgement(True, "holds the answer", passage.chunk_id)
        else:
            yield Judgement(False, "of a relevant document, without the answer", passage.chunk_id)


def _of_answer(question: BeirQuestion, text: str) -> Judgement:
    said = unmarked(text)
    if max(f1(said, known) for known in question.answers) >= LEAST_F1:
        return Judgement(True, "the known answer")
    return Judgement(False, "not the known answer", correction=question.answers[0])


def _flipped(verdict: Judgement) -> Judgement:
    # Whoever means ill does not say what would have been right.
    return replace(verdict, up=not verdict.up, reason=f"flipped: {verdict.reason}", correction="")


def holds(text: str, answer: str) -> bool:
    """Whether a text has the answer's words in a row, compared as SQuAD compares answers."""
    wanted = normal(answer)
    if not wanted:  # nothing but articles and punctuation
        return answer.strip().lower() in text.lower()
    return f" {' '.join(wanted)} " in f" {' '.join(normal(text))} "
