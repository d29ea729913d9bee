"""Workloads of the vector tier: LanceDB where the index is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.catalog import DIMENSIONS
from headrace.check.vectors import VectorsSandbox
from headrace.check.workloads.workload import Effort, Timed, Workload, drive, workload

_ROWS = 20_000
_TAKEN = 60  # rows that a search compares exactly: 20 passages, three candidates each
_ROW_BYTES = DIMENSIONS * 4


@workload("vectors, write")
def write(sandbox: VectorsSandbox, effort: Effort) -> Timed:
    """A whole table of vectors."""
    rows = 2_000 if effort.quick else _ROWS

    def run(number: int) -> int:
        sandbox.write(rows)
        return rows * _ROW_BYTES

    return drive(run, Effort(effort.seconds, 1), f"{rows:,} vectors of {DIMENSIONS} × 4 B an operation")


@workload("vectors, scan")
def scan(sandbox: VectorsSandbox, effort: Effort) -> Timed:
    """Searches without an index: each reads every vector."""
    query, rows = np.ones(DIMENSIONS, dtype=np.float32), int(sandbox.table().count_rows())
    tables: dict[int, Any] = {}

    def search(number: int) -> int:
        tables.pop(number).search(query).limit(20).select(["id", "_distance"]).to_arrow()
        return rows * _ROW_BYTES

    shape = f"exact searches of {rows:,} vectors, nothing cached here"
    return drive(search, effort, shape, before=lambda number: tables.__setitem__(number, sandbox.table()))


@workload("vectors, take")
def take(sandbox: VectorsSandbox, effort: Effort) -> Timed:
    """Rows at random places: what a search over an index reads to compare its candidates exactly."""
    table = sandbox.table()
    rows, dice = int(table.count_rows()), np.random.default_rng(13)
    table.take_offsets([0]).select(["embedding"]).to_arrow()  # reads the table's own metadata
    places = [sorted(dice.choice(rows, _TAKEN, replace=False).tolist()) for _ in range(997)]

    def run(number: int) -> int:
        found = table.take_offsets(places[number % len(places)]).select(["embedding"]).to_arrow()
        return int(found.num_rows) * _ROW_BYTES

    return drive(run, effort, f"{_TAKEN} vectors at random places an operation", least=2 * effort.concurrency)


WORKLOADS: Sequence[Workload[VectorsSandbox]] = (write, scan, take)
