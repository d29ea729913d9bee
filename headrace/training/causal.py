"""The generator in training: a causal model with a LoRA adapter. Imports torch: import it late.

A prompt is read in one forward pass for all its answers: its keys and values are kept with their gradients and shared, so a
group of answers costs little more than one.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

from headrace.models.prompt import STOP, ends
from headrace.models.server import generator
from headrace.models.tokens import MODELS_CACHE
from headrace.training.recipe import Policy

transformers_logging.disable_progress_bar()
# PEFT uses an old name of transformers; users cannot change that.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")

Forward = Callable[..., Any]
"""A model's forward pass: the model itself, or `Frozen`."""


class Frozen:
    """The reference model: the same base with the adapter's weights at the time of construction, without gradients.

    It copies a few million weights instead of the whole model. Checkpoints do not need it, since it is made again from the same
    parent.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._model, self._weights, args, kwargs)


@dataclass(frozen=True)
class Prefix:
    """A prompt after its forward pass: keys and values by layer (1, heads, tokens, width), and the logits of the next token."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    logits: torch.Tensor
    tokens: int


def base(folder: Path | None) -> tuple[Any, Any, str]:
    """The untrained model in float32, its tokenizer and its version: those of a Hugging Face folder, or of the package.

    Raises `MissingPart` if the package is not installed.
    """
    if folder is None:
        cache = os.environ.get(MODELS_CACHE)
        return generator.packaged(Path(cache) if cache else None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), folder.name


def fresh(folder: Path | None, parent: Path | None, *, rank: int, alpha: int, mlp: bool, seed: int) -> Policy:
    """The base with the adapter of `parent`, or with a new one, which changes nothing until it is trained (Hu et al. 2021).

    LoRA, arXiv:2106.09685: W x + (alpha / rank) · B A x with B = 0 at first. A parent's adapter keeps its rank and its layers.
    `extra` has the frozen model (`reference`), the token that ends an answer (`end`) and all tokens that may (`ends`).
    """
    model, tokenizer, version = base(folder)
    torch.manual_seed(seed)
    if parent is not None:
        adapted = PeftModel.from_pretrained(model, str(parent), is_trainable=True)
    else:
        form = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,  # randomness must come from the trainer's generator alone
            target_modules=[*_ATTENTION, *(_MLP if mlp else ())],
        )
        adapted = get_peft_model(model, form)
    # Do not publish the folder it was loaded from.
    adapted.peft_config["default"].base_model_name_or_path = version
    extra = {"reference": Frozen(adapted), "end": model.config.eos_token_id, "ends": ends(model, tokenizer)}
    return Policy(adapted, tokenizer, extra)


def save(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT does: `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    # peft writes a set in any order; the same training must give the same bytes.
    path = folder / "adapter_config.json"
    form = json.loads(path.read_text())
    form["target_modules"] = sorted(form["target_modules"])
    path.write_text(json.dumps(form, indent=2, sort_keys=True) + "\n")


def merged(folder: Path | None, adapter: Path | None) -> tuple[Any, Any]:
    """The base with an adapter merged into its weights, for inference, and its tokenizer."""
    model, tokenizer, _ = base(folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval(), tokenizer


def encode_prefix(forward: Forward, prompt: Sequence[int]) -> Prefix:
    """Read a prompt of token ids."""
    output = forward(input_ids=torch.tensor([list(prompt)]), use_cache=True, logits_to_keep=1)
    layers = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
    return Prefix(layers, output.logits[0, -1], len(prompt))


def logprobs(
    forward: Forward, prompt: Sequence[int], completions: Sequence[Sequence[int]], *, temperature: float = 1.0
) -> list[torch.Tensor]:
    """Log-probabilities (natural) of each token of each completion after a prompt, with gradients.

    One tensor (tokens,) per completion, under softmax(logits / temperature).
    """
    if len(completions) > 1:
        return logprobs_after(forward, encode_prefix(forward, prompt), completions, temperature=temperature)
    [only] = completions  # in one pass, which is a tenth quicker than two
    ids = torch.tensor([[*prompt, *only[:-1]]])
    logits = forward(input_ids=ids, use_cache=False, logits_to_keep=len(only)).logits
    return [_chosen(logits[0], torch.tensor(list(only)), temperature)]


def logprobs_after(
    forward: Forward, prefix: Prefix, completions: Sequence[Sequence[int]], *, temperature: float = 1.0
) -> list[torch.Tensor]:
    """As `logprobs`, after a prompt that was read already."""
    longest = max(map(len, completions))
    # Padded on the right: no token attends to later ones, so this needs no mask.
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in completions])
    logits = prefix.logits.expand(len(completions), 1, -1)
    if longest > 1:
        past = _cache([prefix] * len(completions))
        later = forward(input_ids=ids[:, :-1], past_key_values=past, use_cache=True).logits
        logits = torch.cat([logits, later], dim=1)
    return [_chosen(logits[i], ids[i], temperature)[: len(one)] for i, one in enumerate(completions)]


def _chosen(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens[:, None])[:, 0]


@torch.no_grad()
def sample(
    forward: Forward,
    prefixes: Sequence[Prefix],
    tokenizer: Any,
    end: set[int],
    *,
    most_tokens: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """An answer to each prompt, as token ids. It ends as in serving, with an end token or a text of `STOP`, both included.

    Temperature 0 takes the most likely token; otherwise tokens are drawn with torch's global generator.
    """
    lengths = torch.tensor([prefix.tokens for prefix in prefixes])
    past = _cache(prefixes)
    mask = None
    if len(set(lengths.tolist())) > 1:
        mask = (torch.arange(int(lengths.max())) >= (lengths.max() - lengths)[:, None]).long()
    logits = torch.stack([prefix.logits for prefix in prefixes])
    answers: list[list[int]] = [[] for _ in prefixes]
    under_way = set(range(len(prefixes)))
    for place in range(most_tokens):
        if temperature > 0:
            tokens = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)
        else:
            tokens = logits.argmax(dim=-1, keepdim=True)
        for row in sorted(under_way):
            answers[row].append(int(tokens[row]))
            if answers[row][-1] in end or any(stop in tokenizer.decode(answers[row]) for stop in STOP):
                under_way.discard(row)
        if not under_way or place == most_tokens - 1:
            break
        more = {}
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            more = {"attention_mask": mask, "position_ids": (lengths + place)[:, None]}
        logits = forward(input_ids=tokens, past_key_values=past, use_cache=True, **more).logits[:, -1]
    return answers


@torch.inference_mode()
def greedy(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most_tokens: int) -> list[tuple[str, int]]:
    """The greedy answer to each prompt: its text, and its number of tokens without the end token."""
    end = ends(model, tokenizer)
    completions = sample(model, [encode_prefix(model, prompt) for prompt in prompts], tokenizer, end, most_tokens=most_tokens)
    return [(text(tokenizer, one), len(one) - (one[-1] in end)) for one in completions]


def text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of an answer's tokens, without its end."""
    decoded: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return decoded[: min((place for stop in STOP if (place := decoded.find(stop)) >= 0), default=len(decoded))].strip()


def _cache(prefixes: Sequence[Prefix]) -> DynamicCache:
    """Keys and values of several prompts in one batch, padded on the left, where a mask hides the padding."""
    first = prefixes[0]
    if all(prefix is first for prefix in prefixes):
        return DynamicCache([(k.expand(len(prefixes), -1, -1, -1), v.expand(len(prefixes), -1, -1, -1)) for k, v in first.layers])
    longest = max(prefix.tokens for prefix in prefixes)
    pads = [(0, 0, longest - prefix.tokens, 0) for prefix in prefixes]
    return DynamicCache(
        [
            tuple(
                torch.cat(
                    [torch.nn.functional.pad(prefix.layers[layer][side], pad) for prefix, pad in zip(prefixes, pads, strict=True)]
                )
                for side in (0, 1)
            )
            for layer in range(len(first.layers))
        ]
    )
