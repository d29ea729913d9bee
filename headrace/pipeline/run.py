"""A run: one execution of a pipeline or part of it, with its ledger, journaled under the home while it goes on.

The journal is one JSON file per run, rewritten whole about once a second (temp file, fsync, rename). A process that dies leaves
its last journal; the next command marks it `died`. `archive` copies ended journals into the `runs` and `ledger` tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psutil

from headrace.catalog import LEDGER, RUNS
from headrace.errors import HeadraceError, LostRace, NotFound, StorageFull
from headrace.pipeline.stage import stage
from headrace.storage.ledger import Ledger
from headrace.storage.records import batch
from headrace.storage.tables import TableWriter

_FLUSH_S = 1.0
_ARCHIVED = "archived"


@dataclass
class Run:
    """One execution: `ledger` counts what it moves, `detail` keeps what it found out (JSON-ready)."""

    command: str
    folder: Path
    id: str = ""
    state: str = "running"
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if not self.id:
            self.id = f"{self.started:%Y%m%d-%H%M%S}-{self.command}-{secrets.token_hex(2)}"

    def journal(self) -> None:
        """Write the journal now."""
        me = psutil.Process()
        write_atomically(
            self.folder / f"{self.id}.json",
            json.dumps(
                {
                    "run": self.id,
                    "command": self.command,
                    "state": self.state,
                    "started": self.started.isoformat(),
                    "ended": self.ended.isoformat() if self.ended else None,
                    "detail": self.detail,
                    "pid": me.pid,
                    "process_started": me.create_time(),
                    "archived": False,
                    "rows": [row.as_dict() for row in self.ledger.rows()],
                    # Percentiles cannot be added, histograms can.
                    "ledger": self.ledger.export(),
                }
            ).encode(),
        )


@contextlib.contextmanager
def recorded(command: str, home: Path) -> Iterator[Run]:
    """Record the block as a run: its journal is kept up to date meanwhile and says at the end how it ended."""
    folder = home / "runs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _mark_dead(folder)
    run = Run(command, folder)
    run.journal()
    keeper = threading.Thread(target=_keep, args=(run,), name="journal", daemon=True)
    keeper.start()
    try:
        yield run
        run.state = "done"
    except BaseException as error:
        run.state = "failed"
        run.detail["error"] = str(error) or type(error).__name__
        raise
    finally:
        run._stop.set()
        keeper.join()
        run.ended = datetime.now(UTC)
        # A full disk must not hide the error that the block raised because of it.
        with contextlib.suppress(OSError, StorageFull):
            run.journal()


def runs(home: Path) -> list[dict[str, Any]]:
    """The journals of this home, oldest first."""
    found = []
    for path in sorted((home / "runs").glob("*.json")):
        with contextlib.suppress(ValueError, OSError):
            found.append(json.loads(path.read_bytes()))
    return sorted(found, key=lambda journal: journal["started"])


def journal_of(home: Path, run: str | None, *, command: str | None = None) -> dict[str, Any]:
    """The journal of a run by id or its unambiguous beginning; the newest (of a command) if none is named.

    Raises `NotFound`.
    """
    all_of_them = [j for j in runs(home) if command is None or j["command"] == command]
    if run is None:
        if not all_of_them:
            raise NotFound("Nothing has run in this home yet.", hint="Try `headrace demo`.")
        return all_of_them[-1]
    matching = [j for j in all_of_them if j["run"] == run] or [j for j in all_of_them if j["run"].startswith(run)]
    if len(matching) != 1:
        raise NotFound(f"{'No run' if not matching else 'More than one run'} is called {run!r}.", hint="See `headrace runs`.")
    return matching[0]


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


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file whole or not at all, and durably. Raises `StorageFull` where the disk is."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise StorageFull(f"No space left to write {path}.", hint="Free some space and run again.") from None
        raise


def _keep(run: Run) -> None:
    while not run._stop.wait(_FLUSH_S):
        with contextlib.suppress(OSError, HeadraceError):
            run.journal()


def _mark_dead(folder: Path) -> None:
    """Mark runs `died` whose process is gone: killed, or the machine went down."""
    for path in folder.glob("*.json"):
        with contextlib.suppress(ValueError, OSError, KeyError):
            journal = json.loads(path.read_bytes())
            if journal["state"] == "running" and not _alive(journal["pid"], journal["process_started"]):
                write_atomically(path, json.dumps({**journal, "state": "died"}).encode())


def _alive(pid: int, started: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 1.0)
    except psutil.NoSuchProcess:
        return False
