"""Compares generators by word overlap (F1) of their answers with the known ones, on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headrace.core.progress import ProgressBars
from headrace.models.measures import exact_match, f1, groundedness, repetition
from headrace.models.prompt import encode, messages
from headrace.training.data.dataset import answers
from headrace.training.data.text import refused
from headrace.training.interrupt import defer_sigint
from headrace.training.measures import Compared, Rows
from headrace.training.recipes.lora import target_answer
from headrace.training.served_order import ServedOrder

_AT_ONCE = 5


@dataclass(frozen=True)
class HeldOutQuestion:
    """A held-out question: the texts of its prompt, the known answers, who judged it, and for each known answer who did."""

    question: str
    tenant: str
    passages: tuple[str, ...]
    known: tuple[str, ...]
    users: tuple[str, ...]
    judges: tuple[tuple[str, ...], ...] = ()


def compare(
    challenger: Path,
    champion: Path | None,
    card: Mapping[str, Any],
    served: ServedOrder,
    tune: Rows,
    test: Rows,
    settings: Any,
    bars: ProgressBars,
    *,
    base: Path | None = None,
) -> Compared:
    """Ask both models the held-out questions, greedily. Without a champion the base answers: the packaged model, or `base`."""
    questions = held_out(test, settings.held_out)

    def judged_rows(adapter: Path | None, what: str) -> list[dict[str, Any]]:
        from headrace.training import causal

        with defer_sigint():
            model, tokenizer = causal.merged(base, adapter)
        return measure(
            model, tokenizer, questions, most_tokens=settings.answer_tokens, track=partial(bars.track, what=what, of="batches")
        )

    ours = judged_rows(challenger, "evaluate")
    return Compared("F1", tuple(ours), tuple(judged_rows(champion, "champion")), card={"form": "lora"})


def held_out(rows: Rows, most: int) -> list[HeldOutQuestion]:
    """At most `most` questions with a known answer, spread evenly; neighbours are often about the same document."""
    questions_by_key: dict[tuple[str, str], HeldOutQuestion] = {}
    for row in answers(rows):
        known = target_answer(row)
        if known is None:
            continue
        key = (row["tenant"], row["question"])
        before = questions_by_key.get(key, HeldOutQuestion(known.question, row["tenant"], known.passages, (), ()))
        judges = tuple(row.get("users") or ([row["user"]] if row.get("user") else []))
        users = {*before.users, *judges}
        questions_by_key[key] = HeldOutQuestion(
            before.question,
            before.tenant,
            before.passages,
            (*before.known, known.answer),
            tuple(sorted(users)),
            (*before.judges, judges),
        )
    questions = [questions_by_key[key] for key in sorted(questions_by_key)]
    return questions if len(questions) <= most else [questions[i * len(questions) // most] for i in range(most)]


def measure(
    model: Any,
    tokenizer: Any,
    questions: Sequence[HeldOutQuestion],
    *,
    most_tokens: int,
    track: Callable[[list[list[int]]], Iterable[list[int]]] = iter,
) -> list[dict[str, Any]]:
    """One row per question, in order: the model's greedy answer and its measures.

    - `score` is `f1`; `em` is the exact match. Both are against the known answer that matches best.
    - `groundedness`: the share of sentences that the passages support, 0 for an empty answer.
    - `tokens`: the answer's length; `wanted`: that of the known answer that matches best.
    - `refused`: whether the answer is empty or declines to answer.
    - `repetition`: the share of repeated three-word sequences.
    """
    from headrace.training import causal

    prompts = [encode(tokenizer, [(m["role"], m["content"]) for m in messages(one.question, one.passages)]) for one in questions]
    # Prompts of similar length share a batch: shorter ones are padded.
    order = sorted(range(len(questions)), key=lambda i: len(prompts[i]))
    rows: list[dict[str, Any]] = [{} for _ in questions]
    for batch in track([order[i : i + _AT_ONCE] for i in range(0, len(order), _AT_ONCE)]):
        with defer_sigint():
            completions = causal.greedy(model, tokenizer, [prompts[i] for i in batch], most_tokens)
        for i, (text, length) in zip(batch, completions, strict=True):
            rows[i] = _row(questions[i], text, length, tokenizer)
    return rows


def _row(question: HeldOutQuestion, text: str, tokens: int, tokenizer: Any) -> dict[str, Any]:
    nearest = max(question.known, key=lambda known: f1(text, known))
    score = f1(text, nearest)
    return {
        "question": question.question,
        "tenant": question.tenant,
        "users": list(question.users),
        "answer": text,
        "score": score,
        "without": {user: _without(question, text, user) for user in question.users},
        "f1": score,
        "em": max(exact_match(text, known) for known in question.known),
        "groundedness": groundedness(text, question.passages) or 0.0,
        "tokens": tokens,
        "wanted": len(tokenizer(nearest, add_special_tokens=False)["input_ids"]),
        "refused": float(not text or refused(text)),
        "repetition": repetition(text),
    }


def _without(question: HeldOutQuestion, text: str, user: str) -> float | None:
    """F1 against the known answers that others judged, too; `None` if there are none."""
    known = [one for one, judges in zip(question.known, question.judges, strict=True) if judges != (user,)]
    return max((f1(text, one) for one in known), default=None)
