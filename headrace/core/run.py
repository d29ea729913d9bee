"""A run: one execution of a pipeline or part of it, with its ledger and a journal in the home.

The journal is a JSON file per run, `runs/RUN.json`, rewritten about once a second (temp file, fsync, rename), or less often where
that would take more than a twentieth of a processor. A process that dies leaves its last journal and an empty file in
`runs/running/`, by which the next command finds it and marks it `died`.
`maintain.py` copies ended journals into the tables `runs` and `ledger` and moves them to `runs/archived/`, which keeps the newest
thousand, so a command's reads do not grow with the number of runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headrace.atomic import write_atomically
from headrace.core.rates import total_rates
from headrace.errors import HeadraceError, NotFound, NothingToLearn, StorageFull
from headrace.process import began, lives
from headrace.storage.ledger import Ledger

_FLUSH_S, _FLUSH_SHARE = 1.0, 0.05  # between two writes of a journal, and the share of a processor that they may take
_ARCHIVED = "archived"
_RUNNING = (
    "running"  # an empty file for each run that has not ended, so that a command does not read the journals of those that have
)
_KEPT = 1_000  # archived journals
_LOOKED_AT = 100  # journals, for one that handled something
_OF_MANY = frozenset(
    ("demo", "eval", "index", "land", "loop", "replay", "train", "up")
)  # commands that handle many things at once
_SECOND = len("20261129-065201")  # length of the start time in a run's id


@runtime_checkable
class Counted(Protocol):
    """A stage's result that says how many things the stage handled, by name: documents, chunks, events …"""

    @property
    def counts(self) -> Mapping[str, int]:
        """The numbers to add to the run's."""


@dataclass
class Run:
    """One execution: `ledger` counts what it moves, `detail` holds further results (JSON-ready).

    `counts` says how many things it handled, so that bytes can be divided by them; `index_chunks` is the index's newest size.
    `storage` names the storage behind each tier in a few words, `provenance` says where it is, from which host and with which
    versions it was used. `workers` is how many shared its batch work at once; 0: not known. `ray` says what the cluster had and
    spilled; `None` if the run used none.
    """

    command: str
    folder: Path
    id: str = ""
    state: str = "running"
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    storage: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    workers: int = 0
    ray: dict[str, Any] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not self.id:
            self.id = f"{self.started:%Y%m%d-%H%M%S}-{self.command}-{secrets.token_hex(2)}"

    def count(self, **handled: int) -> None:
        """Add to `counts`; thread-safe."""
        with self._counting:
            self.counts.update(handled)

    def as_dict(self, *, by_tenant: bool = True) -> dict[str, Any]:
        """The run as its journal has it, JSON-ready; not `by_tenant`, with the counts of all of them together."""
        rows = [row.as_dict() for row in self.ledger.each_row(by_tenant=by_tenant)]
        return {**self._parts(), "rows": rows, "ledger": self.ledger.export(by_tenant=by_tenant)}

    def _parts(self) -> dict[str, Any]:
        """The journal but for the two parts that have an entry for each tenant's stages and stores."""
        return {
            "run": self.id,
            "command": self.command,
            "state": self.state,
            "started": self.started.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
            "detail": self.detail,
            "counts": dict(self.counts),
            "storage": self.storage,
            "provenance": self.provenance,
            "workers": self.workers,
            "ray": self.ray,
            "pid": os.getpid(),
            "process_started": began(os.getpid()),
            "timeline": self.ledger.timeline.export(),
        }

    def journal(self) -> None:
        """Write the journal now."""
        write_atomically(self.folder / f"{self.id}.json", self._journal())

    def _journal(self) -> Iterator[bytes]:
        """The journal in pieces: with a thousand tenants it has tens of megabytes, which are never in memory together."""
        yield json.dumps(self._parts())[:-1].encode()
        yield from _as_list("rows", (row.as_dict() for row in self.ledger.each_row()))
        # Unlike percentiles, histograms can be added.
        yield from _as_list("ledger", self.ledger.each_entry())
        yield b"}"


@contextlib.contextmanager
def recorded(command: str, home: Path) -> Iterator[Run]:
    """Record the block as a run; its journal is kept up to date and finally says how it ended."""
    folder = home / "runs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _mark_dead(folder)
    run = Run(command, folder)
    (folder / _RUNNING / run.id).touch(mode=0o600)
    run.journal()
    keeper = threading.Thread(target=_keep, args=(run,), name="journal", daemon=True)
    keeper.start()
    try:
        yield run
        run.state = "done"
    except NothingToLearn as nothing:
        # What was asked for had nothing to do, which is no fault to look for.
        run.state = "skipped"
        run.detail["nothing"] = nothing.message
        raise
    except BaseException as error:
        run.state = "failed"
        run.detail["error"] = str(error) or type(error).__name__
        raise
    finally:
        run._stop.set()
        keeper.join()
        run.ended = datetime.now(UTC)
        # A full disk must not hide the error that it caused in the block.
        with contextlib.suppress(OSError, StorageFull):
            run.journal()
            (folder / _RUNNING / run.id).unlink(missing_ok=True)


def runs(home: Path) -> list[dict[str, Any]]:
    """The journals of this home, oldest first."""
    return [*newest_first(home)][::-1]


def newest_first(home: Path, *, prefix: str = "", command: str | None = None) -> Iterator[dict[str, Any]]:
    """The journals of this home (whose id begins with `prefix`; of a command), newest first.

    They are read lazily, so that finding a recent one reads few.
    """
    return _newest(home, lambda name: name.startswith(prefix) and (command is None or _command(name) == command))


def to_measure_by(home: Path, most: int) -> Iterator[dict[str, Any]]:
    """Journals to measure something by, newest first: the newest of commands that handle many things, and of the others.

    Of each at most `most`: so many questions, or looks at what there is, must not hide the run that indexed all documents.
    """
    many = islice(_newest(home, lambda name: _command(name) in _OF_MANY), most)
    others = islice(_newest(home, lambda name: _command(name) not in _OF_MANY), most)
    return merge(many, others, key=lambda journal: str(journal["started"]), reverse=True)


def _command(name: str) -> str:
    """The command in the name of a journal."""
    return name[_SECOND + 1 :].rpartition("-")[0]


def _newest(home: Path, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    paths = [path for folder in (home / "runs", home / "runs" / _ARCHIVED) for path in folder.glob("*.json") if wanted(path.name)]
    for _, second in groupby(sorted(paths, key=lambda path: path.name, reverse=True), lambda path: path.name[:_SECOND]):
        found = []
        for path in second:
            with contextlib.suppress(ValueError, OSError):  # moved meanwhile, or not a journal
                found.append(json.loads(path.read_bytes()))
        yield from sorted(found, key=lambda journal: str(journal["started"]), reverse=True)


def summary(journal: Mapping[str, Any]) -> dict[str, Any]:
    """A run without its ledger, JSON-ready: with its rates, what it handled, and what it measured."""
    return {
        **{name: journal[name] for name in ("run", "command", "state", "started", "ended")},
        **total_rates(journal),
        # These are not in journals of an older version.
        "counts": journal.get("counts") or {},
        "storage": journal.get("storage") or {},
        "provenance": journal.get("provenance") or {},
    }


def under_way(home: Path) -> list[str]:
    """The ids of the runs that are under way in this home."""
    found = []
    for mark in (home / "runs" / _RUNNING).glob("*"):
        with contextlib.suppress(ValueError, OSError, KeyError):
            journal = json.loads((home / "runs" / f"{mark.name}.json").read_bytes())
            if journal["state"] == "running" and lives(journal["pid"], journal["process_started"]):
                found.append(mark.name)
    return sorted(found)


def ended_runs(home: Path, most: int) -> list[dict[str, Any]]:
    """Journals of ended runs that are not archived yet: so many at most, the oldest first."""

    def journals() -> Iterator[dict[str, Any]]:
        for path in sorted((home / "runs").glob("*.json")):
            with contextlib.suppress(ValueError, OSError):
                yield json.loads(path.read_bytes())

    return list(islice((journal for journal in journals() if journal["state"] != "running"), most))


def set_aside(home: Path, archived: Iterable[str]) -> None:
    """Move journals of archived runs to the archive folder, and drop the oldest ones."""
    folder = home / "runs" / _ARCHIVED
    folder.mkdir(mode=0o700, exist_ok=True)
    for run in archived:
        with contextlib.suppress(FileNotFoundError):  # by another process
            (home / "runs" / f"{run}.json").replace(folder / f"{run}.json")
    for path in sorted(folder.glob("*.json"))[:-_KEPT]:
        path.unlink(missing_ok=True)


def journal_of(home: Path, run: str | None, *, command: str | None = None) -> dict[str, Any]:
    """The journal of a run by id or unambiguous prefix; by default the newest (of a command) that handled something.

    A listing or a failed verdict is not a run to ask for; where all were such, it is the newest. Raises `NotFound`.
    """
    known = (j for j in newest_first(home, prefix=run or "", command=command) if command is None or j["command"] == command)
    if run is None:
        newest = None
        for journal in islice(known, _LOOKED_AT):
            newest = newest or journal
            if any((journal.get("counts") or {}).values()):
                return journal
        if newest is None:
            raise NotFound("Nothing has run in this home yet.", hint="Try `headrace demo`.")
        return newest
    matching = list(known)
    matching = [j for j in matching if j["run"] == run] or matching
    if not matching:
        older = "older ones are in the tables `runs` and `ledger` (headrace sql)."
        raise NotFound(f"There is no run {run!r}.", hint=f"See `headrace runs`; {older}")
    if len(matching) > 1:
        raise NotFound(f"More than one run begins with {run!r}.", hint="See `headrace runs`.")
    return matching[0]


def _as_list(name: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """A part of a JSON object that is a list, behind another part."""
    yield f', "{name}": ['.encode()
    for number, entry in enumerate(entries):
        yield (", " if number else "").encode() + json.dumps(entry).encode()
    yield b"]"


def _keep(run: Run) -> None:
    wait_s = _FLUSH_S
    while not run._stop.wait(wait_s):
        began_s = time.thread_time()
        with contextlib.suppress(OSError, HeadraceError):
            run.journal()
        wait_s = max(_FLUSH_S, (time.thread_time() - began_s) / _FLUSH_SHARE)


def _mark_dead(folder: Path) -> None:
    """Mark runs as `died` whose process is gone (killed, or the machine crashed)."""
    running = folder / _RUNNING
    if not running.exists():  # a home of an older version, or a new one
        names = [path.stem for path in folder.glob("*.json")]
        running.mkdir(mode=0o700, exist_ok=True)
    else:
        names = [path.name for path in running.iterdir()]
    for name in names:
        path = folder / f"{name}.json"
        with contextlib.suppress(ValueError, OSError, KeyError):
            journal = json.loads(path.read_bytes())
            if journal["state"] == "running":
                if lives(journal["pid"], journal["process_started"]):
                    continue
                write_atomically(path, json.dumps({**journal, "state": "died"}).encode())
            (running / name).unlink(missing_ok=True)


def journals_to_archive(home: Path) -> int:
    """How many journals are not archived, those of runs under way among them; reads none."""
    return sum(1 for _ in (home / "runs").glob("*.json"))
