"""Simulated users: which questions each asks, who of them means ill, and how they judge."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.errors import WrongUsage
from headrace.models.measures import f1, normal, unmarked
from headrace.simulate.beir import BeirFolder, BeirQuestion

RULE = (
    "A passage is liked if its document is relevant to the question and, where answers are known, the passage holds one; any"
    " other passage of the folder is disliked. An answer is liked if its F1 against a known one is at least 0.5; otherwise the"
    " known answer is the correction."
)
LEAST_F1 = 0.5


@dataclass(frozen=True)
class ShownPassage:
    """A passage as the user sees it."""

    chunk_id: str
    uri: str
    text: str


@dataclass(frozen=True)
class GivenAnswer:
    """What came back for a question; `text` is `None` for a search."""

    answer_id: str
    passages: tuple[ShownPassage, ...]
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
    question: BeirQuestion, answer: GivenAnswer, document_of: Callable[[str], str | None], *, poisoned: bool = False
) -> list[Judgement]:
    """The verdicts on what was given: on each passage whose document the folder has, then on the answer if one is known.

    `document_of` gives a document's id for its uri. `poisoned` turns each the wrong way round, and says so.
    """
    verdicts = list(_of_passages(question, answer, document_of))
    # Whoever was shown nothing of the folder was asked in the wrong place: that says nothing about the answer.
    if verdicts and answer.text is not None and question.answers:
        verdicts.append(_of_answer(question, answer.text))
    return [_flipped(verdict) for verdict in verdicts] if poisoned else verdicts


def _of_passages(question: BeirQuestion, result: GivenAnswer, document_of: Callable[[str], str | None]) -> Iterator[Judgement]:
    for passage in result.passages:
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
    plain = unmarked(text)
    if max(f1(plain, known) for known in question.answers) >= LEAST_F1:
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


POISONER = "simulated-poisoner"
"""The user whose verdicts are all the wrong way round."""


@dataclass(frozen=True)
class UserPlan:
    """What one simulated user asks, in order; `poisoned` flips every verdict of that user."""

    user: str
    questions: tuple[BeirQuestion, ...]
    poisoned: bool = False


def user_plans(questions: Sequence[BeirQuestion], *, users: int, poison: float = 0.0, seed: int = 0) -> tuple[UserPlan, ...]:
    """Deal the questions, shuffled, to `users` and, of a share `poison`, to one more who flips every verdict.

    The same questions and seed give the same parts. Users without a question are left out.
    """
    order = list(questions)
    random.Random(seed).shuffle(order)
    ill = round(poison * len(order))
    parts = [UserPlan(POISONER, tuple(order[:ill]), poisoned=True)]
    width = len(str(users))
    parts += [UserPlan(f"simulated-{n + 1:0{max(2, width)}}", tuple(order[ill + n :: users])) for n in range(users)]
    return tuple(part for part in parts if part.questions)


def chosen(folder: BeirFolder, file: Path | None) -> list[BeirQuestion]:
    """The folder's questions, or those of them that `file` names, in its order.

    A line of it is a question's id, its text, or a JSON object with `_id` or `text`. Raises `WrongUsage` naming the line that is
    no question of the folder.
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
                    f"{file}:{number} is no question of {folder.path} that has a relevant document.",
                    hint="A line is a question's id, its text, or a line of queries.jsonl.",
                )
            questions_by_id |= {question.id: question for question in by_name[name]}
    if not questions_by_id:
        raise WrongUsage(f"{file} names no question.", hint="Write one question, or the id of one, on each line.")
    return list(questions_by_id.values())


def _name(line: str, place: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WrongUsage(f"{place} is not JSON: {error}.") from None
    for key in ("_id", "text"):
        if isinstance(row.get(key), str):
            return str(row[key]).strip()
    raise WrongUsage(f'{place} has neither "_id" nor "text".')


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}.") from None
