"""What runs now: the supervisor's record on disk, and the requests commands leave for it."""

from __future__ import annotations

import os
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from headrace.platform.home import Home, write_private
from headrace.platform.ports import Ports
from headrace.storage.endpoints import Endpoints


class Process(BaseModel):
    """A process and when it started (seconds since the epoch): a number alone may meanwhile name another process."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """The running process `pid`. Raises `psutil.NoSuchProcess`."""
        return cls(pid=pid, started=psutil.Process(pid).create_time())

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            # The clock may have been set since: allow it two seconds.
            return bool(abs(process.create_time() - self.started) < 2 and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


class Request(BaseModel):
    """Parts commands asked for, of `objects`, `head`, `models`; fields of `Endpoints` their settings bring themselves."""

    model_config = ConfigDict(frozen=True)

    parts: frozenset[str]
    brought: dict[str, Any] = {}
    threads: int = 2
    exact: bool = False


class State(BaseModel):
    """What a supervisor runs. Holds secrets: kept at mode 0600."""

    model_config = ConfigDict(frozen=True)

    supervisor: Process
    children: dict[str, Process]
    parts: frozenset[str]
    ports: Ports
    endpoints: Endpoints
    """The embedded endpoints, before what settings bring is laid over them."""


def read_state(home: Home) -> State | None:
    """The state of a platform running in `home`, or None; a record whose supervisor is gone counts as none."""
    try:
        state = State.model_validate_json(home.state.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None
    return state if state.supervisor.alive else None


def write_state(home: Home, state: State) -> None:
    """Record `state`. Raises `StorageFull`, `HomeRefused`."""
    write_private(home.state, state.model_dump_json(indent=1))


def read_request(home: Home) -> Request | None:
    """The request left in `home`, or None."""
    try:
        return Request.model_validate_json(home.request.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def write_request(home: Home, request: Request) -> None:
    """Leave `request` for the supervisor. Raises `StorageFull`, `HomeRefused`."""
    write_private(home.request, request.model_dump_json())


def this_process() -> Process:
    """The process that asks."""
    return Process.of(os.getpid())
