"""What the KV cache did, from the figures that model servers recorded: hit rate, bytes by tier, seconds saved and lost.

Seconds are reckoned at the measured speed of the prefill, by tenant and model version. What lies on the path of answers counts:
restores, and lookups that found nothing. Storing and the canary run behind the answers and are shown beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headrace.core.stage import stage
from headrace.explain.diagram.format import human_bytes
from headrace.explain.kv.replay import KvStorage, replay
from headrace.explain.kv.trace import Trace
from headrace.models.kv.closing import ClosedCache, closed_caches, reopen
from headrace.models.kv.economy import break_even_tokens
from headrace.models.kv.use import DAMAGED, DECISION, Figures, recorded_use
from headrace.storage.metadata import Metadata


@dataclass(frozen=True)
class KvUse:
    """What the KV cache did for the prompts of one tenant to one model version.

    `restored_tokens` were restored, `waiting_tokens` of them from memory, before they were stored. `saved_s` is the prefill that
    they spared, minus the time of the restores; `lost_s` is the time of lookups for prompts of which nothing was found. `None`
    where no prefill was measured. `background_s` went into storing and the canary, behind the answers. `bytes_by_tier` has
    `read` and `write` by tier. `decisions` counts by `ACTION:yes|no:REASON`, `damaged` the blocks that were not used by reason.
    """

    tenant: str
    version: str
    answers: int
    tokens: int
    restored_tokens: int
    waiting_tokens: int
    bytes_by_tier: dict[str, dict[str, int]]
    prefill_rate: float | None
    bandwidth: float | None
    saved_s: float | None
    lost_s: float
    background_s: float
    break_even_tokens: float | None
    """Tokens from which on a restore is faster than a prefill, as measured; `None` if it never is, or nothing was restored."""
    decisions: dict[str, int]
    damaged: dict[str, int]
    canaries: dict[str, int]

    @property
    def hit_rate(self) -> float:
        """Share of the prompts' tokens that were restored."""
        return self.restored_tokens / self.tokens if self.tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys."""
        return {**asdict(self), "hit_rate": self.hit_rate}


@dataclass(frozen=True)
class MemoryAlone:
    """What a prefix cache of `capacity_bytes` in a model server's memory would have restored of the recorded prompts."""

    capacity_bytes: int
    hit_rate: float
    saved_s: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@stage("Reads what model servers recorded of the KV cache.")
def kv_recorded(metadata: Metadata) -> tuple[Figures, list[ClosedCache]]:
    """Figures by tenant and model version, and the caches that are closed."""
    return recorded_use(metadata), [one for one in closed_caches(metadata) if one.closed_at is not None]


@stage("Opens the KV cache of a model again.")
def kv_reopen(metadata: Metadata, model: str) -> None:
    """See `closing.reopen`. Raises `NotFound`."""
    reopen(metadata, model)


def kv_use(figures: Figures) -> list[KvUse]:
    """What the KV cache did, by tenant and model version."""
    return [_use(tenant, model, own) for (tenant, model), own in sorted(figures.items())]


def _use(tenant: str, model: str, figures: Mapping[str, float]) -> KvUse:
    def of(name: str) -> float:
        return figures.get(name, 0.0)

    def counts(prefix: str) -> dict[str, int]:
        return {name.partition(":")[2]: int(value) for name, value in figures.items() if name.startswith(f"{prefix}:")}

    by_tier: dict[str, dict[str, int]] = {}
    for name, value in counts("bytes").items():
        tier, _, direction = name.partition(":")
        by_tier.setdefault(tier, {"read": 0, "write": 0})[direction] = value
    prefill_s = of("prefill_s") / of("prefill_tokens") if of("prefill_tokens") and of("prefill_s") else None
    stored = of("restored_tokens") - of("waiting_tokens")
    break_even = None
    if prefill_s is not None and stored and of("read_s"):
        latency_s = of("miss_s") / of("misses") if of("misses") else 0.0
        break_even = break_even_tokens(1.0, prefill_s=prefill_s, load_s=of("read_s") / stored, latency_s=latency_s)
    return KvUse(
        tenant=tenant,
        version=model,
        answers=int(of("answers")),
        tokens=int(of("prompt_tokens")),
        restored_tokens=int(of("restored_tokens")),
        waiting_tokens=int(of("waiting_tokens")),
        bytes_by_tier=by_tier,
        prefill_rate=None if prefill_s is None else 1 / prefill_s,
        bandwidth=of("read_bytes") / of("read_s") if of("read_s") else None,
        saved_s=None if prefill_s is None else of("restored_tokens") * prefill_s - of("read_s"),
        lost_s=of("vain_s"),
        background_s=of("write_s") + of("canary_s"),
        break_even_tokens=break_even,
        decisions=counts(DECISION),
        damaged=counts(DAMAGED),
        canaries={name: int(of(f"canary_{name}")) for name in ("same", "different", "skipped")},
    )


def memory_alone(trace: Trace, uses: Sequence[KvUse], bytes_per_token: float, capacity_bytes: int) -> MemoryAlone | None:
    """Replay the recorded prompts against a cache in memory that never restarts; `None` where no prefill was measured."""
    tokens = sum(use.tokens for use in uses if use.prefill_rate)
    seconds = sum(use.tokens / use.prefill_rate for use in uses if use.prefill_rate)
    if not tokens:
        return None
    found = replay(trace, KvStorage(bytes_per_token, 1.0, 0.0, tokens / seconds), capacity_bytes=capacity_bytes)
    return MemoryAlone(capacity_bytes, found.token_hit_rate, found.token_hit_rate * seconds)


def worth(uses: Sequence[KvUse], alone: MemoryAlone | None = None) -> str:
    """One sentence: whether the cache has paid, also against one in memory alone."""
    saved = sum(use.saved_s or 0.0 for use in uses)
    lost = sum(use.lost_s for use in uses)
    behind = sum(use.background_s for use in uses)
    if not any(use.restored_tokens for use in uses):
        return f"Not worth it so far: nothing was restored; {lost:.1f} s of answers and {behind:.1f} s behind them were spent."
    balance = saved - lost
    sentence = f"{saved:.1f} s of prefill saved, {lost:.1f} s lost in lookups, {behind:.1f} s spent behind the answers"
    if balance <= 0:
        return f"Not worth it so far: {sentence}."
    if alone is None:
        return f"Worth it: {sentence}."
    memory = f"{human_bytes(alone.capacity_bytes)} of memory alone would have saved {alone.saved_s:.1f} s"
    if balance > alone.saved_s:
        return f"Worth it: {sentence}; {memory}."
    return f"Worth it against none, but not against memory alone: {sentence}; {memory}."
