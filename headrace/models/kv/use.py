"""What the KV cache did: figures by tenant and model version, counted in a model server and summed in the metadata store."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.storage.metadata import Metadata

Figures = dict[tuple[str, str], dict[str, float]]
"""(tenant, model version) → figures by name."""

DECISION = "decision"
"""Figures `decision:ACTION:YES|NO:REASON` count decisions to load or store."""
DAMAGED = "damaged"
"""Figures `damaged:REASON` count blocks that were not used and were removed."""

FIGURES = {
    "answers": "Prompts that were computed with the cache",
    "prompt_tokens": "Tokens of their prompts",
    "restored_tokens": "Tokens whose keys and values were restored",
    "waiting_tokens": "Those of them that were still waiting to be stored",
    "prefill_tokens": "Tokens that were computed",
    "prefill_s": "Seconds that computing them took",
    "read_bytes": "Bytes of blocks that were restored",
    "read_s": "Seconds that restoring them took",
    "vain_s": "Seconds of lookups for prompts of which nothing was found",
    "misses": "Lookups of a block that is not there",
    "miss_s": "Seconds of these lookups",
    "written_tokens": "Tokens whose keys and values were stored",
    "written_bytes": "Bytes of blocks that were stored",
    "write_s": "Seconds behind the answers that storing took",
    "canary_same": "Restored prefixes that were recomputed and are the same",
    "canary_different": "Restored prefixes that were recomputed and differ",
    "canary_skipped": "Restored prefixes that were not recomputed since another one was",
    "canary_s": "Seconds in the background that recomputing took",
}
"""What the other figures count."""


class KvCounts:
    """Counts figures; thread-safe. `flush` adds what is new to the metadata store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._every: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self._new: defaultdict[tuple[str, str, str], float] = defaultdict(float)

    def of(self, tenant: str, model: str) -> UseCounter:
        """The counter of a tenant's prompts to one model version."""
        return UseCounter(self, tenant, model)

    def add(self, tenant: str, model: str, figures: Mapping[str, float]) -> None:
        """Add to figures."""
        with self._lock:
            for name, value in figures.items():
                self._every[tenant, model, name] += value
                self._new[tenant, model, name] += value

    def flush(self, metadata: Metadata) -> None:
        """Add what was counted since the last time to the store. What cannot be written now is written the next time."""
        with self._lock:
            new, self._new = self._new, defaultdict(float)
        rows = [
            {"tenant": tenant, "model": model, "name": name, "value": float(value)}
            for (tenant, model, name), value in new.items()
            if value
        ]
        if not rows:
            return
        try:
            with metadata.transaction(writing=True) as run:
                run.many(
                    "INSERT INTO kv_use (tenant, model, name, value) VALUES (:tenant, :model, :name, :value)"
                    " ON CONFLICT (tenant, model, name) DO UPDATE SET value = kv_use.value + excluded.value",
                    rows,
                )
        except BaseException:
            with self._lock:
                for key, value in new.items():
                    self._new[key] += value
            raise

    def by_model(self) -> dict[str, dict[str, float]]:
        """Model version → figures of this process, of all tenants."""
        found: dict[str, dict[str, float]] = {}
        with self._lock:
            for (_, model, name), value in self._every.items():
                own = found.setdefault(model, {})
                own[name] = own.get(name, 0.0) + value
        return found


@dataclass(frozen=True)
class UseCounter:
    """Counts for one tenant and model version."""

    use: KvCounts
    tenant: str
    model: str

    def add(self, **figures: float) -> None:
        """Add to figures by name."""
        self.use.add(self.tenant, self.model, figures)

    def decided(self, action: str, yes: bool, reason: str) -> None:
        """Count a decision."""
        self.use.add(self.tenant, self.model, {f"{DECISION}:{action}:{'yes' if yes else 'no'}:{reason}": 1})

    def damaged(self, reason: str) -> None:
        """Count a block that was not used."""
        self.use.add(self.tenant, self.model, {f"{DAMAGED}:{reason}": 1})


def recorded_use(metadata: Metadata) -> Figures:
    """All figures that servers have flushed."""
    with metadata.transaction() as run:
        rows = run("SELECT tenant, model, name, value FROM kv_use ORDER BY tenant, model, name", {})
    found: Figures = {}
    for tenant, model, name, value in rows:
        found.setdefault((tenant, model), {})[name] = float(value)
    return found
