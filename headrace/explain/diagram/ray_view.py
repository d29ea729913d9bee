"""The view of Ray: which of its libraries runs each stage, what it spills and where its checkpoints go."""

from __future__ import annotations

from dataclasses import replace

from headrace.catalog import Tier
from headrace.explain.diagram.diagram import RAY_DATA, RAY_TRAIN, Diagram
from headrace.explain.diagram.format import human_bytes
from headrace.storage.ledger import Direction

DRIVER = "driver"


def on_ray(diagram: Diagram) -> Diagram:
    """The diagram with the library that runs a stage as the stage's caption; `driver`: the process that drives the run."""
    stages = tuple(replace(stage, caption=stage.library or DRIVER) for stage in diagram.stages)
    return replace(diagram, stages=stages)


def ray_notes(diagram: Diagram) -> tuple[str, ...]:
    """What Ray keeps and spills, and where checkpoints go."""
    libraries = {stage.library for stage in diagram.stages} - {""}
    notes = []
    ray = diagram.ray
    if diagram.measured and ray is None and libraries:
        notes.append("This run did not use Ray: with --on ray, what is marked runs on it.")
    if ray is not None:
        memory = f"{human_bytes(int(ray['object_store_bytes']))} of shared memory on {_counted(int(ray['nodes']), 'node')}"
        spilled = human_bytes(int(ray["spilled_bytes"]))
        notes.append(f"Ray's object store, {memory}; of Ray Data's results {spilled} were spilled to local disk.")
    if RAY_DATA in libraries:
        notes.append("Ray Data's actors get batches through Ray's object store; only the driver reads and writes storage.")
    if RAY_TRAIN in libraries:
        written = sum(
            flow.bytes
            for flow in diagram.flows
            if flow.tier is Tier.OBJECT and flow.direction is Direction.WRITE and "heckpoints" in flow.store
        )
        moved = f", {human_bytes(written)} in this run" if written else ""
        notes.append(f"Ray Train's worker writes checkpoints to object storage{moved}; nothing is kept in Ray's storage_path.")
    return tuple(notes)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
