"""Generators small enough to work by hand: a random Llama, and one whose next word hangs on the word before it alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH = 32
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]")
WORDS = ("user", "assistant", "Question:", "Answer:", "red", "blue", "green", "which", "colour", "is", "it", "the", "sky", "\n\n")
VOCABULARY = {word: place for place, word in enumerate((*MARKS, *WORDS))}
END = VOCABULARY["<|im_end|>"]
_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)


def ids(text: str) -> tuple[int, ...]:
    """Token ids of words; `.` stands for the end mark."""
    return tuple(END if word == "." else VOCABULARY[word] for word in text.split())


def random_llama(folder: Path, *, seed: int = 3) -> Path:
    """Two layers, 32 wide, weights large enough that it has opinions."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(initializer_range=0.3))
    return _saved(model, folder)


def bigram(folder: Path, likely: Mapping[str, Mapping[str, float]]) -> Path:
    """P(next | word) as given; what is not named is impossible (e^-60), and behind a word that is not named all are alike.

    Attention and feed-forward layers add nothing, word i is the unit vector e_i, which the norm scales by the root of the width,
    and the output layer looks the logarithms up.
    """
    model = LlamaForCausalLM(_config(tie_word_embeddings=False))
    table = torch.zeros(WIDTH, WIDTH)
    for word, following in likely.items():
        row = torch.full((WIDTH,), -60.0)
        for after, share in following.items():
            row[ids(after)[0]] = math.log(share)
        table[ids(word)[0]] = row
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
        model.lm_head.weight.copy_(table.T / math.sqrt(WIDTH))
    return _saved(model, folder)


def row(**given: Any) -> dict[str, Any]:
    """A verdict on a whole answer, as a dataset has it."""
    return {
        "kind": "answer",
        "tenant": "acme",
        "user": "ada",
        "users": ["ada"],
        "question": "which colour is the sky",
        "passages": ["the sky is blue"],
        "label": 1.0,
        "answer": "blue",
        "target": "blue",
        "prompt": None,
        "completion": None,
        "logprobs": None,
        "sampling": None,
        "generator_version": "none",
        "staleness": 0,
        **given,
    }


def _config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=WIDTH,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-8,
        eos_token_id=END,
        bos_token_id=1,
        pad_token_id=0,
        **{"tie_word_embeddings": True, **more},
    )


def _saved(model: LlamaForCausalLM, folder: Path) -> Path:
    model.save_pretrained(folder)
    backend = Tokenizer(WordLevel(dict(VOCABULARY), unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_tokens([AddedToken("\n\n", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        pad_token="<|endoftext|>",
        unk_token="[UNK]",
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
