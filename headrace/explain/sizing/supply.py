"""What reference architectures tell a builder to supply, by number of GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
