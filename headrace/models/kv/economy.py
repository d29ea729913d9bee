"""Whether a prefix is worth loading or storing: if bytes / bandwidth + latency take less time than prefilling it.

All three are measured as the cache runs: the prefill by the answers' own prefills, bandwidth by the restores (with all that they
take: opening, reading, checking and copying), latency by lookups that find nothing. Before there are figures, it is tried. Where
loading does not pay, every so many prompts load all the same, so that a store that has become faster is noticed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

KvPolicy = Literal["break-even", "always", "never"]
"""When prefixes are loaded and stored."""

PROBE_EVERY = 32
"""Of so many prefixes that are not worth loading, one is loaded all the same."""
_LEAST = 3  # figures of a kind, before they decide
_WEIGHT = 0.2  # of the newest figure


@dataclass(frozen=True)
class KvDecision:
    """Whether to load or store, and why: `policy`, `unmeasured`, `faster`, `slower` or `probe`."""

    yes: bool
    reason: str


class _Average:
    """An exponentially weighted mean of figures."""

    def __init__(self) -> None:
        self.value, self.count = 0.0, 0

    def add(self, value: float) -> None:
        weight = max(_WEIGHT, 1 / (self.count + 1))
        self.value += weight * (value - self.value)
        self.count += 1


class BreakEven:
    """Measures and decides, for one model on one store; thread-safe."""

    def __init__(self, policy: KvPolicy = "break-even") -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._prefill = _Average()  # seconds a token
        self._load = _Average()  # seconds a byte
        self._latency = _Average()  # seconds of a lookup
        self._refused = 0

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Note how long the prefill of so many tokens took."""
        if tokens > 0:
            with self._lock:
                self._prefill.add(seconds / tokens)

    def loaded(self, size: int, seconds: float) -> None:
        """Note how long it took to load so many bytes, latency included."""
        if size > 0:
            with self._lock:
                self._load.add(max(seconds - self._latency.value, 0.0) / size)

    def missed(self, seconds: float) -> None:
        """Note how long a lookup took that found nothing."""
        with self._lock:
            self._latency.add(seconds)

    def decide(self, tokens: int, size: int, *, probes: bool = True) -> KvDecision:
        """Whether a prefix of so many tokens, which takes so many bytes, is worth it; without `probes` none is tried."""
        if self._policy != "break-even":
            return KvDecision(self._policy == "always", "policy")
        with self._lock:
            if min(self._prefill.count, self._load.count) < _LEAST:
                return KvDecision(True, "unmeasured")
            if self._latency.value + size * self._load.value < tokens * self._prefill.value:
                self._refused = 0
                return KvDecision(True, "faster")
            self._refused += probes
            if probes and self._refused % PROBE_EVERY == 0:
                return KvDecision(True, "probe")
            return KvDecision(False, "slower")

    def figures(self) -> dict[str, float]:
        """Prefill in seconds a token, loading in seconds a byte, and latency in seconds; 0 where nothing was measured."""
        with self._lock:
            return {"prefill_s": self._prefill.value, "load_s": self._load.value, "latency_s": self._latency.value}


def break_even_tokens(bytes_per_token: float, *, prefill_s: float, load_s: float, latency_s: float) -> float | None:
    """Tokens from which on loading is faster than prefilling; `None` if it never is. Seconds: of a token, a byte, a lookup."""
    gain = prefill_s - bytes_per_token * load_s
    return latency_s / gain if gain > 0 else None
