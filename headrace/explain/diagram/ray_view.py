"""The view of Ray: which of its libraries runs each stage, what it spills and where its checkpoints go."""

from __future__ import annotations

from dataclasses import replace

from headrace.catalog import RAY_SPILL, RAY_STORAGE, Tier
from headrace.explain.diagram.diagram import RAY_DATA, RAY_TRAIN, Diagram
from headrace.explain.diagram.format import human_bytes
from headrace.explain.diagram.headline import Moved, headline_of
from headrace.storage.ledger import Direction

DRIVER = "driver"
_RAYS_OWN = frozenset({RAY_SPILL.name, RAY_STORAGE.name})


def on_ray(diagram: Diagram) -> Diagram:
    """The diagram with the library that runs a stage as the stage's caption; `driver`: the process that drives the run.

    What Ray itself wrote is drawn too: what it spilled, and what it noted in its storage_path.
    """
    stages = tuple(replace(stage, caption=stage.library or DRIVER) for stage in diagram.stages)
    drawn = {stage.name for stage in stages}
    own = tuple(flow for flow in diagram.beside if flow.store in _RAYS_OWN and flow.stage in drawn)
    if not own or diagram.against:  # what another run's Ray wrote is not known by flow
        return replace(diagram, stages=stages)
    flows = (*diagram.flows, *own)
    beside = tuple(flow for flow in diagram.beside if flow not in own)
    # The totals have grown, so that another claim may be the one that holds.
    return replace(diagram, stages=stages, flows=flows, beside=beside, headline=headline_of(diagram.name, Moved(stages, flows)))


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
        where = ray.get("spill_dir") or "local disk"  # journals of an older version name none
        notes.append(f"Ray's object store, {memory}; of Ray Data's results {spilled} were spilled to {where}.")
    if RAY_DATA in libraries:
        notes.append("Ray Data's actors get batches through Ray's object store; only the driver reads and writes storage.")
    if RAY_TRAIN in libraries:
        written = sum(
            flow.bytes
            for flow in diagram.flows
            if flow.tier is Tier.OBJECT and flow.direction is Direction.WRITE and "heckpoints" in flow.store
        )
        moved = f", {human_bytes(written)} in this run" if written and ray is not None else ""
        path = (ray or {}).get("storage_path")
        kept = f"Ray's storage_path, {path}, has its notes until it ends" if path else "nothing is kept in Ray's storage_path"
        notes.append(f"Ray Train's worker writes checkpoints to object storage{moved}; {kept}.")
    return tuple(notes)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
