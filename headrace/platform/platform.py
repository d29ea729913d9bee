"""The embedded platform as a command sees it: open it, get `Endpoints`, and hold the lease until done."""

from __future__ import annotations

import json
import os
import subprocess
import time
from types import TracebackType

from headrace import errors
from headrace.errors import HeadraceError, Unavailable
from headrace.platform.address import brought, embedded_endpoints, embedded_parts, overlay
from headrace.platform.child import rotate
from headrace.platform.health import fault_of
from headrace.platform.home import Home, Lock, refused
from headrace.platform.keys import Keys
from headrace.platform.model_server import python
from headrace.platform.ports import Ports
from headrace.platform.state import Request, State, read_request, read_state, write_request
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

EVERY_PART = frozenset({"objects", "head", "models"})
ENDING_SECONDS = 45.0
"""Time a platform that is ending may take before a new command gives up waiting for it."""
START_SECONDS = 120.0
"""Time another command may take to start the platform."""
ANSWER_SECONDS = 10.0
"""Time a running service may take to answer before the platform counts as stuck."""


class Platform:
    """A context manager: starts or adopts the servers its settings do not bring, and gives the `Endpoints` of all.

    While it is open it holds a lease, a lock the kernel lets go of even if the command is killed; the servers end shortly
    after the last lease. Raises `Unavailable`, `StorageFull`, `MissingPart`, `HomeRefused` on entering.
    """

    def __init__(self, settings: Settings, *, parts: frozenset[str] = EVERY_PART) -> None:
        self._settings = settings
        self._parts = embedded_parts(settings, parts)
        self._brought = brought(settings)
        self._home = Home(settings.home)
        self._lease = Lock(self._home.lease)

    def __enter__(self) -> Endpoints:
        if not self._parts:
            # Nothing is embedded that is needed; what is neither needed nor brought gets an address that refuses.
            return overlay(embedded_endpoints(self._home, _NO_KEYS, Ports()), {"s3_metrics_url": "", **self._brought})
        self._home.prepare()
        # The lease comes before the look at what runs: a supervisor that may be adopted then cannot end for want of it,
        # and one that is ending holds the lease alone until it is gone.
        if not self._lease.acquire(shared=True, seconds=ENDING_SECONDS):
            raise Unavailable(
                f"The platform in {self._home.root} has been ending for {ENDING_SECONDS:.0f} s.",
                hint=f"See {self._home.logs / 'supervisor.log'}, then try again.",
            )
        try:
            endpoints = overlay(self._join().endpoints, self._brought)
        except BaseException:
            self._lease.release()
            raise
        _bypass_proxies()
        return endpoints

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lease.release()

    def _join(self) -> State:
        """Adopt the platform that runs in the home, or start one."""
        start = Lock(self._home.start_lock)
        if not start.acquire(seconds=START_SECONDS):
            raise Unavailable(
                f"Another command has been starting the platform in {self._home.root} for {START_SECONDS:.0f} s.",
                hint=f"See {self._home.logs / 'supervisor.log'}, then try again.",
            )
        try:
            return self._adopt() or self._start()
        finally:
            start.release()

    def _adopt(self) -> State | None:
        """The running platform once it answers and serves our parts; None if none runs, or it ends meanwhile."""
        asked = False
        end = time.monotonic() + ANSWER_SECONDS
        while (state := read_state(self._home)) is not None:
            if not self._parts <= state.parts:
                fault: str | None = f"it does not serve {', '.join(sorted(self._parts - state.parts))}"
                if not asked:
                    asked = True
                    end = time.monotonic() + START_SECONDS
                    self._ask(state.parts | self._parts)
            else:
                fault = fault_of(state.endpoints, self._parts)
                if fault is None:
                    return state
            if time.monotonic() > end:
                raise Unavailable(
                    f"The platform in {self._home.root} runs but does not answer: {fault}.",
                    hint=f"End it with `kill {state.supervisor.pid}` and try again; its logs are in {self._home.logs}.",
                )
            time.sleep(0.1)
        return None

    def _start(self) -> State:
        """Start a supervisor, which outlives us if others use it, and wait until it says it is ready."""
        self._ask(self._parts)
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
            raise refused(error, log) from None
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
        said = json.loads(line) if line else {}
        if "error" in said:
            kind: type[HeadraceError] = getattr(errors, said["error"])
            raise kind(said["message"], hint=said["hint"])
        state = read_state(self._home) if said else None
        if state is None:
            raise Unavailable("The embedded platform ended while starting.", hint=f"Its log is {log}.")
        return state

    def _ask(self, parts: frozenset[str]) -> None:
        before = read_request(self._home)
        models = self._settings.models
        request = Request(parts=parts, brought=self._brought, threads=models.threads, exact=models.exact)
        if request != before:
            write_request(self._home, request)


_NO_KEYS = Keys(s3_access_key="", s3_secret_key="", models_key="")


def open_platform(settings: Settings, *, parts: frozenset[str] = EVERY_PART) -> Platform:
    """The platform for `settings`, to be used as `with open_platform(settings) as endpoints:`.

    `parts` may leave out `head` or `models` for a command that does without; parts that settings bring are not started,
    and if they bring all of them nothing is.
    """
    return Platform(settings, parts=parts)


def running(settings: Settings) -> State | None:
    """What runs embedded in the home of `settings`, or None; it is not asked whether it answers."""
    return read_state(Home(settings.home))


def _bypass_proxies() -> None:
    """Keep HTTP clients of this process from taking 127.0.0.1 to a proxy that the environment names."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "127.0.0.1" not in hosts:
            os.environ[name] = ",".join([*hosts, "127.0.0.1"])
