"""State files of the platform: the supervisor's record of what runs, and the commands' requests to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import headrace
from headrace import process
from headrace.errors import WrongUsage
from headrace.platform.address import Ports
from headrace.platform.home import Home, Lock, write_private
from headrace.storage.endpoints import Endpoints


class Process(BaseModel):
    """A process and its start time (`process.began`), since pids are reused."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def from_pid(cls, pid: int) -> Process:
        """The running process `pid`. Raises `ProcessLookupError`."""
        return cls(pid=pid, started=process.began(pid))

    @property
    def alive(self) -> bool:
        """Whether this process is still running."""
        return process.lives(self.pid, self.started)


class Setup(BaseModel):
    """Configuration with which a platform's servers were started; a command with a different one restarts them."""

    model_config = ConfigDict(frozen=True)

    brought: dict[str, Any] = {}
    """Fields of `Endpoints` that come from the settings."""
    threads: int = 2
    exact: bool = False
    weed: str = ""
    tansu: str = ""
    """The user's own programs; empty: the packaged ones."""
    counters: bool = False
    """Whether SeaweedFS exposes its counters on a port."""
    code: str = ""
    """The package's version and the time of its newest module: servers of older code are not reused."""


class Request(BaseModel):
    """A command's request to the supervisor: parts (of `objects`, `head`, `models`) and how long they stay up when idle."""

    model_config = ConfigDict(frozen=True)

    parts: frozenset[str]
    setup: Setup = Setup()
    idle_s: float = 0.0


class FileId(BaseModel):
    """Which file a lock is: a copy of a home has locks of its own, and what runs in the home does not run in its copy."""

    model_config = ConfigDict(frozen=True)

    device: int
    inode: int

    @classmethod
    def from_path(cls, path: Path) -> FileId:
        """The file that `path` names now. Raises `OSError`."""
        status = path.stat()
        return cls(device=status.st_dev, inode=status.st_ino)

    def names(self, path: Path) -> bool:
        """Whether `path` names this file."""
        try:
            return FileId.from_path(path) == self
        except OSError:
            return False


class State(BaseModel):
    """What a supervisor runs. Contains secrets: stored with mode 0600."""

    model_config = ConfigDict(frozen=True)

    supervisor: Process
    children: dict[str, Process]
    parts: frozenset[str]
    setup: Setup = Setup()
    ports: Ports
    endpoints: Endpoints
    """The embedded endpoints, without those from the settings."""
    lock: FileId | None = None
    """The supervisor's `running.lock`; `None` in a record of an older version."""


def read_state(home: Home) -> State | None:
    """The state of the platform running in `home`, or None, also if the recorded supervisor is gone.

    A record that was copied with its home is none: a command in the copy would change, and end, what runs in the original.
    """
    try:
        state = State.model_validate_json(home.state.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None
    if state.lock is not None and not state.lock.names(home.running_lock):
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


class RunningService(BaseModel):
    """The `headrace up` running in a home. Contains its token: stored with mode 0600."""

    model_config = ConfigDict(frozen=True)

    process: Process
    url: str
    """Its address for this machine."""
    token: str
    settings: str
    """A digest of its settings: a command with others works beside it."""
    certificate: Path | None = None
    """Its TLS certificate, if it has one."""
    lock: FileId | None = None
    """Its `up.lock`; `None` in a record of an older version."""


def read_service(home: Home) -> RunningService | None:
    """The service running in `home`, or None, also if the recorded process is gone.

    A record that another user wrote is none: questions would go wherever it says. Nor is one that was copied with its home.
    """
    try:
        with home.service.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            service = RunningService.model_validate_json(file.read())
    except (OSError, ValidationError, ValueError):
        return None
    if service.lock is not None and not service.lock.names(home.service_lock):
        return None
    return service if service.process.alive else None


@contextlib.contextmanager
def only_service(home: Home) -> Iterator[None]:
    """Make this process the home's only `headrace up` for the duration of the block. Raises `WrongUsage` where one runs."""
    home.prepare()
    lock = Lock(home.service_lock)
    if not lock.acquire():
        other = read_service(home)
        where = f": {other.url}, process {other.process.pid}" if other else ""
        raise WrongUsage(
            f"A `headrace up` runs in the home {home.root} already{where}.",
            hint="Use that one, or start another in a home of its own: headrace --home DIR up --port N",
        )
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def recorded_service(home: Home, service: RunningService) -> Iterator[None]:
    """Record, for the duration of the block, that this process serves `home`."""
    write_private(home.service, service.model_dump_json())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if read_service(home) == service:
                home.service.unlink(missing_ok=True)


def code() -> str:
    """The package's version and the time of its newest module, in nanoseconds since the epoch."""
    root = Path(headrace.__file__).parent
    newest = max(module.stat().st_mtime_ns for module in root.rglob("*.py"))
    return f"{headrace.__version__} {newest}"


def this_process() -> Process:
    """The current process."""
    return Process.from_pid(os.getpid())
