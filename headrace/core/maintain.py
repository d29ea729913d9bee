"""maintain: every table of the catalog kept small and quick, whoever wrote it.

The stage has every table as a port, so a store that the catalog gains is kept without a line here.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from headrace.catalog import LEDGER, ROUNDS, RUNS, Store, Tier, stores
from headrace.core.run import ended_runs, set_aside
from headrace.core.stage import each, stage
from headrace.errors import LostRace, Transient
from headrace.settings import Maintenance
from headrace.storage.objects import ObjectReader
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter, quoted
from headrace.storage.tables.maintenance import MaintenanceReport


@stage("Merges each table's small files, expires old snapshots no round names, and removes what none names.")
def maintain(
    rounds: Annotated[ObjectReader, ROUNDS],
    tables: Annotated[Mapping[Store, TableWriter], each(stores(Tier.TABLE))],
    settings: Maintenance,
    only_due: bool = False,
) -> list[MaintenanceReport]:
    """Keep every table, or those that are due; return what was done to each that exists.

    A table that cannot be kept now does not keep the others from it: its error is raised once they are done.
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
    """Asks for the snapshots that rounds name: every number that a plan or a manifest holds.

    Each is read once, for none is ever changed. That a number which is no snapshot is among them does no harm.
    """
    numbers: dict[str, set[int]] = {}

    def ask() -> set[int]:
        for info in rounds.list():
            if info.key not in numbers:
                numbers[info.key] = {int(digits) for digits in re.findall(rb"\d+", rounds.get(info.key))}
        return set().union(*numbers.values())

    return ask


_ARCHIVED = "archived"


@dataclass(frozen=True)
class Archived:
    """How many runs went into the tables."""

    runs: int


@stage("Copies ended runs and their ledgers into tables.")
def record(ended: Annotated[TableWriter, RUNS], ledger: Annotated[TableWriter, LEDGER], home: Path) -> Archived:
    """Archive every ended run of this home that the tables do not have yet.

    `ledger` rows are committed first and `runs` last, so a run that the `runs` table names is there whole; a run whose ledger
    went in before a crash is recognised by its id and not written again.
    """
    # Both tables' properties are read before their rows: of two processes that archive at once, one is refused and nothing
    # doubles.
    recorded = (ended.snapshot_property(_ARCHIVED), ledger.snapshot_property(_ARCHIVED))
    new = ended_runs(home)
    if not new:
        return Archived(0)
    newest = {_ARCHIVED: max(j["run"] for j in new) + secrets.token_hex(2)}
    since = f"run >= {quoted(min(j['run'] for j in new))}"
    archived = set(ledger.read(("run",), since)["run"].to_pylist())
    rows = [{"run": j["run"], **row} for j in new if j["run"] not in archived for row in j["rows"]]
    known = set(ended.read(("run",), since)["run"].to_pylist())
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
    try:
        if rows:
            ledger.append(batch(LEDGER.columns, rows), properties=newest, expected={_ARCHIVED: recorded[1]})
        if lines:
            ended.append(batch(RUNS.columns, lines), properties=newest, expected={_ARCHIVED: recorded[0]})
    except LostRace:
        return Archived(0)  # the other process does it, and what it leaves is done next time
    set_aside(home, [j["run"] for j in new])
    return Archived(len(lines))
