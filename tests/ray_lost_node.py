"""Batch work and training for a driver on Ray that loses a node."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

STEPS = 8


class Where:
    """Each batch with the node that it was on; the later ones wait for a file, so that a node is lost while it works."""

    def __init__(self, gate: str) -> None:
        self._gate = Path(gate)

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        import ray

        number = rows["n"][0].as_py()
        while number >= 20 and not self._gate.exists():
            time.sleep(0.02)
        time.sleep(0.02)
        return pa.RecordBatch.from_pylist([{"n": number, "node": ray.get_runtime_context().get_node_id()}])


def learn(notes: str, gate: str, report: Any, peers: Any) -> list[float]:
    """Sum over workers, with a checkpoint after each step, from which it goes on; from step 5 on it waits for a file."""
    import torch

    held = Path(notes)
    step, value = json.loads(held.read_text()) if held.exists() and peers.rank == 0 else (0, 0.0)
    step = peers.first(step)
    vector = torch.tensor([value])
    while step < STEPS:
        while step >= 4 and not Path(gate).exists():
            time.sleep(0.02)
        part = torch.tensor([float((step + 1) * (peers.rank + 1))])
        peers.sum(part)
        vector += part
        step += 1
        if peers.rank == 0:
            beside = held.with_suffix(".new")
            beside.write_text(json.dumps([step, float(vector)]))
            beside.replace(held)
        report(step, STEPS, 0.0)
    return [float(vector)]
