"""The embedder in training: MiniLM as a sentence encoder. Imports torch: import it late."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim
from transformers.utils import logging as transformers_logging

from headrace.models.precision import bf16_matmul
from headrace.models.server.encoders import WINDOW
from headrace.models.tokens import embedder_weights

transformers_logging.disable_progress_bar()


def trainable(folder: Path | None, most_tokens: int) -> SentenceTransformer:
    """The packaged encoder, or one written by `save`, for training; texts are cut to `most_tokens` word pieces.

    Word embeddings are frozen: there are few verdicts and many words, and half of the weights then need no optimizer state.
    """
    model = SentenceTransformer(str(folder or embedder_weights()), device="cpu", local_files_only=True)
    model.max_seq_length = most_tokens
    for parameter in model[0].auto_model.embeddings.parameters():
        parameter.requires_grad = False
    return model


def embed(model: SentenceTransformer, texts: Sequence[str], *, exact: bool) -> torch.Tensor:
    """Embeddings of texts in their order, as one batch, with gradients: float32 (n, dimensions)."""
    with bf16_matmul(exact=exact):
        vectors: torch.Tensor = model(model.preprocess(list(texts)))["sentence_embedding"]
    return vectors.float()


def contrast(
    model: SentenceTransformer, questions: torch.Tensor, shown: torch.Tensor, counts: Sequence[Sequence[bool]], scale: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of n questions over the passages `shown`, the first n of which are their own; and the share ranked first.

    `counts[i][j]` says whether passage j is in question i's sum; its own always is.
    """
    out = ~torch.tensor(counts)
    first: list[float] = []

    def similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        cosines: torch.Tensor = cos_sim(one, other).masked_fill(out, -torch.inf)
        first.extend((cosines.argmax(dim=1) == torch.arange(len(one))).float().tolist())
        return cosines

    ranking = MultipleNegativesRankingLoss(model, scale=scale, similarity_fct=similarity)
    loss: torch.Tensor = ranking.compute_loss_from_embeddings([questions, shown], labels=torch.empty(0))
    return loss, {"first": sum(first) / len(first)}


def save(model: SentenceTransformer, folder: Path) -> None:
    """Write a folder for `SentenceTransformer(folder)`, with the packaged model's window."""
    model.max_seq_length = WINDOW
    model.save_pretrained(str(folder), create_model_card=False)
