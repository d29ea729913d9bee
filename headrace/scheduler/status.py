"""The training loop's status: a file in the home (`loop.json`), read by the page, the API and `headrace loop`."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from headrace.atomic import write_atomically
from headrace.core.progress import ProgressBars
from headrace.errors import HeadraceError
from headrace.process import began, lives

T = TypeVar("T")

FILE = "loop.json"
STARTING, WAITING, TRAINING, PAUSED, ELSEWHERE, RESTARTING, ENDED, OFF = (
    "starting",
    "waiting",
    "training",
    "paused",
    "elsewhere",
    "restarting",
    "ended",
    "off",
)
_EMPTY: dict[str, Any] = {
    "state": OFF,
    "pid": 0,
    "process_started": 0.0,
    "at": "",
    "recipes": [],
    "round": None,
    "trouble": None,
    "last": None,
    "models": {},
    "note": "",
}


def read(home: Path) -> dict[str, Any]:
    """The loop's last status; `running` says whether its process is alive, and if not, the state is "ended".

    A home whose loop never ran has state "off".
    """
    stored_state = stored(home)
    alive = lives(stored_state["pid"], stored_state["process_started"])
    state = stored_state["state"] if alive or stored_state["state"] == OFF else ENDED
    return {**stored_state, "state": state, "running": alive and state not in (ENDED, RESTARTING)}


def stored(home: Path) -> dict[str, Any]:
    """The status as stored in the file."""
    try:
        return {**_EMPTY, **json.loads((home / FILE).read_bytes())}
    except (OSError, ValueError):
        return dict(_EMPTY)


def write(home: Path, state: dict[str, Any]) -> None:
    """Replace the file atomically, with this process's id; errors (a full disk) are ignored, so that training goes on."""
    state = {**state, "pid": os.getpid(), "process_started": began(os.getpid())}
    with contextlib.suppress(HeadraceError):
        write_atomically(home / FILE, json.dumps({**state, "at": now()}, indent=1, default=str).encode())


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()


class Status:
    """The status in memory; thread-safe. `flush` writes it to the file if it has changed."""

    def __init__(self, home: Path, **previous: Any) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {**copy.deepcopy(_EMPTY), **previous}
        self._changed = True
        self._began: tuple[float, int] | None = None

    def update(self, **what: Any) -> None:
        """Replace these keys."""
        with self._lock:
            self._changed = self._changed or any(self._state.get(name) != value for name, value in what.items())
            self._state.update(what)

    def update_round(self, **what: Any) -> None:
        """Update these keys of the current round."""
        with self._lock:
            if self._state["round"] is not None:
                self._state["round"] = {**self._state["round"], **what}
                self._changed = True

    def stage(self, name: str) -> None:
        """The current round has entered this stage."""
        self._began = None
        self.update_round(stage=name, step=0, steps=0, eta_s=None)

    def step(self, done: int, total: int, loss: float | None = None) -> None:
        """Set the progress of the current stage; the time left is known from the second step on."""
        clock = time.monotonic()
        if self._began is None:
            self._began = (clock, done)
        began, at = self._began
        left = round((total - done) * (clock - began) / (done - at)) if done > at else None
        self.update_round(step=done, steps=total, eta_s=left, **({} if loss is None else {"loss": round(loss, 4)}))

    def get(self, name: str) -> Any:
        """The value of a key."""
        with self._lock:
            return self._state[name]

    def flush(self) -> None:
        """Write the status if it has changed."""
        with self._lock:
            changed, self._changed = self._changed, False
            state = dict(self._state)
        if changed:
            write(self._home, state)


class StatusBars(ProgressBars):
    """Progress bars that write to the status instead of the terminal."""

    def __init__(self, status: Status) -> None:
        super().__init__(quiet=True)
        self._status = status

    def track(self, items: Iterable[T], what: str, *, total: int | None = None, of: str = "", size: bool = False) -> Iterator[T]:
        """Yield the items; report progress if `total` is known."""
        done = 0
        for item in items:
            yield item
            done += getattr(item, "num_rows", 1) if size else 1
            if total:
                self._status.step(done, total)

    @contextmanager
    def counted(self, what: str, *, of: str = "") -> Iterator[Any]:
        """Yield a function (done, total, loss) that reports progress."""
        yield self._status.step
