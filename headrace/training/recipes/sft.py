"""Supervised fine-tuning of the generator on liked and corrected answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.training.data.dataset import answers
from headrace.training.recipes.lora import Exchange, LoraRecipe, LoraSettings, target_answer

if TYPE_CHECKING:
    import torch

    from headrace.training.recipe import Policy


class Sft(LoraRecipe):
    """Supervised fine-tuning: next-token loss on the target answers, with the prompt's tokens masked.

    L = −(1/N) Σ_i Σ_t log π(y_it | x_i, y_i<t), N the number of answer tokens of the step: every token of an answer counts the
    same, those of the prompt not at all (Ouyang et al. 2022, arXiv:2203.02155, section 3.5; Wei et al. 2022, arXiv:2109.01652).
    """

    name = "sft"
    about = "Supervised fine-tuning: a LoRA adapter on the generator, from liked and corrected answers."
    learns_from = "liked or corrected answer"
    settings_type = LoraSettings

    def items(self, rows: Sequence[Mapping[str, Any]], settings: LoraSettings) -> list[Exchange]:
        """The target answers, in the order of the rows."""
        return [exchange for row in answers(rows) if (exchange := target_answer(row)) is not None]

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: LoraSettings) -> dict[str, int]:
        """Answers that were neither liked nor corrected."""
        return {"no wanted answer": sum(target_answer(row) is None for row in answers(rows))}

    def loss(
        self, policy: Policy, items: Sequence[Exchange], settings: LoraSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The formula above."""
        import torch

        from headrace.training.causal import logprobs

        losses = []
        for exchange in items:
            prompt, completion = exchange.ids(policy, settings.max_tokens)
            losses += logprobs(policy.model, prompt, [completion])
        return -torch.cat(losses).mean(), {}
