"""The embedded embedder and re-ranker on the CPU, as packaged or as released by the training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from headrace.errors import RequestRefused
from headrace.models.cards import RerankerCard
from headrace.models.precision import bf16_matmul, force_fp32
from headrace.models.tokens import MARKS, embedder_weights, tokenizer, uncut

WINDOW = 256
"""The most word pieces that the packaged model was trained on, including `MARKS`."""
BATCH = 32

Vectors = npt.NDArray[np.float32]


def batches(pieces: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of `pieces` in batches of similar length, since a batch costs as much as its longest text."""
    order = sorted(range(len(pieces)), key=lambda position: -len(pieces[position]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


Encode = Callable[[dict[str, torch.Tensor]], torch.Tensor]
"""`input_ids`, `attention_mask` and `token_type_ids` of n texts → (n, width)."""


def _encoder(folder: Path) -> Encode:
    """The encoder in a folder of sentence-transformers' layout.

    A transformer, the mean of its word pieces, linear layers and length 1 are computed here, bit for bit as sentence-transformers
    does; whatever else `modules.json` names is left to that package, whose import takes seconds of each start.
    """
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [str(one["type"]).rpartition(".")[2] for one in listed]
    paths = [folder / one["path"] for one in listed]
    layers = [_linear(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Dense"]
    plain = kinds == ["Transformer", "Pooling", *["Dense"] * len(layers), "Normalize"]
    if not plain or None in layers or not _is_mean(paths[1]):
        return _as_published(folder)
    model = AutoModel.from_pretrained(str(paths[0]), local_files_only=True, dtype=torch.float32).eval()

    def encode(features: dict[str, torch.Tensor]) -> torch.Tensor:
        states = model(**features).last_hidden_state
        mask = features["attention_mask"].unsqueeze(-1).to(states.dtype)
        made = (states * mask).sum(1) / torch.clamp(mask.sum(1), min=1e-9)
        for layer in layers:
            assert layer is not None
            made = layer(made)
        return torch.nn.functional.normalize(made, p=2, dim=1)

    return encode


def _as_published(folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
    return lambda features: model(features)["sentence_embedding"]


def _is_mean(folder: Path) -> bool:
    """Whether the pooling in a folder is the mean, in either of the ways in which it was written over the years."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ways = {name for name, value in config.items() if name.startswith("pooling_mode_") and value}
    return config.get("pooling_mode") == "mean" or ways == {"pooling_mode_mean_tokens"}


def _linear(folder: Path) -> torch.nn.Linear | None:
    """The linear layer in a folder; `None` if it does more than that."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    if not str(config.get("activation_function")).endswith("Identity") or not weights.exists():
        return None
    layer = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    layer.load_state_dict({name.removeprefix("linear."): value for name, value in load_file(weights).items()})
    return layer.eval()


class MiniLM:
    """all-MiniLM-L6-v2 as packaged, or a fine-tuned version of it in `folder`; mean-pooled and normalised to length 1.

    It takes token ids instead of text, so that each text is tokenised once. `width` is the number of dimensions (384 for the
    packaged model), `window` the most word pieces it reads; `exact` keeps it in float32 (`precision.py`).
    """

    def __init__(self, folder: Path | None = None, *, window: int = WINDOW, exact: bool = False) -> None:
        self.window, self._exact = window, exact
        self._tokenizer = uncut(folder) if folder else tokenizer()
        self._model = _encoder(folder or embedder_weights())
        trial = self.embed(self.word_pieces(["a"], "END"))
        if trial.ndim != 2 or not np.isfinite(trial).all():
            raise ValueError("its vectors are not numbers")
        self.width = int(trial.shape[1])

    def word_pieces(self, texts: Sequence[str], truncate: str) -> list[list[int]]:
        """Token ids of each text, including marks, cut to the window at the END or the START. Safe on any thread.

        Raises `RequestRefused` if `truncate` is NONE and a text does not fit.
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
            vectors: Vectors = self._model(features).float().numpy()
        return vectors


@dataclass(frozen=True)
class Scores:
    """Raw logits in the order of the passages, and the number of tokens read."""

    logits: list[float]
    tokens: int


class PairScorer:
    """One version of the re-ranker: scores (question, passage) pairs, one call at a time."""

    def __init__(self, card: RerankerCard, folder: Path, *, exact: bool = False) -> None:
        from sentence_transformers import CrossEncoder  # for seconds, and for who has a re-ranker only

        self._most, self._exact = card.max_tokens, exact
        self._model = CrossEncoder(str(folder), num_labels=1, max_length=self._most, device="cpu", local_files_only=True)
        self._model.eval()
        force_fp32(self._model.model.classifier)
        self.score("", [""])  # fails now if the files are not a working model

    def score(self, question: str, passages: Sequence[str], *, cut: bool = True) -> Scores:
        """Score each passage for the question. `cut` cuts pairs that are too long; without it they raise `RequestRefused`."""
        pairs = [(question, passage) for passage in passages]
        lengths = [len(ids) for ids in self._model.tokenizer(pairs, truncation=False, verbose=False)["input_ids"]]
        if not cut and max(lengths) > self._most:
            longest = lengths.index(max(lengths))
            raise RequestRefused(
                f"Passage {longest} and the question have {lengths[longest]} tokens, the model reads {self._most}.",
                hint='Shorten it or send "truncate": "END".',
            )
        with bf16_matmul(exact=self._exact):
            logits = self._model.predict(
                pairs, batch_size=32, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_numpy=True
            )
        return Scores([float(logit) for logit in logits], sum(min(length, self._most) for length in lengths))
