"""The model of a diagram: stages, flows between stages and stores, and a headline that is true of the run.

It is built from ledger rows and a pipeline's declaration. The declarations of stages determine the arrows, so the picture of a
pipeline keeps its shape from run to run; the ledger gives the amounts. A declared port that moved nothing is an idle flow. Bytes
moved outside the picture are in `beside`, so nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace.catalog import Tier
from headrace.errors import Permanent
from headrace.explain.diagram.format import human_bytes, percent
from headrace.storage.ledger import Direction

if TYPE_CHECKING:
    from headrace.core.stage import Pipeline


@dataclass(frozen=True)
class StageBox:
    """A stage as drawn. `phase` is empty or names its part of the pipeline."""

    name: str
    label: str
    sentence: str = ""
    phase: str = ""


@dataclass(frozen=True)
class Flow:
    """What one stage read from or wrote to one store during the run, over all tenants.

    `p95_ms` is the slowest of the summed ledger rows, since percentiles cannot be added. `estimated`: the library hides its I/O.
    A flow without operations is idle: declared, not used.
    """

    stage: str
    store: str
    tier: Tier
    direction: Direction
    bytes: int = 0
    ops: int = 0
    p95_ms: float = 0.0
    estimated: bool = False

    @property
    def key(self) -> tuple[Tier, str]:
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
class Moved:
    """The numbers for headlines."""

    stages: tuple[StageBox, ...]
    flows: tuple[Flow, ...]

    def bytes(
        self,
        *,
        tier: Tier | None = None,
        store: str | None = None,
        phase: str | None = None,
        direction: Direction | None = None,
    ) -> int:
        """Bytes of the flows that match every given argument."""
        phases = {stage.name: stage.phase for stage in self.stages}
        return sum(
            flow.bytes
            for flow in self.flows
            if (tier is None or flow.tier is tier)
            and (store is None or flow.store == store)
            and (phase is None or phases[flow.stage] == phase)
            and (direction is None or flow.direction is direction)
        )

    def share(self, part: int) -> float:
        """`part` as a share of all bytes, 0 to 1; 0 if nothing moved."""
        whole = self.bytes()
        return part / whole if whole else 0.0


@dataclass(frozen=True)
class Headline:
    """A sentence about a run, and the predicate on its numbers that makes it true."""

    text: str
    holds: Callable[[Moved], bool]


@dataclass(frozen=True)
class Diagram:
    """A pipeline and what one run moved through it.

    Every flow must belong to one of the stages, with at most one per stage, store and direction, else `ValueError`. A headline
    that is false for the numbers raises `Permanent`.
    """

    name: str
    sentence: str
    stages: tuple[StageBox, ...]
    flows: tuple[Flow, ...]
    headline: Headline
    run_id: str
    when: datetime
    command: str
    beside: tuple[Flow, ...] = ()
    marks: tuple[Mark, ...] = field(default=())

    @property
    def title(self) -> str:
        """The headline's sentence."""
        return self.headline.text

    def __post_init__(self) -> None:
        names = {stage.name for stage in self.stages}
        keys = [(flow.stage, flow.key, flow.direction) for flow in self.flows]
        if len(names) != len(self.stages) or len(set(keys)) != len(keys) or not {key[0] for key in keys} <= names:
            raise ValueError(f"stages or flows of diagram {self.name!r} repeat, or a flow's stage is not among the stages")
        if not self.headline.holds(Moved(self.stages, self.flows)):
            raise Permanent(
                f"The headline {self.headline.text!r} is false for run {self.run_id}.",
                hint="Write one that the run's ledger supports: see `headrace ledger`.",
            )


def diagram_for(pipeline: Pipeline, rows: Iterable[Mapping[str, Any]], *, run_id: str, when: datetime, command: str) -> Diagram:
    """The diagram of a pipeline as one run measured it.

    `rows` are ledger rows: stage, store, tier, direction, ops, bytes, p95_ms, estimated; `when` is the run's start. The headline
    is the first of the pipeline's claims that the rows support. Two kinds of flows are in `beside` and not drawn: those of stages
    and stores outside the pipeline, and reads by a writer of its own table or index.
    """
    stages, declared = _drawn(pipeline)
    shown = {(stage, store, tier) for stage, store, tier, _ in declared}
    summed = {key: Flow(*key) for key in declared}
    for row in rows:
        key = str(row["stage"]), str(row["store"]), Tier(row["tier"]), Direction(row["direction"])
        before = summed.get(key) or Flow(*key)
        summed[key] = Flow(
            *key,
            bytes=before.bytes + int(row["bytes"]),
            ops=before.ops + int(row["ops"]),
            p95_ms=max(before.p95_ms, float(row["p95_ms"])),
            estimated=before.estimated or bool(row["estimated"]),
        )
    drawn: list[Flow] = []
    beside: list[Flow] = []
    for key, flow in summed.items():
        of_writers = flow.tier in (Tier.TABLE, Tier.VECTOR) and flow.direction is Direction.READ and key not in declared
        (beside if of_writers or key[:3] not in shown else drawn).append(flow)
    return Diagram(
        name=pipeline.name,
        sentence=pipeline.sentence,
        stages=stages,
        flows=tuple(drawn),
        headline=headline_of(pipeline.name, Moved(stages, tuple(drawn))),
        run_id=run_id,
        when=when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC),
        command=command,
        beside=tuple(beside),
        marks=tuple(Mark(trigger.store.name, trigger.store.tier, trigger.stage, trigger.when) for trigger in pipeline.triggers),
    )


def _drawn(pipeline: Pipeline) -> tuple[tuple[StageBox, ...], dict[FlowKey, None]]:
    """The stages of a pipeline and the flows they declare.

    A stage without a phase, among stages with one, belongs to another pipeline. It is drawn in the surrounding phase, with only
    the stores that other stages of that phase use.
    """
    phases = [stage.phase for stage in pipeline.stages]
    named = [phase for phase in phases if phase]
    boxes: list[StageBox] = []
    for at, stage in enumerate(pipeline.stages):
        before = [phase for phase in phases[:at] if phase]
        phase = stage.phase or (before[-1] if before else named[0] if named else "")
        boxes.append(StageBox(stage.name, stage.name[:1].upper() + stage.name[1:], stage.sentence, phase))
    declared: dict[FlowKey, None] = {}
    for stage, box in zip(pipeline.stages, boxes, strict=True):
        near = {
            port.store for other in pipeline.stages if other.phase == box.phase and other is not stage for port in other.ports
        }
        for port in stage.ports:
            if stage.phase or not named or port.store in near:
                declared[stage.name, port.store.name, port.store.tier, port.direction] = None
    return tuple(boxes), declared


@dataclass(frozen=True)
class Claim:
    """A candidate headline: when it is true, and its wording."""

    when: Callable[[Moved], bool]
    words: Callable[[Moved], str]

    def headline(self, moved: Moved) -> Headline | None:
        """The headline if these numbers support it; its predicate holds for numbers that give the same sentence."""
        if not self.when(moved):
            return None
        text = self.words(moved)
        return Headline(text, lambda other: self.when(other) and self.words(other) == text)


AHEAD, ASKED = "ahead of time", "at question time"
_TIER_WORDS = {
    Tier.FILE: "files",
    Tier.VECTOR: "the vector index",
    Tier.TABLE: "tables",
    Tier.OBJECT: "object storage",
}


def _store_claim(name: str, store: str, called: str, least: float) -> Claim:
    return Claim(
        lambda moved: moved.share(moved.bytes(store=store)) >= least,
        lambda moved: (
            f"{name} moved {human_bytes(moved.bytes())}; {percent(moved.share(moved.bytes(store=store)))} of it is {called}"
        ),
    )


def _read_again(store: str, called: str) -> Claim:
    def times(moved: Moved) -> float:
        written = moved.bytes(store=store, direction=Direction.WRITE)
        return moved.bytes(store=store, direction=Direction.READ) / written if written else 0.0

    return Claim(
        lambda moved: 2 <= times(moved) < 1000,
        lambda moved: (
            f"{human_bytes(moved.bytes(store=store, direction=Direction.READ))} were read from {called}, "
            f"{times(moved):.{1 if times(moved) < 10 else 0}f} times what was written"
        ),
    )


def _tier_claim(name: str) -> Claim:
    def busiest(moved: Moved) -> tuple[int, Tier]:
        return max(((moved.bytes(tier=tier), tier) for tier in _TIER_WORDS), key=lambda pair: pair[0])

    return Claim(
        lambda moved: moved.share(busiest(moved)[0]) >= 0.5,
        lambda moved: (
            f"{name} moved {human_bytes(moved.bytes())}; {percent(moved.share(busiest(moved)[0]))} of it went through "
            f"{_TIER_WORDS[busiest(moved)[1]]}"
        ),
    )


def _ahead_claim() -> Claim:
    return Claim(
        lambda moved: moved.bytes(phase=AHEAD) >= 3 * moved.bytes(phase=ASKED) > 0,
        lambda moved: (
            f"{human_bytes(moved.bytes(phase=AHEAD))} moved ahead of time, so that questions moved only "
            f"{human_bytes(moved.bytes(phase=ASKED))}"
        ),
    )


def _plain_claim(name: str) -> Claim:
    def words(moved: Moved) -> str:
        if not moved.bytes():
            return f"{name} moved nothing in this run"
        stores = len({flow.key for flow in moved.flows if flow.ops})
        return f"{name} moved {human_bytes(moved.bytes())} through {stores} store{'' if stores == 1 else 's'}"

    return Claim(lambda moved: True, words)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "training": (
        _store_claim("Training", "checkpoints", "checkpoints", 0.4),
        _store_claim("Training", "models", "model weights", 0.4),
        _read_again("datasets", "datasets"),
    ),
    "inference": (
        _store_claim("Inference", "kv-cache", "the KV cache on files", 0.4),
        _ahead_claim(),
        _store_claim("Inference", "models", "the re-ranker's weights", 0.4),
    ),
}


def headline_of(name: str, moved: Moved) -> Headline:
    """The headline of a pipeline: its first claim that the numbers support; the last one always holds."""
    subject = name[:1].upper() + name[1:]
    for claim in (*CLAIMS.get(name, ()), _tier_claim(subject), _plain_claim(subject)):
        headline = claim.headline(moved)
        if headline:
            return headline
    raise AssertionError("the plain claim always holds")
