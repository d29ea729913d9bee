"""A diagram at slide level: what moves bytes or carries the story, under names that a guest understands.

Internal steps belong to the stage they serve, and stores have titles. Flows below 1 % of the largest that do not carry the story
are gathered, so that the sum of what is drawn and what is gathered stays the ledger's. To draw a new stage or store at slide
level, add it to `STORIES` or `TITLES`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from headrace.catalog import (
    CHECKPOINTS,
    CHUNK_ROWS,
    CHUNKS,
    DATASETS,
    DEAD_LETTERS,
    DOCUMENT_EVENT_ROWS,
    DOCUMENT_EVENTS,
    DOCUMENT_ROWS,
    DOCUMENTS,
    EXAMPLES,
    FEEDBACK,
    FEEDBACK_ROWS,
    INDEXES,
    INTERACTION_ROWS,
    INTERACTIONS,
    KV_CACHE,
    KV_OBJECTS,
    MODELS,
    PROMOTIONS,
    ROUNDS,
    Store,
    Tier,
)
from headrace.explain.diagram.diagram import Diagram
from headrace.explain.diagram.flow import Flow, Key, Mark, StageBox, StageTime
from headrace.storage.ledger import Direction

STAGES, STORES = 9, 12
"""The most that a slide shows."""
SMALL = 0.01
"""Of the largest flow: what is smaller is gathered."""

_R, _W = Direction.READ, Direction.WRITE
Chosen = tuple[str, Tier, str, Direction]
"""A flow by stage, tier, store and direction, under the names of the declaration."""


@dataclass(frozen=True)
class Step:
    """A stage of the slide: its title, the stages it stands for, and those of their flows that are drawn at any size."""

    title: str
    stages: tuple[str, ...]
    flows: tuple[tuple[Store, Direction], ...] = ()


STORIES: dict[str, tuple[Step, ...]] = {
    "inference": (
        Step("Ingest", ("put",), ((DOCUMENTS, _W), (DOCUMENT_EVENTS, _W))),
        Step("Land", ("land",), ((DOCUMENT_EVENTS, _R), (DOCUMENT_EVENT_ROWS, _W))),
        Step("Parse", ("parse",), ((DOCUMENTS, _R), (DOCUMENT_ROWS, _W))),
        Step("Chunk", ("chunk", "serving"), ((DOCUMENT_ROWS, _R), (CHUNK_ROWS, _W))),
        Step("Embed & index", ("embed", "index"), ((CHUNK_ROWS, _R), (CHUNKS, _W))),
        Step("Retrieve", ("retrieve",), ((CHUNKS, _R),)),
        Step("Re-rank", ("rerank",), ((MODELS, _R),)),
        Step("Generate", ("generate",), ((KV_CACHE, _R), (KV_CACHE, _W), (KV_OBJECTS, _R), (KV_OBJECTS, _W))),
        Step("Record", ("answer", "feedback"), ((INTERACTIONS, _W), (FEEDBACK, _W))),
    ),
    "training": (
        Step(
            "Land", ("land",), ((INTERACTIONS, _R), (FEEDBACK, _R), (INTERACTION_ROWS, _W), (FEEDBACK_ROWS, _W))
        ),
        Step(
            "Build dataset",
            ("prepare", "plan", "power"),
            ((INTERACTION_ROWS, _R), (FEEDBACK_ROWS, _R), (EXAMPLES, _W), (DATASETS, _W)),
        ),
        Step("Fine-tune", ("finetune",), ((DATASETS, _R), (CHECKPOINTS, _W))),
        Step("Evaluate", ("evaluate",), ((DATASETS, _R), (CHECKPOINTS, _R))),
        Step("Promote", ("promote",), ((CHECKPOINTS, _R), (MODELS, _W), (ROUNDS, _W))),
    ),
}  # fmt: skip
STEPS: dict[str, tuple[str, ...]] = {step.title: step.stages for story in STORIES.values() for step in story}
"""The stages of each step, by its title, of all pipelines."""
ROUND_STEPS: dict[str, tuple[str, ...]] = {step.title: step.stages for step in STORIES["training"] if step.stages != ("land",)}
"""Those of a training round. Landing is left out, since it lands for both pipelines."""

TITLES: dict[Store, str] = {
    DOCUMENT_EVENTS: "Document events",
    INTERACTIONS: "Answers",
    FEEDBACK: "Verdicts",
    DOCUMENT_EVENT_ROWS: "Event log",
    INTERACTION_ROWS: "Answer log",
    FEEDBACK_ROWS: "Verdict log",
    DEAD_LETTERS: "Unreadable events",
    DOCUMENT_ROWS: "Parsed text",
    CHUNK_ROWS: "Chunks",
    EXAMPLES: "Training examples",
    PROMOTIONS: "Promotion history",
    DOCUMENTS: "Source files",
    DATASETS: "Datasets",
    CHECKPOINTS: "Checkpoints",
    MODELS: "Model weights",
    INDEXES: "Index versions",
    ROUNDS: "Manifests",
    CHUNKS: "Vector index",
    KV_CACHE: "KV cache",
    KV_OBJECTS: "KV cache",
}
_TITLES: dict[Key, str] = {(store.tier, store.name): title for store, title in TITLES.items()}


@dataclass(frozen=True)
class Slide:
    """A diagram at slide level, and the flows that it gathers, under the same names. `spare` can be gathered too if space lacks,
    first the first."""

    diagram: Diagram
    gathered: tuple[Flow, ...]
    spare: tuple[Chosen, ...]


def slide(diagram: Diagram, *, without: Collection[Chosen] = ()) -> Slide:
    """The slide of a diagram. `without` are flows of the slide to gather as well.

    A pipeline without a story keeps its stages; of more than nine those that moved most.
    """
    steps = STORIES.get(diagram.name) or tuple(Step(stage.label, (stage.name,)) for stage in diagram.stages)
    step_of = {name: step.title for step in steps for name in step.stages}
    story = {(step.title, *_titled((store.tier, store.name)), way) for step in steps for store, way in step.flows}
    merged = _merged(diagram.flows, step_of)
    kept = _kept(merged, story, measured=diagram.measured)
    stages = _stages(diagram, steps, kept)
    drawn = {stage.name for stage in stages}
    kept = {key: flow for key, flow in kept.items() if flow.stage in drawn and key not in without}
    kept = _within(kept, story)
    gathered = tuple(flow for key, flow in merged.items() if key not in kept and (flow.ops or _size(flow)))
    return Slide(
        replace(
            diagram,
            stages=stages,
            flows=tuple(kept.values()),
            headline=replace(diagram.headline, holds=lambda moved: True),  # it was checked, on all flows
            marks=_marks(diagram.marks, step_of, kept.values()),
            times=_times(diagram.times, steps),
            times_before=_times(diagram.times_before, steps),
            feedback=_titled(diagram.feedback),
        ),
        gathered,
        tuple(sorted(kept, key=lambda key: (key in story, _size(kept[key])))),
    )


def _titled(key: Key) -> Key:
    return key[0], _TITLES.get(key, key[1])


def _merged(flows: tuple[Flow, ...], step_of: Mapping[str, str]) -> dict[Chosen, Flow]:
    """The flows under the slide's names, summed."""
    merged: dict[Chosen, Flow] = {}
    for flow in flows:
        tier, store = _titled(flow.key)
        key = step_of.get(flow.stage, flow.stage), tier, store, flow.direction
        have = merged.get(key)
        both = None if flow.before is None else flow.before + ((have.before or 0) if have else 0)
        merged[key] = Flow(
            key[0],
            store,
            tier,
            flow.direction,
            flow.bytes + (have.bytes if have else 0),
            flow.ops + (have.ops if have else 0),
            max(flow.p95_ms, have.p95_ms if have else 0.0),
            flow.estimated or bool(have and have.estimated),
            both,
        )
    return merged


def _size(flow: Flow) -> int:
    """What decides whether a flow is drawn: its bytes, or those of the run compared with if they are more."""
    return max(flow.bytes, flow.before or 0)


def _kept(merged: dict[Chosen, Flow], story: set[Chosen], *, measured: bool) -> dict[Chosen, Flow]:
    """What moves bytes or carries the story; nothing that moved nothing, in a run."""
    if not measured:
        return {key: flow for key, flow in merged.items() if key in story or not story}
    size = {key: _size(flow) for key, flow in merged.items()}
    least = SMALL * max(size.values(), default=0)
    return {key: flow for key, flow in merged.items() if size[key] and (size[key] >= least or key in story)}


def _stages(diagram: Diagram, steps: tuple[Step, ...], kept: Mapping[Chosen, Flow]) -> tuple[StageBox, ...]:
    """The stages of the slide, in order, without those that did not run."""
    known = {stage.name: stage for stage in diagram.stages}
    boxes: list[StageBox] = []
    for step in steps:
        parts = [known[name] for name in step.stages if name in known]
        ran = any(part.ran for part in parts)
        if parts and (ran or not diagram.measured):
            library = next((part.library for part in parts if part.library), "")
            caption = next((part.caption for part in parts if part.caption), "")
            boxes.append(StageBox(step.title, step.title, parts[0].sentence, parts[0].phase, library, caption))
    if len(boxes) > STAGES:
        moved = {box.name: sum(flow.bytes for flow in kept.values() if flow.stage == box.name) for box in boxes}
        most = sorted(boxes, key=lambda box: -moved[box.name])[:STAGES]
        boxes = [box for box in boxes if box in most]
    return tuple(boxes)


def _within(kept: dict[Chosen, Flow], story: set[Chosen]) -> dict[Chosen, Flow]:
    """At most `STORES` stores: those that moved least go, the story's last."""
    weights: dict[Key, tuple[bool, int]] = {}
    for key, flow in kept.items():
        carries, moved = weights.get(flow.key, (False, 0))
        weights[flow.key] = carries or key in story, moved + _size(flow)
    most = sorted(weights, key=lambda store: weights[store], reverse=True)[:STORES]
    return {key: flow for key, flow in kept.items() if flow.key in most}


def _marks(marks: tuple[Mark, ...], step_of: Mapping[str, str], flows: Collection[Flow]) -> tuple[Mark, ...]:
    """The triggers of stages that are drawn, on stores that are."""
    named = [(mark, _titled((mark.tier, mark.store)), step_of.get(mark.stage, mark.stage)) for mark in marks]
    drawn = {flow.key for flow in flows}
    return tuple(Mark(key[1], key[0], stage, mark.text) for mark, key, stage in named if key in drawn)


def _times(times: tuple[StageTime, ...], steps: tuple[Step, ...]) -> tuple[StageTime, ...]:
    """The times of the slide's stages. Those of a step follow one another, so their seconds add up."""
    known = {time.stage: time for time in times}
    merged = []
    for step in steps:
        parts = [known[name] for name in step.stages if name in known]
        if not parts:
            continue
        tiers: dict[Tier, float] = {}
        for part in parts:
            for tier, seconds in part.tiers.items():
                tiers[tier] = tiers.get(tier, 0.0) + seconds
        merged.append(
            StageTime(
                step.title,
                parts[0].calls,
                sum(part.active_s for part in parts),
                sum(part.waited_s for part in parts),
                sum(part.storage_s for part in parts),
                tiers,
                tuple(sorted(span for part in parts for span in part.spans)),
            )
        )
    return tuple(merged)
