"""The sizing of a platform: what each tier must hold and move, figure by figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.errors import WrongUsage
from headrace.explain.sizing import formulas
from headrace.explain.sizing.events import event_figures
from headrace.explain.sizing.figure import Figure, Role
from headrace.explain.sizing.formulas import SOURCES
from headrace.explain.sizing.inference import document_figures, kv_figures
from headrace.explain.sizing.measured import Measurement
from headrace.explain.sizing.models import PRESETS, TYPE_BYTES, LanguageModel, model_of
from headrace.explain.sizing.parameters import SizingParameters
from headrace.explain.sizing.training import checkpoint_figures, dataset_figures, weight_figures

TIERS = ("stream", "object", "table", "vector", "file")
SCALABLE_UNIT_GPUS = 256  # 32 DGX H100 systems of 8 GPUs
_NODE_GPUS = 8


@dataclass(frozen=True)
class SupplyLevel:
    """A level of NVIDIA's guideline for shared storage, in GB/s: of one node, and of one scalable unit of 256 GPUs."""

    name: str
    meant_for: str
    node_read: float
    node_write: float
    unit_read: float
    unit_write: float

    def read(self, gpus: int) -> float:
        """Bytes a second that it supplies to `gpus` GPUs: what their nodes can take, at most what their units have."""
        return _supplied(gpus, self.node_read, self.unit_read)

    def write(self, gpus: int) -> float:
        """Bytes a second that it takes from `gpus` GPUs."""
        return _supplied(gpus, self.node_write, self.unit_write)


def _supplied(gpus: int, node: float, unit: float) -> float:
    nodes = math.ceil(gpus / _NODE_GPUS)
    return min(nodes * node, unit * max(1.0, gpus / SCALABLE_UNIT_GPUS)) * 1e9


# DGX SuperPOD with DGX H100, RA-11333-001 V11, tables 5 and 6; four units have four times the figures of one, within rounding.
SUPERPOD = (
    SupplyLevel("good", "text; the data set fits in local caches", 4, 2, 15, 7),
    SupplyLevel("better", "compressed images; most data sets fit in local caches", 8, 4, 40, 20),
    SupplyLevel("best", "video, uncompressed images, offline inference, data read once", 40, 20, 125, 62),
)


class TierDemand(BaseModel):
    """What one tier must hold (bytes) and move (bytes a second): always, and at its peak."""

    model_config = ConfigDict(frozen=True)

    tier: str
    capacity: float
    read: float
    write: float
    peak_read: float
    peak_write: float


class SupplyComparison(BaseModel):
    """A reference architecture's level beside the demand on shared storage; above 1 a share says that it falls short."""

    model_config = ConfigDict(frozen=True)

    level: str
    meant_for: str
    read: float
    write: float
    read_share: float
    write_share: float


class Sizing(BaseModel):
    """A sizing, JSON-ready."""

    model_config = ConfigDict(frozen=True)

    parameters: SizingParameters
    model: LanguageModel
    tiers: tuple[TierDemand, ...]
    figures: tuple[Figure, ...]
    supply: tuple[SupplyComparison, ...]
    supply_source: str
    measured: tuple[Measurement, ...] = ()
    sources: dict[str, str]

    def figure(self, name: str) -> Figure:
        """The figure of that name. Raises `KeyError`."""
        return next(figure for figure in self.figures if figure.name == name)


def size(parameters: SizingParameters, measured: Sequence[Measurement] = ()) -> Sizing:
    """The sizing for these parameters; `measured` is passed on.

    Raises `WrongUsage` for an unknown model, and where the parameters contradict each other or are out of all proportion.
    """
    try:
        found = _sized(parameters, measured)
    except (OverflowError, ZeroDivisionError):
        raise _out_of_proportion() from None
    demands = (value for tier in found.tiers for value in (tier.capacity, tier.read, tier.write, tier.peak_read, tier.peak_write))
    if not all(map(math.isfinite, (*demands, *(figure.value for figure in found.figures)))):
        raise _out_of_proportion()
    return found


def _out_of_proportion() -> WrongUsage:
    return WrongUsage(
        "With these parameters the figures are too large, or too small, to compute with.",
        hint="Compare their units: headrace size --list.",
    )


def _sized(parameters: SizingParameters, measured: Sequence[Measurement]) -> Sizing:
    model = model_of(parameters.model)
    figures = [
        *kv_figures(parameters, model),
        *checkpoint_figures(parameters, model),
        *weight_figures(parameters, model),
        *dataset_figures(parameters, model),
        *document_figures(parameters),
        *event_figures(parameters),
    ]
    tiers = tuple(_demand(tier, figures) for tier in TIERS)
    shared = [tier for tier in tiers if tier.tier != "stream"]
    read = max(sum(tier.read for tier in shared), max(tier.peak_read for tier in shared))
    write = max(sum(tier.write for tier in shared), max(tier.peak_write for tier in shared))
    supply = tuple(
        SupplyComparison(
            level=level.name,
            meant_for=level.meant_for,
            read=level.read(parameters.gpus),
            write=level.write(parameters.gpus),
            read_share=read / level.read(parameters.gpus),
            write_share=write / level.write(parameters.gpus),
        )
        for level in SUPERPOD
    )
    used = {source for figure in figures for source in figure.sources} | {"superpod"}
    return Sizing(
        parameters=parameters,
        model=model,
        tiers=tiers,
        figures=tuple(figures),
        supply=supply,
        supply_source="superpod",
        measured=tuple(measured),
        sources={name: text for name, text in SOURCES.items() if name in used},
    )


def _demand(tier: str, figures: Sequence[Figure]) -> TierDemand:
    def total(role: Role) -> float:
        return sum(figure.value for figure in figures if figure.tier == tier and figure.role == role)

    read, write = total("read"), total("write")
    # A peak comes on top of what always moves. Two peaks of one tier (a restart, a load) are not taken to coincide.
    peaks = {
        role: max((figure.value for figure in figures if figure.tier == tier and figure.role == role), default=0.0)
        for role in ("peak_read", "peak_write")
    }
    return TierDemand(
        tier=tier,
        capacity=total("capacity"),
        read=read,
        write=write,
        peak_read=read + peaks["peak_read"],
        peak_write=write + peaks["peak_write"],
    )


def choices() -> dict[str, Any]:
    """Models, precision recipes and parameters that can be chosen, JSON-ready."""
    return {
        "models": [
            {
                **model.model_dump(),
                "layout": model.layout,
                "kv_bytes_per_token": formulas.kv_bytes_per_token(model, TYPE_BYTES["bf16"]),
            }
            for model in PRESETS.values()
        ],
        "recipes": [
            {"name": name, "bytes": each, "parts": formulas.RECIPE_PARTS[name]} for name, each in formulas.RECIPES.items()
        ],
        "parameters": [
            {"name": name, "default": field.default, "description": field.description or ""}
            for name, field in SizingParameters.model_fields.items()
        ],
    }
