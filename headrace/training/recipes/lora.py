"""Shared by the generator's recipes: a LoRA adapter on its weights, and answers as training items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headrace.models import GENERATOR
from headrace.models.measures import unmarked
from headrace.models.prompt import encode, messages
from headrace.training.recipe import GradientRecipe, GradientSettings, Policy

if TYPE_CHECKING:
    import torch


def k3(ours: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(π ‖ π_ref) estimated at each token of π: π_ref/π − log(π_ref/π) − 1, which is never below 0.

    Schulman 2020, "Approximating KL Divergence" (k3); Shao et al. 2024, arXiv:2402.03300, eq. 4. Both arguments are
    log-probabilities of the tokens.
    """
    ratio = reference - ours
    return ratio.exp() - ratio - 1


def clipped(ours: torch.Tensor, then: torch.Tensor, advantage: float, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) of each token, with ρ = exp(ours − then), and where the clip binds.

    PPO's objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7): `then` are the log-probabilities with which the tokens were
    drawn. Where the clip binds no gradient flows.
    """
    ratio = (ours - then).exp()
    bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
    return (ratio * advantage).minimum(bounded * advantage), bounded * advantage < ratio * advantage


class LoraSettings(GradientSettings):
    """Settings of every recipe of the generator."""

    rank: int = Field(ge=1, le=256)
    """Rank of a new adapter's matrices; a parent's adapter keeps its own."""
    alpha: int = Field(ge=1)
    """A new adapter's weight is alpha / rank."""
    mlp: bool = False
    """Whether a new adapter changes the feed-forward layers too, not only attention."""
    held_out: int = Field(default=30, ge=1)
    """Maximum held-out questions that the gate asks both generators; each takes about a second per generator."""
    answer_tokens: int = Field(default=64, ge=1)
    """Maximum tokens of an answer in the gate, as in serving."""


@dataclass(frozen=True)
class Exchange:
    """A question, the passages of its prompt, and an answer to it.

    `prompt` and `completion` are the recorded token ids, empty if there are none.
    """

    question: str
    passages: tuple[str, ...]
    answer: str
    prompt: tuple[int, ...] = ()
    completion: tuple[int, ...] = ()

    def prompt_ids(self, policy: Policy) -> list[int]:
        """Token ids of the prompt: the recorded ones, else those that serving would make."""
        if self.prompt:
            return list(self.prompt)
        messages_ = [(message["role"], message["content"]) for message in messages(self.question, self.passages)]
        return encode(policy.tokenizer, messages_)

    def completion_ids(self, policy: Policy) -> list[int]:
        """Token ids of the answer: the recorded ones, else the text's with the end token."""
        if self.completion:
            return list(self.completion)
        ids: list[int] = policy.tokenizer(self.answer, add_special_tokens=False)["input_ids"]
        return [*ids, policy.extra["end"]]

    def ids(self, policy: Policy, most: int) -> tuple[list[int], list[int]]:
        """Prompt and answer ids, together at most `most`. An answer is cut at its end to half of them; a prompt at its
        beginning, since the question is at its end.
        """
        completion = self.completion_ids(policy)[: most // 2]
        return self.prompt_ids(policy)[-(most - len(completion)) :], completion


def recorded_answer(row: Mapping[str, Any]) -> Exchange | None:
    """The generated answer as recorded; `None` if no generator was asked or the answer is empty."""
    text_ = unmarked(row["answer"] or "").strip()
    if not text_ or not row["generator_version"]:
        return None
    return Exchange(row["question"], _passages(row), text_, _ids(row["prompt"]), _ids(row["completion"]))


def target_answer(row: Mapping[str, Any]) -> Exchange | None:
    """The answer that should be given: the correction, else the answer if it was liked; `None` without either."""
    text_ = unmarked(row["target"] or "").strip()
    if not text_:
        return None
    if text_ == unmarked(row["answer"] or "").strip():
        # Without a generator it is a fixed sentence ("I found nothing …"), from which nothing is learned.
        return recorded_answer(row)
    return Exchange(row["question"], _passages(row), text_, _ids(row["prompt"]))


def _passages(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row["passages"] or ())


def _ids(ids: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(ids or ())


class LoraRecipe(GradientRecipe):
    """A recipe of the generator. `base` is the folder of the model it adapts, by default the packaged one."""

    model = GENERATOR

    def __init__(self, base: Path | None = None) -> None:
        self.base = base

    def fresh(self, parent: Path | None, settings: LoraSettings, seed: int) -> Policy:
        """The base with the parent's adapter, or a new one."""
        from headrace.training import causal

        return causal.fresh(self.base, parent, rank=settings.rank, alpha=settings.alpha, mlp=settings.mlp, seed=seed)

    def save(self, policy: Policy, folder: Path) -> None:
        """Write the adapter."""
        from headrace.training import causal

        causal.save(policy.model, folder)
