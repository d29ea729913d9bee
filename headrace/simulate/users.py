"""Simulated users: which questions each asks, which of them is malicious, and how they judge."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.errors import WrongUsage
from headrace.models.measures import f1, normal, unmarked
from headrace.simulate.beir import BeirFolder, BeirQuestion

RULE = (
    "A passage is liked if its document is relevant to the question and, if answers are known, the passage contains one; any"
    " other passage of the folder is disliked. An answer is liked if its F1 against a known one is at least 0.5; otherwise the"
    " known answer is the correction."
)
LEAST_F1 = 0.5


@dataclass(frozen=True)
class ShownPassage:
    """A passage shown to the user."""

    chunk_id: str
    uri: str
    text: str


@dataclass(frozen=True)
class GivenAnswer:
    """The response to a question; `text` is `None` for a search."""

    answer_id: str
    passages: tuple[ShownPassage, ...]
    text: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Judgement:
    """A verdict to give: on a passage, or on the whole answer if `chunk_id` is empty."""

    up: bool
    reason: str
    chunk_id: str = ""
    correction: str = ""


def judged(
    question: BeirQuestion, answer: GivenAnswer, document_of: Callable[[str], str | None], *, poisoned: bool = False
) -> list[Judgement]:
    """The verdicts on a response: on each passage from the folder's documents, then on the answer if answers are known.

    `document_of` returns a document's id for its uri. `poisoned` inverts each verdict and says so in the reason.
    """
    verdicts = list(_of_passages(question, answer, document_of))
    # If no passage is from the folder, the index is the wrong one, which says nothing about the answer.
    if verdicts and answer.text is not None and question.answers:
        verdicts.append(_of_answer(question, answer.text))
    return [_flipped(verdict) for verdict in verdicts] if poisoned else verdicts


def _of_passages(question: BeirQuestion, result: GivenAnswer, document_of: Callable[[str], str | None]) -> Iterator[Judgement]:
    for passage in result.passages:
        document = document_of(passage.uri)
        if document is None:  # the folder has no judgement on it
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
    plain = unmarked(text)
    if max(f1(plain, known) for known in question.answers) >= LEAST_F1:
        return Judgement(True, "the known answer")
    return Judgement(False, "not the known answer", correction=question.answers[0])


def _flipped(verdict: Judgement) -> Judgement:
    # A malicious user does not give the correct answer.
    return replace(verdict, up=not verdict.up, reason=f"flipped: {verdict.reason}", correction="")


def holds(text: str, answer: str) -> bool:
    """Whether a text contains the answer's words in sequence, normalised as in SQuAD."""
    wanted = normal(answer)
    if not wanted:  # only articles and punctuation
        return answer.strip().lower() in text.lower()
    return f" {' '.join(wanted)} " in f" {' '.join(normal(text))} "


POISONER = "simulated-poisoner"
"""The user whose verdicts are all inverted."""


@dataclass(frozen=True)
class UserPlan:
    """One simulated user's questions, in order; `poisoned` inverts all verdicts of that user."""

    user: str
    questions: tuple[BeirQuestion, ...]
    poisoned: bool = False


def user_plans(questions: Sequence[BeirQuestion], *, users: int, poison: float = 0.0, seed: int = 0) -> tuple[UserPlan, ...]:
    """Deal the shuffled questions to `users`, and a share `poison` of them to one more, who inverts every verdict.

    The same questions and seed give the same plans. Users without a question are left out.
    """
    order = list(questions)
    random.Random(seed).shuffle(order)
    malicious = round(poison * len(order))
    plans = [UserPlan(POISONER, tuple(order[:malicious]), poisoned=True)]
    width = len(str(users))
    plans += [UserPlan(f"simulated-{n + 1:0{max(2, width)}}", tuple(order[malicious + n :: users])) for n in range(users)]
    return tuple(plan for plan in plans if plan.questions)


def chosen(folder: BeirFolder, file: Path | None) -> list[BeirQuestion]:
    """The folder's questions, or those that `file` names, in its order.

    Each line is a question's id, its text, or a JSON object with `_id` or `text`. Raises `WrongUsage` with the line that is not a
    question of the folder.
    """
    if file is None:
        return list(folder.questions)
    by_name: dict[str, list[BeirQuestion]] = {}
    for question in folder.questions:
        by_name.setdefault(question.text.strip(), []).append(question)
    by_name |= {question.id: [question] for question in folder.questions}
    questions_by_id: dict[str, BeirQuestion] = {}
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            name = _name(line.strip(), f"{file}:{number}")
            if name not in by_name:
                raise WrongUsage(
                    f"{file}:{number} is not a question of {folder.path} with a relevant document.",
                    hint="Each line is a question's id, its text, or a line of queries.jsonl.",
                )
            questions_by_id |= {question.id: question for question in by_name[name]}
    if not questions_by_id:
        raise WrongUsage(f"{file} has no questions.", hint="Write one question, or its id, on each line.")
    return list(questions_by_id.values())


def _name(line: str, location: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WrongUsage(f"{location} is not JSON: {error}.") from None
    for key in ("_id", "text"):
        if isinstance(row.get(key), str):
            return str(row[key]).strip()
    raise WrongUsage(f'{location} has neither "_id" nor "text".')


def _lines(file: Path) -> list[str]:
    try:
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")  # a pipe would be waited for
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}.") from None
