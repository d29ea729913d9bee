"""The formulas of sizing: pure functions of numbers in bytes and seconds, each with its source."""

from __future__ import annotations

import math

from headrace.explain.sizing.models import LanguageModel

SOURCES: dict[str, str] = {
    "kv": "MLCommons Storage, kv_cache_benchmark/kv_cache/models.py: layers × KV heads × head size × 2 × bytes; for latent"
    " attention layers × (kv_lora_rank + qk_rope_head_dim) × bytes",
    "offload": "A user's measurement: 131 KB a token offloaded by LMCache beside 18.9 KB on the GPU in int8"
    " (noonghunna/club-3090, pull request 422)",
    "staging": "vLLM, docs/features/kv_offloading_usage.md: storage tiers are read by way of host memory, which must hold a"
    " prompt's whole chain of blocks",
    "checkpoint": "MLPerf Storage v2 and v3, llama3_*.yaml and DLIO's get_num_parameters: weights in fp16, optimizer in fp32",
    "deepseek": "DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3: master weights in fp32, moments in bf16",
    "young": "J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974",
    "daly": "J. T. Daly, A higher order estimate of the optimum checkpoint interval, FGCS 22(3), 2006, equation 37",
    "availability": "Saxena et al. (NVIDIA), Optimal Checkpoint Interval with Availability as an Objective Function,"
    " arXiv 2410.18124",
    "mttf": "MLPerf Storage: 50,000 h per accelerator. Meta, The Llama 3 Herd of Models, arXiv 2407.21783: 419 unexpected"
    " interruptions in 54 days on 16,384 GPUs, which is 50,700 h per GPU",
    "flops": "Kaplan et al., Scaling Laws for Neural Language Models, arXiv 2001.08361: training takes 6 × parameters operations"
    " a token. H100 SXM: 989 Tflop/s dense in bf16 (NVIDIA data sheet)",
    "faiss": "FAISS wiki, Guidelines to choose an index: bytes per vector of each index type",
    "rabitq": "Gao and Long, RaBitQ, arXiv 2405.12497: one bit a dimension, and two factors a vector",
    "superpod": "NVIDIA DGX SuperPOD with DGX H100, reference architecture RA-11333-001 V11 (2023-09-22), table 6",
    "kafka": "Apache Kafka, replication.factor; Headrace trims its topics once a table holds their events",
    "assumption": "An assumption: replace it by what was measured",
}
"""What a figure stands on, by the name that figures use."""

_RECIPES: dict[str, tuple[float, str, str]] = {
    "mixed-adam": (14.0, "bf16 weights 2, fp32 master weights 4, two fp32 moments 8", "checkpoint"),
    "fp32-adam": (12.0, "fp32 weights 4, two fp32 moments 8", "checkpoint"),
    "fp8-adam": (9.0, "fp8 weights 1, fp32 master weights 4, two bf16 moments 4", "deepseek"),
    "adam-8bit": (8.0, "bf16 weights 2, fp32 master weights 4, two 8-bit moments 2", "assumption"),
    "weights": (2.0, "bf16 weights 2", "checkpoint"),
}
RECIPES = {name: each for name, (each, _, _) in _RECIPES.items()}
"""Bytes of a checkpoint per trained parameter, by precision recipe."""
RECIPE_PARTS = {name: parts for name, (_, parts, _) in _RECIPES.items()}
RECIPE_SOURCES = {name: source for name, (_, _, source) in _RECIPES.items()}


_H100_FLOPS = 989e12
_GIB = "its tool divides by 1,024³ and writes GB"
MLPERF_CHECKPOINTS: dict[str, tuple[str, float, str]] = {
    "llama-3.1-8b": ("105 GB", 105e9, _GIB),
    "llama-3.1-70b": ("912 GB", 912e9, _GIB),
    "llama-3.1-405b": ("5.29 TB", 5.29e12, _GIB),
    "mlperf-1t": ("18 TB", 18e12, "more than its own shapes hold (1.18 trillion parameters × 14 B); its rules do not say why"),
}
"""MLPerf Storage's published checkpoint sizes by model: as written, in bytes, and why they differ from parameters × 14 B."""


def kv_bytes_per_token(model: LanguageModel, type_bytes: float) -> float:
    """Bytes of keys and values that every layer keeps of one token. Source: `SOURCES["kv"]`."""
    return model.layers * model.per_layer * type_bytes


def kv_bytes(model: LanguageModel, tokens: float, type_bytes: float) -> float:
    """Bytes of keys and values of a context of `tokens`; windowed layers keep at most their window."""
    full = (model.layers - model.windowed_layers) * tokens
    windowed = model.windowed_layers * min(tokens, model.window)
    return (full + windowed) * model.per_layer * type_bytes


def prefill_rate(model: LanguageModel) -> float:
    """Tokens a second that one H100 prefills: two operations per active parameter and token, at 40 % of its peak in bf16.

    Sources: `SOURCES["flops"]`; the 40 % are an assumption. The cost of attention, which grows with the prompt, is left out.
    """
    return _H100_FLOPS * 0.4 / (2 * model.active)


def young_interval(save_s: float, mttf_s: float) -> float:
    """Seconds between checkpoints that lose the least time, to first order. Source: `SOURCES["young"]`."""
    return math.sqrt(2 * save_s * mttf_s)


def daly_interval(save_s: float, mttf_s: float) -> float:
    """Seconds of work between checkpoints that lose the least time, to higher order. Source: `SOURCES["daly"]`."""
    if save_s >= 2 * mttf_s:
        return mttf_s
    ratio = save_s / (2 * mttf_s)
    return math.sqrt(2 * save_s * mttf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def availability_interval(save_s: float, mttf_s: float, recovery_s: float) -> float:
    """Seconds between checkpoints of the highest availability. Source: `SOURCES["availability"]`."""
    return save_s + math.sqrt(2 * (mttf_s + recovery_s) * save_s + save_s**2)


def lost_share(interval_s: float, save_s: float, mttf_s: float, recovery_s: float) -> float:
    """Share of the time lost to saving, to work done again (half an interval a failure) and to recovery; above 1: no progress.

    First order, as in Young's derivation.
    """
    return save_s / interval_s + (interval_s / 2 + recovery_s) / mttf_s


def tokens_per_s(model: LanguageModel, tflops: float, utilisation: float) -> float:
    """Training tokens a second of one GPU. Source: `SOURCES["flops"]`."""
    return tflops * 1e12 * utilisation / (6 * model.active)


def index_bytes_per_vector(kind: str, dimensions: int) -> float:
    """Bytes that an index adds to each vector, beside the vector itself.

    ivf_rq: RaBitQ, a bit a dimension, two fp32 factors and an 8-byte row id (`SOURCES["rabitq"]`). ivf_pq: a byte for each 8
    dimensions and the row id. hnsw: 2 × 32 links of 4 bytes (M = 32). flat: nothing. The last three: `SOURCES["faiss"]`.
    """
    return {"ivf_rq": dimensions / 8 + 16, "ivf_pq": dimensions / 8 + 8, "hnsw": 2 * 32 * 4.0, "flat": 0.0}[kind]


def searched_bytes(kind: str, dimensions: int, vectors: float, type_bytes: float, share: float, refined: int) -> float:
    """Bytes of index and vectors that one search reads.

    An IVF search reads the codes of a `share` of the lists and compares `refined` candidates exactly; hnsw visits about as many
    vectors as are refined, times the logarithm of all; flat reads every vector.
    """
    vector = dimensions * type_bytes
    if kind == "flat":
        return vectors * vector
    if kind == "hnsw":
        return refined * max(1.0, math.log2(max(2.0, vectors))) * (vector + index_bytes_per_vector(kind, dimensions))
    return vectors * share * index_bytes_per_vector(kind, dimensions) + refined * vector
