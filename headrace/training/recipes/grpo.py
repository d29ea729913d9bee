"""RL fine-tuning of the generator with verifiable rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from headrace.models.measures import exact_match, f1, groundedness
from headrace.training.data.dataset import answers
from headrace.training.recipes.lora import Exchange, LoraRecipe, LoraSettings, k3, target_answer

if TYPE_CHECKING:
    import torch

    from headrace.training.recipe import Policy


class GrpoSettings(LoraSettings):
    """The settings of `grpo`."""

    samples: int = Field(ge=2)
    """Answers drawn for each question."""
    drawn_tokens: int = Field(ge=1)
    """Maximum tokens of each drawn answer."""
    temperature: float = Field(gt=0)
    """Temperature at which they are drawn."""
    kl: float = Field(ge=0)
    """Weight of the penalty for drifting from the start (β)."""
    scaled: bool
    """Whether advantages are divided by their standard deviation and answers by their length (GRPO), or not (Dr. GRPO)."""
    exact: float = Field(ge=0)
    """Reward of an answer equal to the known one."""
    overlap: float = Field(ge=0)
    """Reward of an answer with the known one's words, in proportion to F1."""
    grounded: float = Field(ge=0)
    """Reward of an answer whose sentences are supported by the passages, in proportion to their share."""

    @model_validator(mode="after")
    def _room_for_the_prompt(self) -> Self:
        if self.drawn_tokens > self.max_tokens // 2:
            raise ValueError("drawn_tokens must not exceed half of max_tokens: the prompt needs room too")
        return self


class Grpo(LoraRecipe):
    """RL fine-tuning with verifiable rewards: GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3), on-policy, a step per group.

    G answers o_i are drawn from the generator as it is, and rewarded: r_i. A_i = (r_i − mean r) / (std r + 1e-4).
    L = −(1/G) Σ_i (1/|o_i|) Σ_t [ ρ_it A_i − β (π_ref/π − log(π_ref/π) − 1) ], ρ_it = π / π without gradient, hence 1 in value:
    each answer is used once, so nothing is clipped. Without `scaled` A_i = r_i − mean r, and the sum over tokens is
    divided by `drawn_tokens` in place of |o_i| (Dr. GRPO: Liu et al. 2025, arXiv:2503.20783).
    """

    name = "grpo"
    about = "RL fine-tuning with verifiable rewards (GRPO): a LoRA adapter on the generator, from questions with known answers."
    learns_from = "question with a known answer: a liked or corrected one"
    settings_type = GrpoSettings

    def items(self, rows: Sequence[Mapping[str, Any]], settings: GrpoSettings) -> list[Exchange]:
        """Each question once, with its known answer: the newest row's, if there are several."""
        exchanges: dict[tuple[str, tuple[str, ...]], Exchange] = {}
        for row in answers(rows):
            known = target_answer(row)
            if known is not None:
                exchanges[known.question, known.passages] = known
        return list(exchanges.values())

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: GrpoSettings) -> dict[str, int]:
        """Answers to questions without a known answer."""
        return {"no known answer": sum(target_answer(row) is None for row in answers(rows))}

    def loss(
        self, policy: Policy, items: Sequence[Exchange], settings: GrpoSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The formula above; figures: the mean reward and its parts, the drift (`kl`) and the tokens per answer."""
        import torch

        from headrace.training.causal import encode_prefix, logprobs, logprobs_after, sample, text

        parts, drift, rewarded, lengths = [], [], [], []
        for known in items:
            prompt = known.prompt_ids(policy)[-(settings.max_tokens - settings.drawn_tokens) :]
            prefix = encode_prefix(policy.model, prompt)
            samples = sample(
                policy.model,
                [prefix] * settings.samples,
                policy.tokenizer,
                policy.extra["ends"],
                most_tokens=settings.drawn_tokens,
                temperature=settings.temperature,
            )
            rewards = [reward(text(policy.tokenizer, one), known, settings) for one in samples]
            ours = logprobs_after(policy.model, prefix, samples, temperature=settings.temperature)
            theirs = logprobs(policy.extra["reference"], prompt, samples, temperature=settings.temperature)
            gained = advantages([sum(one.values()) for one in rewards], scaled=settings.scaled)
            for one, now, then in zip(gained, ours, theirs, strict=True):
                apart = k3(now, then)
                per_token = (now - now.detach()).exp() * one - settings.kl * apart
                parts.append(-per_token.sum() / (len(now) if settings.scaled else settings.drawn_tokens))
                drift.append(apart.detach())
                lengths.append(len(now))
            rewarded += rewards
        figures = {name: _mean([one[name] for one in rewarded]) for name in ("exact", "overlap", "grounded")}
        figures["reward"] = sum(figures.values())
        return torch.stack(parts).mean(), figures | {"kl": float(torch.cat(drift).mean()), "tokens": _mean(lengths)}


def reward(text_: str, known: Exchange, settings: GrpoSettings) -> dict[str, float]:
    """The parts of an answer's reward, by name, from the known answer and the passages."""
    return {
        "exact": settings.exact * exact_match(text_, known.answer),
        "overlap": settings.overlap * f1(text_, known.answer),
        "grounded": settings.grounded * (groundedness(text_, known.passages) or 0.0),
    }


def advantages(rewards: Sequence[float], *, scaled: bool) -> list[float]:
    """Each answer's reward minus the group's mean; `scaled`: divided by the group's standard deviation."""
    mean = _mean(rewards)
    apart = [one - mean for one in rewards]
    if not scaled:
        return apart
    deviation = _mean([one * one for one in apart]) ** 0.5
    return [one / (deviation + 1e-4) for one in apart]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
