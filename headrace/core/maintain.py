"""maintain: maintenance of every table of the catalog. Also archives run journals in tables.

The stage has every table as a port, so a new table in the catalog needs no change here.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from headrace.catalog import LEDGER, ROUNDS, RUNS, Store, Tier, stores
from headrace.core.run import ended_runs, set_aside
from headrace.core.stage import each, stage
from headrace.errors import LostRace, Transient
from headrace.settings import Maintenance
from headrace.storage.objects import ObjectReader
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter, quoted
from headrace.storage.tables.maintenance import MaintenanceReport

_PLAN = ".plan.json"
_REQUESTS = 16  # at a time, where all manifests are read


@stage("Merges each table's small files, expires old snapshots that no round names, and removes orphaned files.")
def maintain(
    rounds: Annotated[ObjectReader, ROUNDS],
    tables: Annotated[Mapping[Store, TableWriter], each(stores(Tier.TABLE))],
    settings: Maintenance,
    only_due: bool = False,
) -> list[MaintenanceReport]:
    """Maintain every table, or only those that are due; returns a report for each existing table.

    A transient error with one table is raised after the others are done.
    """
    retained = retained_snapshots(rounds)
    done: list[MaintenanceReport] = []
    failed: list[Transient] = []
    for table in tables.values():
        try:
            if (not only_due or table.due(settings)) and (kept := table.maintain(settings, retained)) is not None:
                done.append(kept)
        except Transient as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return done


def retained_snapshots(rounds: ObjectReader) -> Callable[[], set[int]]:
    """Returns a function that finds the snapshots named by rounds: all numbers in manifests, and in plans without one.

    Each file is read once, since they never change, some at a time. Numbers that are not snapshots do no harm.
    """
    known: set[str] = set()
    snapshots: set[int] = set()

    def read(key: str) -> set[int]:
        return {int(digits) for digits in re.findall(rb"\d+", rounds.get(key))}

    def ask() -> set[int]:
        keys = {info.key for info in rounds.list()}
        superseded = {key for key in keys if key.endswith(_PLAN) and f"{key.removesuffix(_PLAN)}.json" in keys}
        new = sorted(keys - superseded - known)
        with ThreadPoolExecutor(_REQUESTS) as threads:
            snapshots.update(*threads.map(read, new))
        known.update(new)
        return snapshots

    return ask


_ARCHIVED = "archived"
_AT_ONCE = 500  # runs in one commit, whose journals are in memory together


@dataclass(frozen=True)
class Archived:
    """Number of runs archived."""

    runs: int


@stage("Copies ended runs and their ledgers into tables.")
def record(
    ended: Annotated[TableWriter, RUNS], ledger: Annotated[TableWriter, LEDGER], home: Path, every: bool = True
) -> Archived:
    """Archive every ended run of this home that is not in the tables yet, or without `every` some of the oldest.

    `ledger` rows are committed first and `runs` last, so a run in the `runs` table is complete; a run whose ledger rows were
    written before a crash is recognised by its id and not written again.
    """
    count = 0
    while True:
        # Read both tables' properties before their rows: of two processes that archive at once, one commit then fails, and
        # nothing is duplicated.
        recorded = (ended.snapshot_property(_ARCHIVED), ledger.snapshot_property(_ARCHIVED))
        new = ended_runs(home, _AT_ONCE)
        if not new:
            return Archived(count)
        try:
            count += _archive(ended, ledger, new, recorded)
        except LostRace:
            return Archived(count)  # the other process archives them; the next call archives the rest
        set_aside(home, [j["run"] for j in new])
        if not every:
            return Archived(count)


def _archive(
    ended: TableWriter, ledger: TableWriter, new: Sequence[Mapping[str, Any]], recorded: tuple[str | None, str | None]
) -> int:
    """Copy these journals into the tables, where they are not there yet; returns the number of runs that were not.

    `recorded` are the tables' properties as they were before that. Raises `LostRace`.
    """
    runs = sorted(j["run"] for j in new)
    newest = {_ARCHIVED: runs[-1] + secrets.token_hex(2)}
    among = f"run >= {quoted(runs[0])} AND run <= {quoted(runs[-1])}"
    archived = set(ledger.read(("run",), among)["run"].to_pylist())
    rows = [{"run": j["run"], **row} for j in new if j["run"] not in archived for row in j["rows"]]
    known = set(ended.read(("run",), among)["run"].to_pylist())
    lines = [
        {
            "run": j["run"],
            "command": j["command"],
            "state": j["state"],
            "started": datetime.fromisoformat(j["started"]),
            "ended": datetime.fromisoformat(j["ended"] or j["started"]),
            "detail": json.dumps(j["detail"]),
        }
        for j in new
        if j["run"] not in known
    ]
    if rows:
        ledger.append(batch(LEDGER.columns, rows), properties=newest, expected={_ARCHIVED: recorded[1]})
    if lines:
        ended.append(batch(RUNS.columns, lines), properties=newest, expected={_ARCHIVED: recorded[0]})
    return len(lines)
