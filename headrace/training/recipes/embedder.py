"""The embedder: MiniLM, contrastively, from verdicts on passages and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from headrace.training.data.dataset import by_question, passages
from headrace.training.names import EMBEDDER
from headrace.training.recipe import GradientRecipe, GradientSettings, Policy

if TYPE_CHECKING:
    import torch


class EmbedderSettings(GradientSettings):
    """The embedder's settings."""

    max_tokens: int = Field(ge=16, le=256)
    """Word pieces of a question or passage while training; longer ones are cut."""
    negatives: int = Field(ge=0)
    """Disliked passages beside a liked one, those that retrieval ranked highest first: the hard ones."""
    exact: bool
    """Whether all is float32; else matrices are multiplied in bfloat16 where the processor does that itself."""
    scale: float = Field(gt=0)
    """By which cosines are multiplied before they are compared: 1 / temperature."""
    least_similarity: float = Field(default=0.30, ge=-1, le=1)
    """Cosine of a question's best passage below which answering declines; a round takes it from `inference.least_similarity`."""


@dataclass(frozen=True)
class Liked:
    """A question with a passage that was liked and the hardest that were not.

    `document` is the liked passage's, `negatives` are texts with their documents. `right` has the texts of all that were liked
    for the question, `wrong` of all that were not.
    """

    question: str
    passage: str
    document: str
    negatives: tuple[tuple[str, str], ...]
    right: frozenset[str]
    wrong: frozenset[str]

    def told_from(self, text: str, document: str) -> bool:
        """Whether a passage that the batch has counts as one that does not answer the question."""
        return text in self.wrong or (text not in self.right and (document == "" or document != self.document))


class EmbedderRecipe(GradientRecipe):
    """In-batch softmax: a question's liked passage among the disliked ones and all that the batch has for other questions.

    The loss is sentence-transformers' MultipleNegativesRankingLoss (van den Oord, Li, Vinyals 2018, "Representation Learning with
    Contrastive Predictive Coding", eq. 4): the mean over questions of −log( exp s⁺ / Σ exp s ), s = scale · cosine. Left out of a
    question's sum is what may well answer it, although nobody said so: a text that was liked for it, and what the batch has for
    others from the liked passage's own document.
    """

    name = "embedder"
    model = EMBEDDER
    about = "Fine-tunes the embedder contrastively on liked and disliked passages; the index is built anew with it."
    settings_type = EmbedderSettings

    def fresh(self, parent: Path | None, settings: EmbedderSettings, seed: int) -> Policy:
        from headrace.training import encoder

        return Policy(encoder.trainable(parent, settings.max_tokens), None)

    def items(self, rows: Sequence[Mapping[str, Any]], settings: EmbedderSettings) -> list[Liked]:
        """One for each liked passage; a question without any teaches nothing."""
        pairs = []
        for (question, _), judged in by_question(passages(rows)).items():
            liked = [row for row in judged if row["label"] > 0]
            right = frozenset(row["passage"] for row in liked)
            # The same text may stand in two documents, of which one was liked.
            disliked = dict.fromkeys(_place(row) for row in judged if row["label"] == 0 and row["passage"] not in right)
            hardest, wrong = tuple(disliked)[: settings.negatives], frozenset(text for text, _ in disliked)
            pairs += [Liked(question, *place, hardest, right, wrong) for place in dict.fromkeys(map(_place, liked))]
        return pairs

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: EmbedderSettings) -> dict[str, int]:
        """Passages of questions for which none was liked."""
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
    """Which of the passages shown are in an item's sum: its own, and each text once of those it is to be told from."""
    seen: set[str] = set()
    counts = []
    for at, (text, document) in enumerate(shown):
        counts.append(at == own or (text not in seen and item.told_from(text, document)))
        if counts[-1]:
            seen.add(text)
    return counts
