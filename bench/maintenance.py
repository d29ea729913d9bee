"""maintenance: a table that gets a commit a second, with time running twenty times as fast.

There are twenty commits a second, if the machine can, and every time in the settings is a twentieth of its default. Figures are
given for simulated hours. `HEADRACE_BENCH_SECONDS` sets how long it runs.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileType

from headrace.catalog import FEEDBACK_ROWS
from headrace.platform import open_platform
from headrace.settings import Maintenance, Settings
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter
from headrace.storage.tables.iceberg.table import IcebergTable

_ROWS = 20  # a commit
_FASTER = 20


def measure() -> dict[str, Any]:
    """Bound: fewer live files than `every` plus `merge` per size class, and objects that stop growing after the grace time."""
    seconds = float(os.environ.get("HEADRACE_BENCH_SECONDS", "300"))
    with (
        tempfile.TemporaryDirectory() as folder,
        open_platform(Settings.load(home=Path(folder)), parts=frozenset({"objects"})) as endpoints,
    ):
        landed, kept = Ledger(), Ledger()
        table = TableWriter(FEEDBACK_ROWS, endpoints, Meter(landed, "land"))
        keeper = TableWriter(FEEDBACK_ROWS, endpoints, Meter(kept, "maintenance"))
        real = Maintenance()
        rules = real.model_copy(
            update={name: getattr(real, name) / _FASTER for name in ("keep_s", "grace_s", "history_s", "history_step_s")}
        )
        commits: list[float] = []
        upkeeps: list[float] = []
        samples: list[dict[str, float]] = []
        number = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or not samples:
            time.sleep(max(0.0, number / _FASTER - elapsed))
            commits.append(_commit(table, number))
            number += 1
            if keeper.due(rules):
                began = time.perf_counter()
                keeper.maintain(rules)
                upkeeps.append(time.perf_counter() - began)
                hours = round((time.perf_counter() - started) * _FASTER / 3600, 2)
                samples.append({"hours": hours, "commits": number, **_counted(table)})
        rows, properties = table.count(), table.snapshot_property("offsets")
        offsets = table.read(("offset",))["offset"].to_pylist()
        tenth = max(1, len(commits) // 10)
        return {
            "commits": number,
            "hours": round(elapsed * _FASTER / 3600, 2),
            "commits_a_simulated_second": round(number / elapsed / _FASTER, 2),
            "rows": rows,
            "each_row_once": sorted(offsets) == list(range(number * _ROWS)) and properties == number * _ROWS,
            "commit_ms_first_tenth": round(statistics.median(commits[:tenth]) * 1e3, 1),
            "commit_ms_last_tenth": round(statistics.median(commits[-tenth:]) * 1e3, 1),
            "upkeeps": len(upkeeps),
            "maintenance_s_median": round(statistics.median(upkeeps), 2),
            "maintenance_s_max": round(max(upkeeps), 2),
            "landed_bytes": sum(line.bytes for line in landed.rows() if line.direction == "write"),
            "maintenance_written_bytes": sum(line.bytes for line in kept.rows() if line.direction == "write"),
            "most": {name: max(sample[name] for sample in samples) for name in samples[0] if name not in ("hours", "commits")},
            "samples": samples[:: max(1, len(samples) // 20)],
        }


def _commit(table: TableWriter, number: int) -> float:
    first = number * _ROWS
    rows = batch(FEEDBACK_ROWS.columns, [_row(first + n) for n in range(_ROWS)])
    started = time.perf_counter()
    table.append(rows, properties={"offsets": first + _ROWS}, expected={"offsets": first or None})
    return time.perf_counter() - started


def _counted(table: TableWriter) -> dict[str, int]:
    assert isinstance(table.format, IcebergTable)
    loaded = table.format.load()
    assert loaded is not None
    scheme, host, root = loaded.io.parse_location(loaded.location())  # type: ignore[attr-defined]
    infos = loaded.io.fs_by_scheme(scheme, host).get_file_info(FileSelector(root, recursive=True))  # type: ignore[attr-defined]
    objects = {info.path: info.size for info in infos if info.type == FileType.File}
    metadata = [size for path, size in objects.items() if path.endswith(".metadata.json")]
    return {
        "files": len(list(loaded.scan().plan_files())),
        "snapshots": len(loaded.metadata.snapshots),
        "metadata_files": len(metadata),
        "metadata_file_bytes": max(metadata),
        "objects": len(objects),
        "object_bytes": sum(objects.values()),
    }


def _row(number: int) -> dict[str, Any]:
    return {
        "verdict_id": f"verdict-{number:012d}",
        "answer_id": f"answer-{number // 3:012d}",
        "tenant": "acme",
        "user": f"user-{number % 50}",
        "simulated": True,
        "up": number % 3 == 0,
        "chunk_id": f"{number * 2654435761 % 2**48:012x}",
        "reason": "it said what the manual says" if number % 3 == 0 else "that is another pump",
        "correction": "",
        "at": datetime.now(UTC),
        "topic": "feedback",
        "partition": 0,
        "offset": number,
    }
