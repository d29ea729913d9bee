"""archive: what ran, and what it moved, from the journals under the home into the tables `runs` and `ledger`."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from headrace.catalog import LEDGER, RUNS
from headrace.core.run import runs, write_atomically
from headrace.core.stage import stage
from headrace.errors import LostRace
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter

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
    # Both tables' marks are read before their rows: of two processes that archive at once, one is refused and nothing doubles.
    standing = (ended.mark(_ARCHIVED), ledger.mark(_ARCHIVED))
    new = [j for j in runs(home) if j["state"] != "running" and not j.get("archived")]
    if not new:
        return Archived(0)
    newest = {_ARCHIVED: max(j["run"] for j in new) + secrets.token_hex(2)}
    held = set(ledger.read(("run",))["run"].to_pylist())
    rows = [{"run": j["run"], **row} for j in new if j["run"] not in held for row in j["rows"]]
    known = set(ended.read(("run",))["run"].to_pylist())
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
            ledger.append(batch(LEDGER.columns, rows), marks=newest, expected={_ARCHIVED: standing[1]})
        if lines:
            ended.append(batch(RUNS.columns, lines), marks=newest, expected={_ARCHIVED: standing[0]})
    except LostRace:
        return Archived(0)  # the other process does it, and what it leaves is done next time
    for j in new:
        write_atomically(home / "runs" / f"{j['run']}.json", json.dumps({**j, "archived": True}).encode())
    return Archived(len(new))
