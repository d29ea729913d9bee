"""A generator of random weights that is made in a moment, and LoRA adapters made by PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headrace.models.generator import SmolLM
from headrace.models.kv_cache import Shape

SHAPE = Shape(layers=2, heads=2, width=8)
VERSION = "tiny@1"


def llama() -> Any:
    """A Llama of 258 tokens and two layers, whose embedding is its output, too."""
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=258,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=SHAPE.layers,
            num_attention_heads=4,
            num_key_value_heads=SHAPE.heads,
            head_dim=SHAPE.width,
            max_position_embeddings=1024,
            eos_token_id=257,
            tie_word_embeddings=True,
        )
    )


def generator() -> SmolLM:
    """That Llama, reading and writing bytes."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytewise = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return SmolLM(llama(), tokenizer, version=VERSION)


def adapter(base: Any, folder: Path, *, seed: int = 1, spread: float = 0.3, **given: Any) -> Any:
    """Adapt a copy of `base` at random with PEFT, save the adapter to `folder`, and return the model as PEFT has it."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**settings | given))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # PEFT begins with B = 0, which changes nothing
                parameter.normal_(std=spread)
    model.save_pretrained(str(folder))
    return model
