"""The cross-encoder: MiniLM with one output, scoring (question, passage) pairs jointly. Imports torch: import it late."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from headrace.models.precision import bf16_matmul, force_fp32
from headrace.models.tokens import embedder_folder, embedder_weights

transformers_logging.set_verbosity_error()  # it reports the new output layer as missing weights
transformers_logging.disable_progress_bar()


def fresh(seed: int) -> tuple[Any, Any]:
    """A cross-encoder on the embedder's weights with a new output layer, and its tokenizer.

    Word embeddings are frozen: there are few verdicts and many words, and half of the weights then need no optimizer state.
    """
    torch.manual_seed(seed)
    path = str(embedder_weights())
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    force_fp32(model.classifier)
    return _words_fixed(model), AutoTokenizer.from_pretrained(path)


def trainable(folder: Path) -> tuple[Any, Any]:
    """A cross-encoder written by `save`, for further training."""
    model, tokenizer = load(folder)
    return _words_fixed(model), tokenizer


def load(folder: Path) -> tuple[Any, Any]:
    """A cross-encoder written by `save`. Raises `OSError` if the folder does not hold one."""
    model = AutoModelForSequenceClassification.from_pretrained(str(folder))
    force_fp32(model.classifier)
    return model.eval(), AutoTokenizer.from_pretrained(str(folder))


def save(model: Any, folder: Path) -> None:
    """Write weights, configuration and tokenizer as a folder that sentence-transformers' CrossEncoder loads."""
    model.save_pretrained(str(folder))
    # A tokenizer saves the arguments of its last call; the packaged one is the same after a resumed training.
    AutoTokenizer.from_pretrained(str(embedder_folder())).save_pretrained(str(folder))


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]], most_tokens: int) -> Any:
    """Pairs as padded tensors; the passage is cut, the question is not."""
    return tokenizer(
        [question for question, _ in pairs],
        [passage for _, passage in pairs],
        padding=True,
        truncation="only_second",
        max_length=most_tokens,
        return_tensors="pt",
    )


def logits(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], most_tokens: int, *, exact: bool) -> torch.Tensor:
    """The raw logit of each (question, passage) pair, as one batch: float32 (n,)."""
    encoded = encode_pairs(tokenizer, pairs, most_tokens)
    with bf16_matmul(exact=exact):
        scores: torch.Tensor = model(**encoded).logits.squeeze(-1)
    return scores


def score(
    model: Any, tokenizer: Any, question: str, passages: Sequence[str], most_tokens: int, *, exact: bool = False
) -> list[float]:
    """Raw logits of a question's passages, in their order."""
    with torch.inference_mode():
        pairs = [(question, passage) for passage in passages]
        return [float(x) for x in logits(model, tokenizer, pairs, most_tokens, exact=exact)]


def _words_fixed(model: Any) -> Any:
    for parameter in model.base_model.embeddings.parameters():
        parameter.requires_grad = False
    return model
