"""Online RL from production: policy gradient on the answers that users judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from headrace.training.data.dataset import answers
from headrace.training.recipes.lora import Exchange, LoraRecipe, LoraSettings, clipped, k3, recorded_answer

if TYPE_CHECKING:
    import torch

    from headrace.training.recipe import Policy


class OnlineSettings(LoraSettings):
    """The settings of `online`."""

    staleness: int = Field(ge=0)
    """Maximum number of releases between the generator that answered and the served one."""
    clip_epsilon: float = Field(gt=0, lt=1)
    """The importance ratio is clipped to 1 − ε and 1 + ε."""
    kl: float = Field(ge=0)
    """Weight of the penalty for drifting from the start (β)."""
    baseline: Literal["tenant", "batch"]
    """The mean reward that an answer's is compared with: that of its tenant's answers, or that of the step."""
    greedy: bool
    """Whether to use answers at temperature 0, treated as drawn at temperature 1, which they were not."""


@dataclass(frozen=True)
class RewardedAnswer:
    """A recorded answer: its reward (1 liked, 0 not), its tenant's mean reward, and its tokens' log-probabilities when drawn."""

    exchange: Exchange
    reward: float
    baseline: float
    logprobs: tuple[float, ...]
    temperature: float


class Online(LoraRecipe):
    """Online RL from production: the clipped policy gradient of PPO on answers that users judged.

    ρ_t = exp(log π(y_t) − log π_then(y_t)), π_then being the version that answered and its log-probability the recorded one, at
    the temperature of that record. A = reward − baseline.
    L = −mean over answers of (1/|y|) Σ_t [ min(ρ_t A, clip(ρ_t, 1 − ε, 1 + ε) A) − β (π_ref/π − log(π_ref/π) − 1) ]
    (Schulman et al. 2017, arXiv:1707.06347, eq. 7; the penalty as in Shao et al. 2024, arXiv:2402.03300, eq. 4, estimated at the
    recorded tokens). It is off-policy by at most `staleness` versions; older answers are left out. So are answers of unknown
    distribution: without log-probabilities, version or temperature, with `top_p` below 1, or greedy.
    """

    name = "online"
    about = "Online RL from production: a LoRA adapter on the generator, by policy gradient on answers that users judged."
    learns_from = "judged answer with its log-probabilities, as the generator wrote it"
    settings_type = OnlineSettings

    def items(self, rows: Sequence[Mapping[str, Any]], settings: OnlineSettings) -> list[RewardedAnswer]:
        """The usable answers, each with the mean reward of its tenant's answers."""
        usable = [row for row in answers(rows) if _fault(row, settings) is None]
        rewards: dict[str, list[float]] = {}
        for row in usable:
            rewards.setdefault(row["tenant"], []).append(_reward(row))
        return [
            RewardedAnswer(
                exchange,
                _reward(row),
                sum(rewards[row["tenant"]]) / len(rewards[row["tenant"]]),
                tuple(row["logprobs"]),
                row["sampling"]["temperature"] or 1.0,
            )
            for row in usable
            if (exchange := recorded_answer(row)) is not None
        ]

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: OnlineSettings) -> dict[str, int]:
        """Unusable answers, by reason."""
        faults = Counter(fault for row in answers(rows) if (fault := _fault(row, settings)) is not None)
        return dict(sorted(faults.items()))

    def loss(
        self, policy: Policy, items: Sequence[RewardedAnswer], settings: OnlineSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The formula above; figures: mean reward and ratio, the share of clipped tokens, and the drift (`kl`)."""
        import torch

        from headrace.training.causal import logprobs

        mean = sum(one.reward for one in items) / len(items)
        parts, ratios, bound, drift = [], [], [], []
        for one in items:
            prompt, completions = one.exchange.prompt_ids(policy), [one.exchange.completion_ids(policy)]
            [now] = logprobs(policy.model, prompt, completions, temperature=one.temperature)
            [start] = logprobs(policy.extra["reference"], prompt, completions, temperature=one.temperature)
            then = torch.tensor(one.logprobs)
            gained, clipped_share = clipped(
                now, then, one.reward - (one.baseline if settings.baseline == "tenant" else mean), settings.clip_epsilon
            )
            apart = k3(now, start)
            parts.append(-(gained - settings.kl * apart).mean())
            ratios.append((now.detach() - then).exp())
            bound.append(clipped_share)
            drift.append(apart.detach())
        return torch.stack(parts).mean(), {
            "reward": mean,
            "ratio": float(torch.cat(ratios).mean()),
            "clipped": float(torch.cat(bound).float().mean()),
            "kl": float(torch.cat(drift).mean()),
        }


def _reward(row: Mapping[str, Any]) -> float:
    return 1.0 if row["label"] > 0 else 0.0


def _fault(row: Mapping[str, Any], settings: OnlineSettings) -> str | None:
    """Why an answer is unusable, or `None`."""
    sampling = row.get("sampling") or {}
    temperature, top_p = sampling.get("temperature"), sampling.get("top_p")
    if recorded_answer(row) is None:
        return "no generator's answer"
    if not row["prompt"] or not row["completion"] or len(row["logprobs"] or ()) != len(row["completion"]):
        return "no log-probabilities"
    if row["staleness"] is None:
        return "unknown version"
    if row["staleness"] > settings.staleness:
        return "too old"
    if temperature is None or top_p is None:
        return "unknown sampling"
    if temperature == 0 and not settings.greedy:
        return "greedy"
    if top_p < 1:
        return "top_p below 1"
    if len(row["prompt"]) + len(row["completion"]) > settings.max_tokens:
        return "too long"
    return None
