"""Language models as sizing sees them: how many parameters they have, and what their attention keeps of each token.

The presets are facts from public `config.json` files; `from_config` reads another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import WrongUsage
from headrace.regular_file import read_regular

TYPE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}
"""Bytes of one number by its type; scales of block formats are left out."""


class LanguageModel(BaseModel):
    """A model's size and attention layout.

    Attention keeps a key and a value per layer and `kv_heads` head of `head_dim` numbers: as many heads as queries have (MHA),
    fewer (GQA) or one (MQA). With latent attention (MLA) it keeps `latent_dim` numbers per layer instead. `windowed_layers` of
    the layers keep only the last `window` tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: float = Field(gt=0)
    active_parameters: float = Field(default=0, ge=0)
    """Those that one token uses; fewer in a mixture of experts. 0: all."""
    layers: int = Field(gt=0)
    heads: int = Field(default=0, ge=0)
    """Query heads; only names the layout."""
    kv_heads: int = Field(default=0, ge=0)
    head_dim: int = Field(default=0, ge=0)
    latent_dim: int = Field(default=0, ge=0)
    windowed_layers: int = Field(default=0, ge=0)
    window: int = Field(default=0, ge=0)
    source: str = ""

    @model_validator(mode="after")
    def _complete(self) -> LanguageModel:
        if not self.latent_dim and not (self.kv_heads and self.head_dim):
            raise ValueError("a model needs kv_heads and head_dim, or latent_dim")
        if self.windowed_layers > self.layers or (self.windowed_layers and not self.window):
            raise ValueError("windowed_layers must be at most layers, and needs a window")
        if self.active_parameters > self.parameters:
            raise ValueError("active_parameters must be at most parameters")
        return self

    @property
    def layout(self) -> str:
        """The attention layout's usual abbreviation."""
        if self.latent_dim:
            return "MLA"
        if self.kv_heads == 1:
            return "MQA"
        return "MHA" if self.kv_heads == self.heads else "GQA"

    @property
    def per_layer(self) -> int:
        """Numbers that one layer keeps of one token."""
        return self.latent_dim or 2 * self.kv_heads * self.head_dim

    @property
    def active(self) -> float:
        """Parameters that one token uses."""
        return self.active_parameters or self.parameters


_HUB = "huggingface.co/{}/blob/main/config.json"


def _model(name: str, repository: str, **facts: Any) -> LanguageModel:
    return LanguageModel(name=name, source=_HUB.format(repository), **facts)


PRESETS: dict[str, LanguageModel] = {
    model.name: model
    for model in (
        _model(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            parameters=134_515_008,
            layers=30,
            heads=9,
            kv_heads=3,
            head_dim=64,
        ),
        _model("falcon-7b", "tiiuae/falcon-7b", parameters=6_921_720_704, layers=32, heads=71, kv_heads=1, head_dim=64),
        _model(
            "llama-2-7b", "meta-llama/Llama-2-7b-hf", parameters=6_738_415_616, layers=32, heads=32, kv_heads=32, head_dim=128
        ),
        _model(
            "mistral-7b", "mistralai/Mistral-7B-v0.3", parameters=7_248_023_552, layers=32, heads=32, kv_heads=8, head_dim=128
        ),
        _model(
            "llama-3.1-8b", "meta-llama/Llama-3.1-8B", parameters=8_030_261_248, layers=32, heads=32, kv_heads=8, head_dim=128
        ),
        _model(
            "llama-3.1-70b", "meta-llama/Llama-3.1-70B", parameters=70_553_706_496, layers=80, heads=64, kv_heads=8, head_dim=128
        ),
        _model(
            "llama-3.1-405b",
            "meta-llama/Llama-3.1-405B",
            parameters=405_853_388_800,
            layers=126,
            heads=128,
            kv_heads=8,
            head_dim=128,
        ),
        _model("qwen3-8b", "Qwen/Qwen3-8B", parameters=8_190_735_360, layers=36, heads=32, kv_heads=8, head_dim=128),
        _model("qwen3-32b", "Qwen/Qwen3-32B", parameters=32_762_123_264, layers=64, heads=64, kv_heads=8, head_dim=128),
        _model(
            "deepseek-r1",
            "deepseek-ai/DeepSeek-R1",
            parameters=671_026_419_200,
            active_parameters=37e9,
            layers=61,
            latent_dim=512 + 64,  # kv_lora_rank and qk_rope_head_dim
        ),
        _model(
            "gpt-oss-20b",
            "openai/gpt-oss-20b",
            parameters=20.9e9,
            active_parameters=3.6e9,
            layers=24,
            heads=64,
            kv_heads=8,
            head_dim=64,
            windowed_layers=12,
            window=128,
        ),
        _model(
            "gpt-oss-120b",
            "openai/gpt-oss-120b",
            parameters=116.8e9,
            active_parameters=5.1e9,
            layers=36,
            heads=64,
            kv_heads=8,
            head_dim=64,
            windowed_layers=18,
            window=128,
        ),
        LanguageModel(
            name="mlperf-1t",  # not a released model: the shapes of MLPerf Storage's largest checkpoint
            parameters=1_183_035_102_480,
            layers=128,
            heads=192,
            kv_heads=32,
            head_dim=134,
            source="MLCommons Storage, configs/dlio/workload/llama3_1t.yaml",
        ),
    )
}


_MOST = 1e18  # of any number in a config


def model_of(name: str) -> LanguageModel:
    """A preset, or the model that a `config.json` file describes. Raises `WrongUsage` for neither."""
    if (preset := PRESETS.get(name.lower())) is not None:
        return preset
    if not name.endswith(".json"):
        raise WrongUsage(
            f"There is no model {name!r}.", hint=f"Choose from {', '.join(PRESETS)}; or name a model's config.json file."
        )
    path = Path(name)
    try:
        config = json.loads(read_regular(path).decode())
    except OSError as error:
        raise WrongUsage(f"{name} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise WrongUsage(
            f"{name} is not a JSON document.", hint="Name the config.json of a model on the Hugging Face Hub."
        ) from None
    if not isinstance(config, dict):
        raise WrongUsage(f"{name} is not a model's config.json: it holds no JSON object.")
    return from_config(str(config.get("_name_or_path") or path.parent.name or path.stem), config, source=path.name)


def from_config(name: str, config: Mapping[str, Any], *, source: str = "") -> LanguageModel:
    """The model that a config of the `transformers` library describes. Raises `WrongUsage` where a key is missing.

    Parameters are counted for gated feed-forward layers, each expert its own, as in Llama, Qwen and Mixtral; a `parameters` key
    overrides the count. Biases and norms of heads are left out: less than 0.1 %.
    """
    hint = "Give the model's own config.json."
    for key, kind, what in (("text_config", Mapping, "an object"), ("layer_types", list, "a list")):
        if config.get(key) and not isinstance(config[key], kind):
            raise WrongUsage(f"{source or name}: {key!r} is not {what}.", hint=hint)
    config = {**config, **(config.get("text_config") or {})}

    def number(key: str, default: float | None = None) -> int:
        value = config.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
            raise WrongUsage(f"{source or name} has no usable {key!r}: {value!r:.100}.", hint=hint)
        return int(value)

    layers, hidden, heads = number("num_hidden_layers"), number("hidden_size"), number("num_attention_heads")
    if not heads:
        raise WrongUsage(f"{source or name} has no attention heads.")
    head_dim = number("head_dim", hidden // heads)
    kv_heads = 1 if config.get("multi_query") else number("num_key_value_heads", heads)
    latent = number("kv_lora_rank", 0) + number("qk_rope_head_dim", 0) if config.get("kv_lora_rank") else 0
    kinds = config.get("layer_types") or []
    windowed = sum(kind == "sliding_attention" for kind in kinds)
    feed = number("moe_intermediate_size", 0) or number("intermediate_size", 4 * hidden)
    experts = max(1, number("num_local_experts", 0) or number("num_experts", 0) or number("n_routed_experts", 0))
    chosen = number("num_experts_per_tok", 0) or experts
    embeddings = number("vocab_size", 0) * hidden * (1 if config.get("tie_word_embeddings") else 2)
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim

    def parameters(in_use: int) -> int:
        return embeddings + hidden + layers * (attention + 3 * hidden * feed * in_use + 2 * hidden)

    counted = number("parameters", parameters(experts))
    try:
        return LanguageModel(
            name=name,
            heads=heads,
            parameters=counted,
            active_parameters=min(counted, parameters(chosen)),
            layers=layers,
            kv_heads=0 if latent else kv_heads,
            head_dim=0 if latent else head_dim,
            latent_dim=latent,
            windowed_layers=windowed,
            window=number("sliding_window", 0) if windowed else 0,
            source=source,
        )
    except ValidationError as error:
        raise WrongUsage(f"{source or name} does not describe a language model: {error.errors()[0]['msg']}.") from None
