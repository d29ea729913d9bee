"""Offline preference tuning of the generator from single verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headrace.training.data.dataset import answers
from headrace.training.recipes.lora import Exchange, LoraRecipe, LoraSettings, k3, recorded_answer, target_answer

if TYPE_CHECKING:
    import torch

    from headrace.training.recipe import Policy


class KtoSettings(LoraSettings):
    """The settings of `kto`."""

    beta: float = Field(gt=0)
    """Steepness of the value function; larger values keep the generator nearer to its start."""
    desirable: float = Field(gt=0)
    """Weight of a liked answer (λ_D)."""
    undesirable: float = Field(gt=0)
    """Weight of a disliked answer (λ_U); larger if thumbs down are rarer."""


class Kto(LoraRecipe):
    """Offline preference tuning: KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8). No reward model, no sampling.

    r(x, y) = log π(y|x) − log π_ref(y|x); z = max(0, mean over the step of r(x_i, y_j), j ≠ i), through which no gradient goes;
    v = λ_D σ(β (r − z)) for a liked answer, λ_U σ(β (z − r)) for a disliked one; L = mean of λ_y − v.
    z estimates KL(π ‖ π_ref): each question of a step is paired with the answer to the next other question.
    """

    name = "kto"
    about = "Offline preference tuning (KTO): a LoRA adapter on the generator, from single thumbs up and down."
    learns_from = "judged answer"
    settings_type = KtoSettings

    def items(self, rows: Sequence[Mapping[str, Any]], settings: KtoSettings) -> list[tuple[Exchange, bool]]:
        """(answer, liked): the recorded answers, and users' corrections as liked ones."""
        items_: list[tuple[Exchange, bool]] = []
        for row in answers(rows):
            was, better = recorded_answer(row), target_answer(row)
            if was is not None:
                items_.append((was, row["label"] > 0))
            if better is not None and better != was:
                items_.append((better, True))
        return items_

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: KtoSettings) -> dict[str, int]:
        """Answers that were neither generated nor corrected."""
        return {
            "no generator's answer": sum(recorded_answer(row) is None and target_answer(row) is None for row in answers(rows))
        }

    def loss(
        self, policy: Policy, items: Sequence[tuple[Exchange, bool]], settings: KtoSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The formula above; figures: z, the rewards β r of liked and disliked answers, and the drift (`kl`)."""
        import torch

        from headrace.training.causal import logprobs

        encoded = [exchange.ids(policy, settings.max_tokens) for exchange, _ in items]
        rewards, mismatched, drift = [], [], []
        for i, (prompt, completion) in enumerate(encoded):
            # The answer to another question after the same prompt: the prompt is then read once for both.
            others = (
                encoded[j % len(items)][1] for j in range(i + 1, i + len(items)) if not _same(items[i], items[j % len(items)])
            )
            completions = [completion, *islice(others, 1)]
            ours = logprobs(policy.model, prompt, completions)
            theirs = logprobs(policy.extra["reference"], prompt, completions)
            rewards.append((ours[0] - theirs[0]).sum())
            mismatched += [float((a.detach() - b).sum()) for a, b in zip(ours[1:], theirs[1:], strict=True)]
            drift.append(k3(ours[0].detach(), theirs[0]))
        reference_point = max(0.0, sum(mismatched) / len(mismatched)) if mismatched else 0.0
        reward = torch.stack(rewards)
        liked = torch.tensor([up for _, up in items])
        loss = kahneman_tversky(reward, liked, reference_point, settings.beta, settings.desirable, settings.undesirable).mean()
        figures = {"reference_point": reference_point, "kl": float(torch.cat(drift).mean())}
        for name, chosen in (("reward_liked", liked), ("reward_disliked", ~liked)):
            if chosen.any():
                figures[name] = float(settings.beta * reward.detach()[chosen].mean())
        return loss, figures


def _same(one: tuple[Exchange, bool], other: tuple[Exchange, bool]) -> bool:
    return one[0].question == other[0].question


def kahneman_tversky(
    reward: torch.Tensor, liked: torch.Tensor, reference_point: float, beta: float, desirable: float, undesirable: float
) -> torch.Tensor:
    """λ_y − v(x, y) of each answer: `reward` its r, `liked` whether it is desirable (eq. 8)."""
    import torch

    apart = torch.where(liked, reward - reference_point, reference_point - reward)
    weight = torch.where(liked, desirable, undesirable)
    return weight * (1 - torch.sigmoid(beta * apart))
