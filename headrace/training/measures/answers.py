"""Generators, by the words that their answers share with the known ones (F1), on held-out questions."""

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
from headrace.training.recipes.lora import wanted

_AT_ONCE = 5


@dataclass(frozen=True)
class HeldOutQuestion:
    """A held-out question: the texts that go with it, the answers that are right, and who judged it."""

    question: str
    tenant: str
    passages: tuple[str, ...]
    known: tuple[str, ...]
    users: tuple[str, ...]


def compare(
    challenger: Path,
    champion: Path | None,
    card: Mapping[str, Any],
    tune: Rows,
    test: Rows,
    settings: Any,
    bars: ProgressBars,
    *,
    base: Path | None = None,
) -> Compared:
    """Ask both the same held-out questions, greedily. Without a champion the base answers: the packaged model, or `base`."""
    asked = held_out(test, settings.held_out)

    def said(adapter: Path | None, what: str) -> list[dict[str, Any]]:
        from headrace.training import causal

        with defer_sigint():
            model, tokenizer = causal.merged(base, adapter)
        return measure(
            model, tokenizer, asked, most_tokens=settings.answer_tokens, track=partial(bars.track, what=what, of="batches")
        )

    ours = said(challenger, "evaluate")
    return Compared("F1", tuple(ours), tuple(said(champion, "champion")), card={"form": "lora"})


def held_out(rows: Rows, most: int) -> list[HeldOutQuestion]:
    """The questions with a known answer, at most so many, spread evenly; neighbours are often about one document."""
    found: dict[tuple[str, str], HeldOutQuestion] = {}
    for row in answers(rows):
        known = wanted(row)
        if known is None:
            continue
        key = (row["tenant"], row["question"])
        before = found.get(key, HeldOutQuestion(known.question, row["tenant"], known.passages, (), ()))
        users = {*before.users, *(row.get("users") or ([row["user"]] if row.get("user") else []))}
        found[key] = HeldOutQuestion(
            before.question, before.tenant, before.passages, (*before.known, known.answer), tuple(sorted(users))
        )
    asked = [found[key] for key in sorted(found)]
    return asked if len(asked) <= most else [asked[i * len(asked) // most] for i in range(most)]


def measure(
    model: Any,
    tokenizer: Any,
    asked: Sequence[HeldOutQuestion],
    *,
    most_tokens: int,
    track: Callable[[list[list[int]]], Iterable[list[int]]] = iter,
) -> list[dict[str, Any]]:
    """A row for each question, in order: what the model answers greedily, and how good that is.

    `score` is `f1` and `em` the exact match, each against the best fitting known answer; `groundedness` the share of the
    sentences that stand on the passages, 0 where nothing was said; `tokens` the answer's length and `wanted` that of the known
    one it comes nearest to; `refused` whether it says that it cannot answer, or nothing; `repetition` the share of its
    three-word runs that were there before.
    """
    from headrace.training import causal

    prompts = [encode(tokenizer, [(m["role"], m["content"]) for m in messages(one.question, one.passages)]) for one in asked]
    # Prompts of like length together: the shorter ones are filled up.
    order = sorted(range(len(asked)), key=lambda i: len(prompts[i]))
    rows: list[dict[str, Any]] = [{} for _ in asked]
    for batch in track([order[i : i + _AT_ONCE] for i in range(0, len(order), _AT_ONCE)]):
        with defer_sigint():
            said = causal.greedy(model, tokenizer, [prompts[i] for i in batch], most_tokens)
        for i, (text, length) in zip(batch, said, strict=True):
            rows[i] = _row(asked[i], text, length, tokenizer)
    return rows


def _row(asked: HeldOutQuestion, said: str, tokens: int, tokenizer: Any) -> dict[str, Any]:
    nearest = max(asked.known, key=lambda known: f1(said, known))
    score = f1(said, nearest)
    return {
        "question": asked.question,
        "tenant": asked.tenant,
        "users": list(asked.users),
        "answer": said,
        "score": score,
        "f1": score,
        "em": max(exact_match(said, known) for known in asked.known),
        "groundedness": groundedness(said, asked.passages) or 0.0,
        "tokens": tokens,
        "wanted": len(tokenizer(nearest, add_special_tokens=False)["input_ids"]),
        "refused": float(not said or refused(said)),
        "repetition": repetition(said),
    }
