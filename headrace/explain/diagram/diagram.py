"""The model of a diagram: stages, flows between stages and stores, and a headline that is true of the run.

It is built from a pipeline's declaration and, if it has run, the run's journal. The declarations of stages determine the arrows,
so the picture of a pipeline keeps its shape from run to run; the ledger gives the amounts. A declared port that moved nothing is
an idle flow. Bytes moved outside the picture are in `beside`, so nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace.catalog import FEEDBACK, KV_CACHE, KV_STORES, Store, Tier
from headrace.errors import Permanent
from headrace.explain.diagram.flow import Flow, FlowKey, Key, Mark, StageBox, StageTime
from headrace.explain.diagram.headline import Headline, Moved, compared_headline, declared_headline, headline_of
from headrace.storage.ledger import Direction

if TYPE_CHECKING:
    from headrace.core.stage import Pipeline

RAY_DATA, RAY_TRAIN = "Ray Data", "Ray Train"
_LIBRARIES = {"batches": RAY_DATA, "launch": RAY_TRAIN}  # by the parameter through which a stage runs its work


@dataclass(frozen=True)
class Diagram:
    """A pipeline and what one run moved through it; without a run (`run_id` is empty) what it declares.

    `storage` names what is behind each tier, `ray` is what Ray used (`None`: the run was without), `counts` what it handled.
    `against` is the run compared with, whose bytes are in the flows and whose times in `times_before`. Every flow must belong to
    one of the stages, with at most one per stage, store and direction, else `ValueError`. A headline that is false for the
    numbers raises `Permanent`.
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
    marks: tuple[Mark, ...] = ()
    storage: Mapping[Tier, str] = field(default_factory=dict)
    times: tuple[StageTime, ...] = ()
    times_before: tuple[StageTime, ...] = ()
    seconds: float = 0.0
    ray: Mapping[str, Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    against: str = ""
    feedback: Key = (Tier.STREAM, FEEDBACK.name)

    @property
    def title(self) -> str:
        """The headline's sentence."""
        return self.headline.text

    @property
    def measured(self) -> bool:
        """Whether it has numbers."""
        return bool(self.run_id)

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

    def compared(self, other: Diagram) -> Diagram:
        """The same with what each flow moved in another run of the pipeline.

        A flow that only the other run has is added, with nothing moved.
        """
        before = {(flow.stage, flow.store, flow.tier, flow.direction): flow.bytes for flow in other.flows}
        mine = {(flow.stage, flow.store, flow.tier, flow.direction) for flow in self.flows}
        flows = [
            *(replace(flow, before=before.get((flow.stage, flow.store, flow.tier, flow.direction), 0)) for flow in self.flows),
            *(Flow(*key, before=size) for key, size in before.items() if key not in mine),
        ]
        headline = compared_headline(self.name, Moved(self.stages, self.flows), sum(before.values()), other.run_id)
        return replace(self, flows=tuple(flows), headline=headline, against=other.run_id, times_before=other.times)


def diagram_for(
    pipeline: Pipeline,
    rows: Iterable[Mapping[str, Any]],
    *,
    run_id: str = "",
    when: datetime | None = None,
    command: str = "",
    journal: Mapping[str, Any] | None = None,
) -> Diagram:
    """The diagram of a pipeline as one run measured it; without a run as it is declared.

    `rows` are ledger rows: stage, store, tier, direction, ops, bytes, p95_ms, estimated; `when` is the run's start, `journal` its
    journal, if there is one. The headline is the first of the pipeline's claims that the rows support. Two kinds of flows are in
    `beside` and not drawn: those of stages and stores outside the pipeline, and reads by a writer of its own table or index.
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
    # The KV cache is in one of its stores: those that moved nothing are not drawn, unless none did.
    used = [store for store in KV_STORES if any(flow.ops and _is_of(flow, store) for flow in summed.values())] or [KV_CACHE]
    unused = [store for store in KV_STORES if store not in used]
    drawn: list[Flow] = []
    beside: list[Flow] = []
    for key, flow in summed.items():
        if not flow.ops and any(_is_of(flow, store) for store in unused):
            continue
        of_writers = flow.tier in (Tier.TABLE, Tier.VECTOR) and flow.direction is Direction.READ and key not in declared
        (beside if of_writers or key[:3] not in shown else drawn).append(flow)
    journal = journal or {}
    times = _times(journal, {stage.name for stage in stages})
    if run_id:
        ran = {flow.stage for flow in drawn if flow.ops} | {time.stage for time in times}
        stages = tuple(replace(stage, ran=stage.name in ran, caption=_outcome(stage.name, journal)) for stage in stages)
        headline = headline_of(pipeline.name, Moved(stages, tuple(drawn)))
    else:
        headline = declared_headline(pipeline.name)
    when = when or datetime.now(UTC)
    return Diagram(
        name=pipeline.name,
        sentence=pipeline.sentence,
        stages=stages,
        flows=tuple(drawn),
        headline=headline,
        run_id=run_id,
        when=when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC),
        command=command,
        beside=tuple(beside),
        marks=tuple(Mark(trigger.store.name, trigger.store.tier, trigger.stage, trigger.when) for trigger in pipeline.triggers),
        storage={Tier(tier): name for tier, name in journal.get("storage", {}).items()},
        times=times,
        seconds=_seconds(journal),
        ray=journal.get("ray"),
        counts=journal.get("counts") or {},
    )


def _is_of(flow: Flow, store: Store) -> bool:
    return (flow.store, flow.tier) == (store.name, store.tier)


def _times(journal: Mapping[str, Any], stages: set[str]) -> tuple[StageTime, ...]:
    """The times of these stages; none in the journals of an older version."""
    return tuple(
        StageTime(
            one["stage"],
            one["calls"],
            one["active_s"],
            one["waited_s"],
            one["storage_s"],
            {Tier(tier): seconds for tier, seconds in one["tiers"].items()},
            # Older journals do not say for how long of a span it was at work.
            tuple((start, end, calls, storage, *(work or [end - start])) for start, end, calls, storage, *work in one["spans"]),
        )
        for one in journal.get("timeline", ())
        if one["stage"] in stages
    )


def _seconds(journal: Mapping[str, Any]) -> float:
    """How long the run took, or has taken by its last entry."""
    if journal.get("ended"):
        return (datetime.fromisoformat(journal["ended"]) - datetime.fromisoformat(journal["started"])).total_seconds()
    return max((end for one in journal.get("timeline", ()) for _, end, *_ in one["spans"]), default=0.0)


def _outcome(stage: str, journal: Mapping[str, Any]) -> str:
    """How a stage that decides has decided, if the journal says so."""
    round_ = journal.get("detail", {}).get("round")
    if stage != "promote" or not isinstance(round_, Mapping) or "promoted" not in round_:
        return ""
    return f"outcome: {'promoted' if round_['promoted'] else 'rejected'}"


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
        library = next((_LIBRARIES[name] for name in stage.inputs if name in _LIBRARIES), "")
        boxes.append(StageBox(stage.name, stage.name[:1].upper() + stage.name[1:], stage.sentence, phase, library))
    declared: dict[FlowKey, None] = {}
    for stage, box in zip(pipeline.stages, boxes, strict=True):
        near = {
            port.store for other in pipeline.stages if other.phase == box.phase and other is not stage for port in other.ports
        }
        for port in stage.ports:
            if stage.phase or not named or port.store in near:
                declared[stage.name, port.store.name, port.store.tier, port.direction] = None
    return tuple(boxes), declared
