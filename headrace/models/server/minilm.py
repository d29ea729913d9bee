"""The embedded embedder: all-MiniLM-L6-v2 on this machine's processor, as it is packaged or as the training loop released it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from headrace.errors import RequestRefused
from headrace.models.precision import bf16_matmul
from headrace.models.tokens import MARKS, embedder_weights, tokenizer, uncut

WINDOW = 256
"""Word pieces the packaged model was trained to read, `MARKS` included."""
BATCH = 32

Vectors = npt.NDArray[np.float32]


def batches(pieces: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of `pieces` in batches of like length, since a batch costs what its longest text costs."""
    order = sorted(range(len(pieces)), key=lambda position: -len(pieces[position]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


class MiniLM:
    """all-MiniLM-L6-v2 or what became of it: mean-pooled and normalised to length 1; the packaged one unless `folder` is given.

    Takes token ids instead of text, so that each text is tokenised once for its count, its cut and its vector. `width` is the
    number of dimensions (384 of the packaged one), `window` the word pieces it reads; `exact` keeps it from `precision.py`.
    """

    def __init__(self, folder: Path | None = None, *, window: int = WINDOW, exact: bool = False) -> None:
        self.window, self._exact = window, exact
        self._tokenizer = uncut(folder) if folder else tokenizer()
        self._model = SentenceTransformer(str(folder or embedder_weights()), device="cpu", local_files_only=True).eval()
        trial = self.embed(self.word_pieces(["a"], "END"))
        if trial.ndim != 2 or not np.isfinite(trial).all():
            raise ValueError("its vectors are not numbers")
        self.width = int(trial.shape[1])

    def word_pieces(self, texts: Sequence[str], truncate: str) -> list[list[int]]:
        """Token ids of each text, marks included, cut to the window at the END or the START. Safe on any thread.

        Raises `RequestRefused` where `truncate` is NONE and a text does not fit.
        """
        cut: list[list[int]] = []
        for index, encoded in enumerate(self._tokenizer.encode_batch_fast(list(texts))):
            ids = encoded.ids
            if len(ids) > self.window:
                if truncate == "NONE":
                    raise RequestRefused(
                        f"Input {index} has {len(ids)} tokens, the model reads {self.window}.",
                        hint='Shorten it or send "truncate": "END".',
                    )
                own, room = ids[1:-1], self.window - MARKS
                ids = [ids[0], *(own[-room:] if truncate == "START" else own[:room]), ids[-1]]
            cut.append(ids)
        return cut

    @torch.inference_mode()
    def embed(self, pieces: Sequence[Sequence[int]]) -> Vectors:
        """One batch: token ids of n texts → float32 (n, width)."""
        longest = max(map(len, pieces))
        ids = torch.zeros((len(pieces), longest), dtype=torch.long)  # 0 is [PAD]
        mask = torch.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = torch.tensor(piece)
            mask[row, : len(piece)] = 1
        features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with bf16_matmul(exact=self._exact):
            vectors: Vectors = self._model(features)["sentence_embedding"].float().numpy()
        return vectors
