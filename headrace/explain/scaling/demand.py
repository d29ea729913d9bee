"""What one unit of work (a document, a question, an event, a step) costs a pipeline, as a run measured it.

Of a stage's time, what its own thread waited for storage, and what only the process that drives the pass does, stays with that
process however many workers there are (`serial_s`); the rest is shared by the workers (`shared_s`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.answering.engine import INFERENCE
from headrace.catalog import CHECKPOINTS, DOCUMENT_EVENT_ROWS, DOCUMENT_EVENTS
from headrace.core.run import journal_of, to_measure_by
from headrace.storage.timeline import AHEAD, ASKED
from headrace.training.round import TRAINING

_RUNS = 50  # runs that are looked at, as for a sizing
_LEAST = 1e-12
_LAND, _FINETUNE = "land", "finetune"
_BATCHED = {stage.name for stage in (*INFERENCE.stages, *TRAINING.stages) if {"batches", "launch"} & set(stage.inputs)}
"""Stages whose declaration lets several workers share them."""
_BATCHED_ON_RAY = frozenset({"parse"})
"""Those of them that only other processes share: threads of this one would not parse any faster."""
_ON_MODELS = frozenset({"embed", "rerank", "generate", _FINETUNE})
"""Stages whose shared time is that of a model, and so a GPU's where there are any."""
_OF_DOCUMENTS = frozenset({DOCUMENT_EVENTS.name, DOCUMENT_EVENT_ROWS.name})

DOCUMENTS, QUESTIONS, EVENTS, STEPS = "documents", "questions", "events", "steps"
UNITS = (DOCUMENTS, QUESTIONS, EVENTS, STEPS)


class UnitTraffic(BaseModel):
    """Operations and bytes of one unit on a store, in one direction."""

    model_config = ConfigDict(frozen=True)

    stage: str
    store: str
    tier: str
    direction: str
    ops: float
    bytes: float
    estimated: bool


class StageDemand(BaseModel):
    """Seconds of one unit in a stage: in the process that drives it, and shared by workers (worker-seconds)."""

    model_config = ConfigDict(frozen=True)

    stage: str
    serial_s: float
    shared_s: float
    on_models: bool


class UnitDemand(BaseModel):
    """What one unit of a pipeline costs, measured on `workers` workers over `sample` units of a run."""

    model_config = ConfigDict(frozen=True)

    unit: str
    run: str
    command: str
    sample: int
    workers: int
    seconds: float
    """Of the run, in which these stages were at work."""
    stages: tuple[StageDemand, ...]
    traffic: tuple[UnitTraffic, ...]
    gradient_bytes: float = 0.0
    """Bytes that each worker of a data-parallel step sends and receives in all, for one copy of the gradients."""

    @property
    def serial_s(self) -> float:
        """Seconds of one unit that more workers do not shorten."""
        return sum(stage.serial_s for stage in self.stages)

    def shared_s(self, *, on_models: bool) -> float:
        """Worker-seconds of one unit in the stages that compute models, or in the others."""
        return sum(stage.shared_s for stage in self.stages if stage.on_models is on_models)

    @property
    def per_s(self) -> float:
        """Units a second that the run did while these stages were at work."""
        return self.sample / max(self.seconds, _LEAST)


def demands(home: Path, run: str | None = None) -> tuple[UnitDemand, ...]:
    """Each unit's demand by the run with the largest sample, of this home's newest; with `run`, by that one.

    Raises `NotFound` for it.
    """
    journals = [journal_of(home, run)] if run else to_measure_by(home, _RUNS)
    found: dict[str, UnitDemand] = {}
    for journal in journals:
        for one in demands_of(journal):
            if one.unit not in found or one.sample > found[one.unit].sample:
                found[one.unit] = one
    return tuple(found[unit] for unit in UNITS if unit in found)


def demands_of(journal: Mapping[str, Any]) -> Iterator[UnitDemand]:
    """What one run measured; a unit that it did not handle, or did not time, is left out."""
    counts = journal.get("counts") or {}
    times = {str(one["stage"]): one for one in journal.get("timeline") or ()}
    if (journal.get("state") or "") == "running" or not times:
        return
    ahead = [name for name, one in times.items() if one.get("phase") == AHEAD]
    asked = [name for name, one in times.items() if one.get("phase") == ASKED]
    documents, questions, events = (int(counts.get(name, 0)) for name in (DOCUMENTS, QUESTIONS, EVENTS))
    # A pass that embedded nothing found the documents indexed, and says nothing of what indexing costs.
    if documents and counts.get("chunks"):
        yield _demand(DOCUMENTS, documents, journal, [*ahead, *({_LAND} & times.keys())], only={_LAND: _OF_DOCUMENTS})
    if questions and asked:
        yield _demand(QUESTIONS, questions, journal, asked, shared=frozenset(asked))
    others = frozenset(row["store"] for row in journal["rows"] if row["stage"] == _LAND) - _OF_DOCUMENTS
    if others and events > documents and _LAND in times:  # those of documents are part of what a document costs
        yield _demand(EVENTS, events - documents, journal, [_LAND], shared=frozenset({_LAND}), only={_LAND: others})
    if (steps := _steps(journal)) is not None:
        yield steps


def _demand(
    unit: str,
    sample: int,
    journal: Mapping[str, Any],
    stages: Sequence[str],
    *,
    shared: frozenset[str] = frozenset(_BATCHED),
    only: Mapping[str, frozenset[str]] | None = None,
) -> UnitDemand:
    """`shared` are the stages that workers share. Of those in `only`, some stores count, and as much of the time."""
    workers = max(1, int(journal.get("workers") or 1))
    chosen = {str(one["stage"]): one for one in journal["timeline"] if one["stage"] in stages}
    within = _within(journal["timeline"])
    if journal.get("ray") is None:
        shared -= _BATCHED_ON_RAY
    made: list[StageDemand] = []
    traffic: list[UnitTraffic] = []
    seconds = 0.0
    for name, time in chosen.items():
        rows = [row for row in journal["rows"] if row["stage"] == name]
        counted = [row for row in rows if only is None or name not in only or row["store"] in only[name]]
        moved = sum(int(row["bytes"]) for row in rows)
        share = sum(int(row["bytes"]) for row in counted) / moved if moved else 1.0
        active = share * max(0.0, float(time["active_s"]) - within.get(name, 0.0))
        waited = min(active, share * float(time["waited_s"]))
        seconds += active
        is_shared = name in shared
        # Questions and landing are whole processes beside each other; batch work has its workers inside one.
        inside = is_shared and name in _BATCHED
        serial = waited if inside else 0.0 if is_shared else active
        spread = (active - serial) * (workers if inside else 1)
        made.append(
            StageDemand(stage=name, serial_s=serial / sample, shared_s=spread / sample, on_models=name in _ON_MODELS),
        )
        traffic += [_traffic(row, sample) for row in counted]
    return UnitDemand(
        unit=unit,
        run=str(journal["run"]),
        command=str(journal["command"]),
        sample=sample,
        workers=workers,
        seconds=seconds,
        stages=tuple(made),
        traffic=tuple(traffic),
    )


def _within(timeline: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each stage in which another stage, begun inside it, was at work: put lands and parses what came before."""
    found: dict[str, float] = {}
    for outer in timeline:
        spans = outer["spans"]
        if len(spans) != int(outer["calls"]):  # joined, with gaps between
            continue
        inner = [
            (max(start, begin), min(end, stop))
            for begin, stop, *_ in spans
            for one in timeline
            if one is not outer
            for start, end, *_ in one["spans"]
            if begin <= start and end <= stop
        ]
        covered, reached = 0.0, 0.0
        for start, end in sorted(inner):
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        if covered:
            found[str(outer["stage"])] = covered
    return found


def _traffic(row: Mapping[str, Any], sample: int) -> UnitTraffic:
    return UnitTraffic(
        stage=str(row["stage"]),
        store=str(row["store"]),
        tier=str(row["tier"]),
        direction=str(row["direction"]),
        ops=int(row["ops"]) / sample,
        bytes=int(row["bytes"]) / sample,
        estimated=bool(row["estimated"]),
    )


def _steps(journal: Mapping[str, Any]) -> UnitDemand | None:
    """A training's steps: the forward and backward passes are shared, the wait for a checkpoint is not."""
    training = ((journal.get("detail") or {}).get("round") or {}).get("training") or {}
    taken, seconds = int(training.get("taken", 0)), float(training.get("seconds", 0.0))
    if not (taken and seconds and int(training.get("parameters", 0))):
        return None
    stalled = min(seconds, float(training.get("stalled_s", 0.0)))
    workers = max(1, int(training.get("workers", 1)))
    step = StageDemand(stage=_FINETUNE, serial_s=stalled / taken, shared_s=(seconds - stalled) * workers / taken, on_models=True)
    rows = [row for row in journal["rows"] if row["stage"] == _FINETUNE and row["store"] == CHECKPOINTS.name]
    return UnitDemand(
        unit=STEPS,
        run=str(journal["run"]),
        command=str(journal["command"]),
        sample=taken,
        workers=workers,
        seconds=seconds,
        stages=(step,),
        traffic=tuple(_traffic(row, taken) for row in rows),
        gradient_bytes=4.0 * int(training["parameters"]),
    )
