"""The parts of a diagram: stages, what they moved, when they were at work, and what starts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.catalog import Tier
from headrace.storage.ledger import Direction

Key = tuple[Tier, str]
"""A store: its tier and name."""


@dataclass(frozen=True)
class StageBox:
    """A stage as drawn. `phase` is empty or names its part of the pipeline; `library` is the part of Ray that can run it.

    `caption` is a second line in its box; `ran` is false where the run did not come to it.
    """

    name: str
    label: str
    sentence: str = ""
    phase: str = ""
    library: str = ""
    caption: str = ""
    ran: bool = True


@dataclass(frozen=True)
class Flow:
    """What one stage read from or wrote to one store during the run, over all tenants.

    `p95_ms` is the slowest of the summed ledger rows, since percentiles cannot be added. `estimated`: the library hides its I/O.
    A flow without operations is idle: declared, not used. `before` has the bytes of the run compared with.
    """

    stage: str
    store: str
    tier: Tier
    direction: Direction
    bytes: int = 0
    ops: int = 0
    p95_ms: float = 0.0
    estimated: bool = False
    before: int | None = None

    @property
    def key(self) -> Key:
        """The bar it belongs to: the same store name may exist in several tiers."""
        return self.tier, self.store


FlowKey = tuple[str, str, Tier, Direction]


@dataclass(frozen=True)
class Mark:
    """A trigger: a changed store that starts a stage, and in words when."""

    store: str
    tier: Tier
    stage: str
    text: str


@dataclass(frozen=True)
class StageTime:
    """When a stage was at work, in seconds since the run began, and for how much of that storage was.

    `active_s`: at work. `storage_s`: a storage operation was under way, of that `waited_s` in the stage's own thread; `tiers` has
    `storage_s` by tier. `spans`: start, end, number of calls, seconds with a storage operation under way, and seconds at work,
    which are fewer than it is long where there are gaps between calls.
    """

    stage: str
    calls: int
    active_s: float
    waited_s: float
    storage_s: float
    tiers: Mapping[Tier, float]
    spans: tuple[tuple[float, float, int, float, float], ...]

    @property
    def compute_s(self) -> float:
        """At work without a storage operation under way."""
        return max(0.0, self.active_s - self.storage_s)

    @property
    def beside_s(self) -> float:
        """A storage operation was under way in other threads only, as when a checkpoint is written beside the steps."""
        return max(0.0, min(self.storage_s, self.active_s) - self.waited_s)

    @property
    def start_s(self) -> float:
        """When it began first."""
        return min((start for start, *_ in self.spans), default=0.0)

    @property
    def end_s(self) -> float:
        """When it ended last."""
        return max((end for _, end, *_ in self.spans), default=0.0)
