"""Workers that share a stage's work."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from headrace.settings.section import Section


class WorkerSettings(Section):
    """Workers that share a stage's work: threads of the command, or processes of Ray with `--on ray`."""

    batches: int = Field(default=2, ge=1, le=10_000)
    """Workers of batch work (embedding, cleaning)."""
    batch_cpus: float = Field(default=0.5, gt=0, le=1024)
    """Processors that a worker of batch work holds on Ray."""
    node_wait_s: float = Field(default=300.0, ge=0)
    """Seconds to wait for another node of Ray where one is lost and the others have no room for the workers."""
    training: int = Field(default=1, ge=1, le=1_000)
    """Workers that train together on Ray, data-parallel."""
    training_cpus: int | None = Field(default=None, ge=1, le=1024)
    """Processors of each training worker, and threads of its sums if there are several; unset: those of this machine, shared by
    the workers."""
    spill_dir: Path | None = None
    """Where a cluster that a command starts spills batches; unset: its temporary directory. A cluster of your own says it to
    `ray start` (`--object-spilling-directory`)."""
    storage_path: Path | None = None
    """Where Ray Train notes how a training goes, while it goes; unset: a temporary directory, which one node can see. On several
    nodes, a directory that all of them have, such as NFS."""
    training_wait_s: float = Field(default=300.0, gt=0)
    """Seconds after which a training worker that does not answer is lost; all then start again from the last checkpoint."""
