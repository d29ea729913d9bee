"""The embedder's recipe: contrastive training of MiniLM from verdicts on passages and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headrace.models import EMBEDDER
from headrace.training.data.dataset import by_question, passages
from headrace.training.recipe import GradientRecipe, GradientSettings, Policy

if TYPE_CHECKING:
    import torch


class EmbedderSettings(GradientSettings):
    """The embedder's settings."""

    max_tokens: int = Field(ge=16, le=256)
    """Word pieces of a question or passage while training; longer ones are cut."""
    negatives: int = Field(ge=0)
    """Disliked passages per liked one, those that retrieval ranked highest first (hard negatives)."""
    exact: bool
    """Whether to compute in float32 even if the processor has bfloat16 instructions."""
    scale: float = Field(gt=0)
    """Factor of the cosines: 1 / temperature."""
    least_similarity: float = Field(default=0.30, ge=-1, le=1)
    """Similarity of the best passage below which a question is refused; a round takes it from `inference.least_similarity`."""


@dataclass(frozen=True)
class Liked:
    """A question with a liked passage and the hardest disliked ones.

    `document` is that of the liked passage, `negatives` are texts with their documents. `right` has the texts of all passages
    liked for the question, `wrong` those of all disliked ones.
    """

    question: str
    passage: str
    document: str
    negatives: tuple[tuple[str, str], ...]
    right: frozenset[str]
    wrong: frozenset[str]

    def told_from(self, text: str, document: str) -> bool:
        """Whether another passage of the batch counts as a negative for this question."""
        return text in self.wrong or (text not in self.right and (document == "" or document != self.document))


class EmbedderRecipe(GradientRecipe):
    """In-batch softmax: a question's liked passage among the disliked ones and the passages of the batch's other questions.

    The loss is sentence-transformers' MultipleNegativesRankingLoss (van den Oord, Li, Vinyals 2018, "Representation Learning with
    Contrastive Predictive Coding", eq. 4): the mean over questions of −log( exp s⁺ / Σ exp s ), s = scale · cosine. A question's
    sum leaves out passages that may answer it without a verdict: texts liked for it, and other questions' passages from the
    liked passage's document.
    """

    name = "embedder"
    model = EMBEDDER
    about = "Fine-tunes the embedder contrastively on liked and disliked passages; the index is built anew with it."
    learns_from = "question with both a liked and a disliked passage"
    settings_type = EmbedderSettings

    def fresh(self, parent: Path | None, settings: EmbedderSettings, seed: int) -> Policy:
        from headrace.training import encoder

        return Policy(encoder.trainable(parent, settings.max_tokens), None)

    def items(self, rows: Sequence[Mapping[str, Any]], settings: EmbedderSettings) -> list[Liked]:
        """One item per liked passage; questions without one are left out."""
        pairs = []
        for (question, _), judged in by_question(passages(rows)).items():
            liked = [row for row in judged if row["label"] > 0]
            right = frozenset(row["passage"] for row in liked)
            # The same text may be in two documents, of which one was liked.
            disliked = dict.fromkeys(_place(row) for row in judged if row["label"] == 0 and row["passage"] not in right)
            hardest, wrong = tuple(disliked)[: settings.negatives], frozenset(text for text, _ in disliked)
            pairs += [Liked(question, *place, hardest, right, wrong) for place in dict.fromkeys(map(_place, liked))]
        return pairs

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: EmbedderSettings) -> dict[str, int]:
        """Passages of questions without a liked one."""
        groups = by_question(passages(rows)).values()
        lost = sum(len(judged) for judged in groups if all(row["label"] == 0 for row in judged))
        return {"passages of questions with no liked one": lost} if lost else {}

    def loss(
        self, policy: Policy, items: Sequence[Liked], settings: EmbedderSettings, step_seed: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        from headrace.training import encoder

        liked = [(item.passage, item.document) for item in items]
        negatives = dict.fromkeys(place for item in items for place in item.negatives)
        shown = [*liked, *(place for place in negatives if place not in liked)]
        counts = [_counts(item, own, shown) for own, item in enumerate(items)]
        questions = encoder.embed(policy.model, [item.question for item in items], exact=settings.exact)
        candidates = encoder.embed(policy.model, [text for text, _ in shown], exact=settings.exact)
        return encoder.contrast(policy.model, questions, candidates, counts, settings.scale)

    def save(self, policy: Policy, folder: Path) -> None:
        from headrace.training.encoder import save

        save(policy.model, folder)


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["passage"], row.get("document_id") or ""


def _counts(item: Liked, own: int, shown: Sequence[tuple[str, str]]) -> list[bool]:
    """Which of the passages shown are in an item's sum: its own, and each negative text once."""
    seen: set[str] = set()
    counts = []
    for at, (text, document) in enumerate(shown):
        counts.append(at == own or (text not in seen and item.told_from(text, document)))
        if counts[-1]:
            seen.add(text)
    return counts
