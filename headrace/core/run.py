"""A run: one execution of a pipeline or part of it, with its ledger, journaled under the home while it goes on.

The journal is one JSON file per run, rewritten whole about once a second (temp file, fsync, rename). A process that dies leaves
its last journal; the next command marks it `died`. `maintain.py` copies ended journals into the `runs` and `ledger` tables.
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
from typing import Any

from headrace.errors import HeadraceError, NotFound, StorageFull
from headrace.process import began, lives
from headrace.storage.ledger import Ledger

_FLUSH_S = 1.0


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
                    "pid": os.getpid(),
                    "process_started": began(os.getpid()),
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
            if journal["state"] == "running" and not lives(journal["pid"], journal["process_started"]):
                write_atomically(path, json.dumps({**journal, "state": "died"}).encode())
