"""The embedded platform for commands: open it, get `Endpoints`, and hold the lease until done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from headrace import errors
from headrace.errors import HeadraceError, Unavailable
from headrace.platform.address import Ports, brought, embedded_endpoints, embedded_parts, overlay
from headrace.platform.child import rotate
from headrace.platform.health import silent
from headrace.platform.home import Home, Lock, write_error
from headrace.platform.keys import Keys
from headrace.platform.state import Request, Setup, State, code, read_request, read_state, write_request
from headrace.process import python
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

EVERY_PART = frozenset({"objects", "head", "models"})
ENDING_SECONDS = 45.0
"""How long a new command waits for a platform that is ending."""
START_SECONDS = 120.0
"""How long to wait for another command that is starting the platform."""
ANSWER_SECONDS = 10.0
"""How long a running platform may take to answer before it counts as stuck."""
ALONE_SECONDS = 0.5
"""How long to wait for the lease, which the supervisor may hold for a moment while it checks for commands."""


class EmbeddedPlatform:
    """A context manager that starts or adopts the embedded servers and yields the `Endpoints` of all parts.

    While open, it holds a lease, a lock that the kernel releases even if the command is killed. The servers stay up for
    `platform.idle_s` after the last lease, or end with it if `ends` is set. Entering raises `Unavailable`, `StorageFull`,
    `MissingPart`, `HomeRefused`.
    """

    def __init__(self, settings: Settings, *, parts: frozenset[str] = EVERY_PART, ends: bool = False) -> None:
        self.started = False
        """Whether entering started the servers; false if they were running or nothing is embedded."""
        self._idle_s = settings.platform.idle_s
        self._ends = ends
        self._parts = embedded_parts(settings, parts)
        self._brought = brought(settings)
        chosen = settings.platform
        self._setup = Setup(
            brought=self._brought,
            threads=settings.models.threads,
            exact=settings.models.exact,
            weed=_program(chosen.weed),
            tansu=_program(chosen.tansu),
            counters=chosen.counters,
            code=code(),
        )
        self._home = Home(settings.home)
        self._lease = Lock(self._home.lease)

    def __enter__(self) -> Endpoints:
        if not self._parts:
            # No embedded part is needed; parts that are neither needed nor configured get an address that rejects connections.
            return overlay(embedded_endpoints(self._home, _NO_KEYS, Ports()), {"s3_metrics_url": "", **self._brought})
        self._home.prepare()
        self._take_lease()
        try:
            endpoints = overlay(self._join().endpoints, self._brought)
        except BaseException:
            self._lease.release()
            raise
        _bypass_proxies()
        return endpoints

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ends and self._parts:
            with contextlib.suppress(HeadraceError):  # e.g. on a full disk: then the servers end when idle
                self._ask(self._parts, idle_s=0.0)
        self._lease.release()

    def _take_lease(self) -> None:
        # Take the lease before checking what runs: a supervisor that may be adopted then cannot become idle, and one that is
        # ending holds the lease exclusively until it is gone.
        if not self._lease.acquire(shared=True, seconds=ENDING_SECONDS):
            raise Unavailable(
                f"The platform in {self._home.root} has been ending for {ENDING_SECONDS:.0f} s.",
                hint=f"See {self._home.logs / 'supervisor.log'}, then try again.",
            )

    def _join(self) -> State:
        """Adopt the platform that runs in the home, or start one."""
        start = Lock(self._home.start_lock)
        if not start.acquire(seconds=START_SECONDS):
            raise Unavailable(
                f"Another command has been starting the platform in {self._home.root} for {START_SECONDS:.0f} s.",
                hint=f"See {self._home.logs / 'supervisor.log'}, then try again.",
            )
        try:
            self._end_others()
            return self._adopt() or self._start()
        finally:
            start.release()

    def _end_others(self) -> None:
        """End servers that run with a different setup, unless another command uses them."""
        state = read_state(self._home)
        if state is None or state.setup == self._setup:
            return
        self._lease.release()
        try:
            if self._lease.acquire(seconds=ALONE_SECONDS):
                end(self._home, state)
        finally:
            self._lease.release()
            self._take_lease()

    def _adopt(self) -> State | None:
        """The running platform, once it answers and serves our parts; None if none runs or it ends meanwhile."""
        self._ask(self._parts)
        requested = False
        end = time.monotonic() + ANSWER_SECONDS
        while (state := read_state(self._home)) is not None:
            if not self._parts <= state.parts:
                fault: str | None = f"it does not serve {', '.join(sorted(self._parts - state.parts))}"
                if not requested:
                    requested = True
                    end = time.monotonic() + START_SECONDS
                    self._ask(state.parts | self._parts)
            else:
                fault = silent(state, self._parts)
                if fault is None:
                    return state
            if time.monotonic() > end:
                raise Unavailable(
                    f"The platform in {self._home.root} is running but does not answer: {fault}.",
                    hint=f"End it with `kill {state.supervisor.pid}` and try again; its logs are in {self._home.logs}.",
                )
            time.sleep(0.1)
        return None

    def _start(self) -> State:
        """Start a supervisor, which outlives this command if others use it, and wait until it is ready."""
        self._ask(self._parts)
        self.started = True
        log = self._home.logs / "supervisor.log"
        rotate(log)
        command, env = python("headrace.platform.supervisor")
        try:
            with log.open("ab") as output:
                log.chmod(0o600)
                process = subprocess.Popen(
                    [*command, "--home", str(self._home.root)],
                    env=env,
                    cwd=self._home.root,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise write_error(error, log) from None
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
        report = json.loads(line) if line else {}
        if "error" in report:
            kind: type[HeadraceError] = getattr(errors, report["error"])
            raise kind(report["message"], hint=report["hint"])
        state = read_state(self._home) if report else None
        if state is None:
            raise Unavailable("The embedded platform ended while starting.", hint=f"Its log is {log}.")
        return state

    def _ask(self, parts: frozenset[str], *, idle_s: float | None = None) -> None:
        request = Request(parts=parts, setup=self._setup, idle_s=self._idle_s if idle_s is None else idle_s)
        if request != read_request(self._home):
            write_request(self._home, request)


_NO_KEYS = Keys(s3_access_key="", s3_secret_key="", models_key="", signing_key="")


def _program(path: Path | None) -> str:
    return str(path.expanduser().resolve()) if path is not None else ""


def open_platform(settings: Settings, *, parts: frozenset[str] = EVERY_PART, ends: bool = False) -> EmbeddedPlatform:
    """The platform for `settings`, to be used as `with open_platform(settings) as endpoints:`.

    `parts` may leave out `head` or `models` if the command does not need them; parts configured in the settings are not started.
    With `ends`, the servers end with the block unless another command uses them.
    """
    return EmbeddedPlatform(settings, parts=parts, ends=ends)


def down(settings: Settings, *, force: bool = False) -> State | None:
    """End the embedded servers and wait for it; returns what ran, or None if nothing did or it was already ending.

    Raises `Unavailable` if another command uses them, unless `force`, or if they do not end.
    """
    home = Home(settings.home)
    state = read_state(home)
    if state is None:
        if home.running_lock.exists():
            _await_end(home)
        return None
    lease = Lock(home.lease)
    # Commands share the lease; a supervisor that is already ending holds it exclusively.
    if not force and not lease.acquire(seconds=ALONE_SECONDS) and lease.acquire(shared=True):
        lease.release()
        raise Unavailable(
            f"Another command is using the platform in {home.root}.",
            hint="End that command first, or end the platform anyway with `headrace down --force`.",
        )
    try:
        end(home, state)
    finally:
        lease.release()
    return state


def end(home: Home, state: State) -> None:
    """End a supervisor, and wait until it and its servers are gone. Raises `Unavailable` if they do not end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.supervisor.pid, signal.SIGTERM)
    _await_end(home)


def _await_end(home: Home) -> None:
    """Wait until no supervisor and no server of a home is left. Raises `Unavailable` if they do not end."""
    running = Lock(home.running_lock)
    if not running.acquire(seconds=ENDING_SECONDS):
        raise Unavailable(
            f"The platform in {home.root} has been ending for {ENDING_SECONDS:.0f} s.",
            hint=f"Find its processes with `fuser {home.running_lock}` and end them. The log is {home.logs / 'supervisor.log'}.",
        )
    running.release()


def running(settings: Settings) -> State | None:
    """The recorded state of the platform in the home of `settings`, or None; without a health check."""
    return read_state(Home(settings.home))


def _bypass_proxies() -> None:
    """Keep HTTP clients of this process from using the environment's proxy for 127.0.0.1."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "127.0.0.1" not in hosts:
            os.environ[name] = ",".join([*hosts, "127.0.0.1"])
