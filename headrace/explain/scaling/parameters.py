"""The parameters of a prediction, with their defaults and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from headrace.explain.sizing.parameters import checked


class ScalingParameters(BaseModel):
    """What is predicted: so many workers, what they are to carry, and prices. Bytes are decimal."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    workers: int = Field(default=1_000, ge=1, le=1_000_000)
    """Workers of each pipeline, each as fast as one of the measured run: actors, API replicas, training workers."""
    workers_per_node: int = Field(default=8, ge=1, le=10_000)
    """Workers of one node."""
    gpus: int = Field(default=0, ge=0, le=1_000_000)
    """GPUs of all workers, which run the models in their place; 0: the workers run them, as measured."""
    gpu_speed: float = Field(default=1.0, gt=0, le=1e9)
    """How many times as fast as a measured worker one GPU runs the models. Nothing here measures it."""
    platforms: int = Field(default=1, ge=1, le=100_000)
    """Platforms (namespaces) on the same storage; in each, one process drives the passes of indexing and of training."""
    node_network: float = Field(default=12.5e9, gt=0)
    """Bytes a second of one node's network, over which training workers exchange gradients."""

    tenants: int = Field(default=1, ge=1, le=10**9)
    """Tenants."""
    documents: int = Field(default=10_000, ge=0, le=10**12)
    """Documents that each tenant keeps."""
    documents_per_day: float = Field(default=100.0, ge=0)
    """Documents that each tenant puts or changes a day."""
    questions_per_day: float = Field(default=1_000.0, ge=0)
    """Questions that each tenant asks a day."""
    events_per_day: float = Field(default=0.0, ge=0)
    """Other events of each tenant a day."""
    days: float = Field(default=90.0, ge=0)
    """Days that answers and events are kept."""

    worker_hour: float | None = Field(default=None, ge=0)
    """Price of a worker for an hour; unset: cost in worker-hours only."""
    gpu_hour: float | None = Field(default=None, ge=0)
    """Price of a GPU for an hour."""
    tb_month: float | None = Field(default=None, ge=0)
    """Price of keeping a terabyte for a month."""


def scaling_of(values: Mapping[str, Any]) -> ScalingParameters:
    """Parameters from values as a person gives them. Raises `WrongUsage` that names every wrong one."""
    return checked(ScalingParameters, values, hint="headrace simulate --list shows all, with their defaults.")
