"""The script of a replay: which questions are asked, by whom, and who of them means ill."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import WrongUsage
from headrace.simulate.beir import BeirFolder, BeirQuestion

POISONER = "simulated-poisoner"
"""The user whose verdicts are all the wrong way round."""


@dataclass(frozen=True)
class UserPlan:
    """What one simulated user asks, in order; `poisoned` flips every verdict of that user."""

    user: str
    questions: tuple[BeirQuestion, ...]
    poisoned: bool = False


def script(questions: Sequence[BeirQuestion], *, users: int, poison: float = 0.0, seed: int = 0) -> tuple[UserPlan, ...]:
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
    found: dict[str, BeirQuestion] = {}
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            name = _name(line.strip(), f"{file}:{number}")
            if name not in by_name:
                raise WrongUsage(
                    f"{file}:{number} is no question of {folder.path} that has a relevant document.",
                    hint="A line is a question's id, its text, or a line of queries.jsonl.",
                )
            found |= {question.id: question for question in by_name[name]}
    if not found:
        raise WrongUsage(f"{file} names no question.", hint="Write one question, or the id of one, on each line.")
    return list(found.values())


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
