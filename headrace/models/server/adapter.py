"""Merges a low-rank adapter (LoRA) into its model's weights, so that it costs nothing at inference."""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_PREFIX = "base_model.model."
# Options of PEFT's LoRA beyond the plain sum. Ignoring one would yield a different model.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)


def merged(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A copy of `base` with the adapter of a PEFT folder merged in; weights that the adapter does not change are shared.

    Each adapted weight is W + s·B·A, with s = alpha / r (Hu et al. 2021, arXiv:2106.09685), or alpha / √r for a rank-stabilised
    one (Kalajdzievski 2023, arXiv:2312.03732). `base` is not changed and may answer meanwhile. Raises `ValueError` unless the
    adapter consists of plain linear weights of this model.
    """
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA":
        raise ValueError(f"the adapter is {config.get('peft_type')!r}, not LORA")
    if unknown := [name for name in _UNSUPPORTED if config.get(name)]:
        raise ValueError(f"the adapter uses {', '.join(unknown)}; only plain LoRA of linear weights is served")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    shared = [*base.parameters(), *base.buffers()]
    model = copy.deepcopy(base, {id(tensor): tensor for tensor in shared})
    modules = dict(model.named_modules())
    # A weight used by two modules (often the embedding and the output) cannot be changed in one of them.
    owners: defaultdict[int, int] = defaultdict(int)
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] += 1
    with torch.no_grad():
        for name, (a, b) in _pairs(load_file(folder / "adapter_model.safetensors")).items():
            module = modules.get(name)
            if type(module) is not torch.nn.Linear or owners[id(module.weight)] != 1:
                raise ValueError(f"{name} is not an unshared linear weight of this model")
            weight = module.weight
            if a.shape != (rank, weight.shape[1]) or b.shape != (weight.shape[0], rank):
                raise ValueError(f"the adapter of {name} does not fit: {tuple(a.shape)} and {tuple(b.shape)}")
            new = weight + (b.to(weight.dtype) @ a.to(weight.dtype)) * scale
            if not bool(torch.isfinite(new).all()):
                raise ValueError(f"{name} would not be finite")
            module.weight = torch.nn.Parameter(new, requires_grad=False)
    return model


def _pairs(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The matrices A and B, by the name of their module."""
    halves: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, _, half = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(_PREFIX) or half not in ("lora_A", "lora_B"):
            raise ValueError(f"the adapter holds {key}, which is not part of a plain LoRA")
        halves[name.removeprefix(_PREFIX)][half] = tensor
    if not halves:
        raise ValueError("the adapter is empty")
    if lone := [name for name, half in halves.items() if len(half) != 2]:
        raise ValueError(f"the adapter of {lone[0]} has only one of its two matrices")
    return {name: (half["lora_A"], half["lora_B"]) for name, half in halves.items()}
