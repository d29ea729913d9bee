"""The two pipelines, and the choice of the recorded run for a diagram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace.answering.engine import INFERENCE
from headrace.core.run import Run, journal_of, newest_first
from headrace.core.stage import Pipeline
from headrace.errors import NotFound, WrongUsage
from headrace.explain.diagram.diagram import Diagram, diagram_for
from headrace.storage.ledger import Direction
from headrace.training.round import TRAINING

PIPELINES = {pipeline.name: pipeline for pipeline in (INFERENCE, TRAINING)}
_CORE = {
    INFERENCE.name: {("embed", Direction.WRITE), ("retrieve", Direction.READ)},
    TRAINING.name: {("finetune", Direction.READ)},
}
"""What a run must have moved, by stage and direction, to be drawn without being asked for. A verdict alone is not a run of a
pipeline, and neither is a pass over documents that found nothing new: `headrace up` begins with one."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run of a pipeline, by its journal."""

    pipeline: Pipeline
    journal: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.journal["run"])

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows of its ledger."""
        rows: Sequence[Mapping[str, Any]] = self.journal["rows"]
        return rows

    def diagram(self) -> Diagram:
        """The pipeline as this run measured it."""
        return diagram_for(
            self.pipeline,
            self.rows,
            run_id=self.run_id,
            when=datetime.fromisoformat(self.journal["started"]),
            command=f"headrace {self.journal['command']}",
            journal=self.journal,
        )


def diagram_of(home: Path, name: str, *, run: str | None = None, against: str | None = None, live: Run | None = None) -> Diagram:
    """The diagram of a pipeline by `run`, or by its newest run, or as it is declared where it has not run yet.

    `against` is a run to compare it with. Raises as `measured`.
    """
    try:
        diagram = measured(home, name, run=run, live=live).diagram()
    except NotFound:
        if run is not None or against is not None:
            raise
        return diagram_for(PIPELINES[name], ())
    return diagram if against is None else diagram.compared(measured(home, name, run=against).diagram())


def drawn_from(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pipelines whose main work a run with these rows did, so that it is one to draw them from."""
    moved = {(row["stage"], row["direction"]) for row in rows if row["bytes"]}
    return [name for name in PIPELINES if moved & _CORE[name]]


def measured(home: Path, name: str, *, run: str | None = None, live: Run | None = None) -> MeasuredRun:
    """The run from which to draw a pipeline: `run`, or the newest that did its main work (`_CORE`).

    `live` is this process's own run, if it is to be considered. Raises `WrongUsage` for an unknown pipeline, `NotFound` if no run
    matches.
    """
    pipeline = PIPELINES.get(name)
    if pipeline is None:
        raise WrongUsage(f"There is no pipeline {name!r}.", hint=f"Choose from {', '.join(PIPELINES)}.")
    if live is not None:
        now = live.as_dict(by_tenant=False)
        if run == live.id or (run is None and name in drawn_from(now["rows"])):
            return MeasuredRun(pipeline, now)
    if run is not None:
        journal: Mapping[str, Any] | None = journal_of(home, run)
    else:
        past = (one for one in newest_first(home) if live is None or one["run"] != live.id)
        journal = next((one for one in past if name in drawn_from(one["rows"])), None)
    if journal is None:
        first = "Ask something, or run `headrace index PATH`." if pipeline is INFERENCE else "Run `headrace train`."
        raise NotFound(f"The {name} pipeline has not run yet, so there is nothing to draw.", hint=first)
    return MeasuredRun(pipeline, journal)
