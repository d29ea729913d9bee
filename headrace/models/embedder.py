"""The embedded embedder: all-MiniLM-L6-v2 on this machine's processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from headrace.errors import RequestRefused
from headrace.models.tokens import MARKS, embedder_folder, tokenizer

WINDOW = 256
"""Word pieces the model was trained to read, `MARKS` included."""
BATCH = 32

Vectors = npt.NDArray[np.float32]


def word_pieces(texts: Sequence[str], truncate: str) -> list[list[int]]:
    """Token ids of each text, marks included, cut to the window at the END or the START.

    Raises `RequestRefused` where `truncate` is NONE and a text does not fit.
    """
    cut: list[list[int]] = []
    for index, encoded in enumerate(tokenizer().encode_batch_fast(list(texts))):
        ids = encoded.ids
        if len(ids) > WINDOW:
            if truncate == "NONE":
                raise RequestRefused(
                    f"Input {index} has {len(ids)} tokens, the model reads {WINDOW}.",
                    hint='Shorten it or send "truncate": "END".',
                )
            own, room = ids[1:-1], WINDOW - MARKS
            ids = [ids[0], *(own[-room:] if truncate == "START" else own[:room]), ids[-1]]
        cut.append(ids)
    return cut


def batches(pieces: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of `pieces` in batches of like length, since a batch costs what its longest text costs."""
    order = sorted(range(len(pieces)), key=lambda position: -len(pieces[position]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


class MiniLM:
    """all-MiniLM-L6-v2: 384 dimensions, mean-pooled and normalised to length 1.

    Takes token ids instead of text, so that each text is tokenised once for its count, its cut and its vector.
    """

    def __init__(self) -> None:
        self._model = SentenceTransformer(str(embedder_folder()), device="cpu", local_files_only=True).eval()

    @torch.inference_mode()
    def embed(self, pieces: Sequence[Sequence[int]]) -> Vectors:
        """One batch: token ids of n texts → float32 (n, 384)."""
        width = max(map(len, pieces))
        ids = torch.zeros((len(pieces), width), dtype=torch.long)  # 0 is [PAD]
        mask = torch.zeros_like(ids)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = torch.tensor(piece)
            mask[row, : len(piece)] = 1
        features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        vectors: Vectors = self._model(features)["sentence_embedding"].numpy()
        return vectors
