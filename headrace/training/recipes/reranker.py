"""The re-ranker's recipe: a cross-encoder, from verdicts on passages and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headrace.models import RERANKER
from headrace.training.data.dataset import by_question, passages
from headrace.training.recipe import GradientRecipe, GradientSettings, Policy

if TYPE_CHECKING:
    import torch


class RerankerSettings(GradientSettings):
    """The re-ranker's settings."""

    max_tokens: int = Field(ge=16, le=512)
    """Word pieces of a (question, passage) pair; longer passages are cut."""
    negatives: int = Field(ge=1)
    """Disliked passages per liked one, those that retrieval ranked highest first (hard negatives)."""
    exact: bool
    """Whether to compute in float32 even if the processor has bfloat16 instructions."""


class RerankerRecipe(GradientRecipe):
    """Listwise: each item is a question with one liked passage and the disliked ones that retrieval ranked highest.

    The loss is the cross-entropy of the liked one among them (Gao, Dai, Callan 2021, "Rethink Training of BERT Rerankers in
    Multi-Stage Retrieval Pipeline", eq. 3): −log( exp s⁺ / (exp s⁺ + Σ exp s⁻) ), s the cross-encoder's logit.
    """

    name = "reranker"
    model = RERANKER
    about = "Fine-tunes the cross-encoder on liked and disliked passages."
    learns_from = "question with both a liked and a disliked passage"
    settings_type = RerankerSettings

    def fresh(self, parent: Path | None, settings: RerankerSettings, seed: int) -> Policy:
        from headrace.training import crossencoder

        model, tokenizer = crossencoder.fresh(seed) if parent is None else crossencoder.trainable(parent)
        return Policy(model, tokenizer)

    def items(self, rows: Sequence[Mapping[str, Any]], settings: RerankerSettings) -> list[tuple[str, list[str]]]:
        """(question, [liked passage, disliked …]); questions without both are left out."""
        groups = []
        for (question, _), judged in by_question(passages(rows)).items():
            liked = [row["passage"] for row in judged if row["label"] > 0]
            disliked = [row["passage"] for row in judged if row["label"] == 0]
            if liked and disliked:
                groups.append((question, [liked[0], *disliked[: settings.negatives]]))
        return groups

    def loss(
        self, policy: Policy, items: Sequence[tuple[str, list[str]]], settings: RerankerSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        import torch

        from headrace.training import crossencoder

        pairs = [(question, passage) for question, shown in items for passage in shown]
        logits = crossencoder.logits(policy.model, policy.tokenizer, pairs, settings.max_tokens, exact=settings.exact)
        first = torch.zeros(1, dtype=torch.long)
        lists = torch.split(logits, [len(shown) for _, shown in items])
        return torch.stack([torch.nn.functional.cross_entropy(part[None], first) for part in lists]).mean(), {}

    def save(self, policy: Policy, folder: Path) -> None:
        from headrace.training.crossencoder import save

        save(policy.model, folder)
