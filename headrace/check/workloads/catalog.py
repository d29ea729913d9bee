"""Workloads of an Iceberg REST catalog and the object store of its tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from headrace.check.catalog import CatalogSandbox
from headrace.check.workloads.workload import Effort, Timed, Workload, drive, workload

_ROWS = 20_000


@workload("commits")
def commits(sandbox: CatalogSandbox, effort: Effort) -> Timed:
    """Appends of a row, one after another: what each commit costs."""
    table = sandbox.table("commits")

    def run(number: int) -> int:
        table.append(_rows(table.schema().as_arrow(), 1))
        return 0

    return drive(run, Effort(effort.seconds, 1), "commits of one row, one writer", least=2)


@workload("rows, write")
def write(sandbox: CatalogSandbox, effort: Effort) -> Timed:
    """Appends of many rows."""
    table = sandbox.table("rows")
    rows = _rows(table.schema().as_arrow(), 1_000 if effort.quick else _ROWS)

    def run(number: int) -> int:
        table.append(rows)
        return int(rows.nbytes)

    return drive(run, Effort(effort.seconds, 1), f"commits of {rows.num_rows:,} rows, one writer; bytes before compression")


@workload("rows, read")
def read(sandbox: CatalogSandbox, effort: Effort) -> Timed:
    """Whole scans of them."""
    table = sandbox.seen("rows")

    def run(number: int) -> int:
        return int(table.scan().to_arrow().nbytes)

    rows = table.scan().to_arrow().num_rows
    return drive(run, Effort(effort.seconds, 1), f"a scan of {rows:,} rows; bytes before compression")


def _rows(schema: pa.Schema, count: int) -> pa.Table:
    numbers = np.random.default_rng(3).integers(0, 1 << 60, count)
    return pa.table({"writer": pa.array([f"{number:016x}" * 4 for number in numbers]), "number": numbers}).cast(schema)


WORKLOADS: Sequence[Workload[CatalogSandbox]] = (commits, write, read)
