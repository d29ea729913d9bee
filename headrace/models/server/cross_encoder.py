"""The embedded re-ranker: a cross-encoder that the training loop released, on this machine's processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

from headrace.errors import RequestRefused
from headrace.models.precision import bf16_matmul, force_fp32
from headrace.models.server.release import RerankerCard


@dataclass(frozen=True)
class Scores:
    """Raw logits in the order of the passages, and the tokens read."""

    logits: list[float]
    tokens: int


class PairScorer:
    """One version: scores (question, passage) pairs, one call at a time."""

    def __init__(self, card: RerankerCard, folder: Path, *, exact: bool = False) -> None:
        self._most, self._exact = card.max_tokens, exact
        self._model = CrossEncoder(str(folder), num_labels=1, max_length=self._most, device="cpu", local_files_only=True)
        self._model.eval()
        force_fp32(self._model.model.classifier)
        self.score("", [""])  # files that make no working model are found out now

    def score(self, question: str, passages: Sequence[str], *, cut: bool = True) -> Scores:
        """Score each passage for the question. `cut` shortens over-long pairs at their end; else they raise `RequestRefused`."""
        pairs = [(question, passage) for passage in passages]
        lengths = [len(ids) for ids in self._model.tokenizer(pairs, truncation=False, verbose=False)["input_ids"]]
        if not cut and max(lengths) > self._most:
            place = lengths.index(max(lengths))
            raise RequestRefused(
                f"Passage {place} and the question have {lengths[place]} tokens, the model reads {self._most}.",
                hint='Shorten it or send "truncate": "END".',
            )
        with bf16_matmul(exact=self._exact):
            logits = self._model.predict(
                pairs, batch_size=32, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_numpy=True
            )
        return Scores([float(logit) for logit in logits], sum(min(length, self._most) for length in lengths))
