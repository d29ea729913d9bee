"""The supervisor process, which owns the embedded servers: `python -m headrace.platform.supervisor --home DIR`.

It starts what `request.json` names, reports to the command that started it with one line of JSON on standard output, and then
watches. A server that ends is restarted on its ports. The supervisor and its servers end when no command has held the lease for
the idle time of the last request, when a server keeps ending, or on SIGTERM. If the supervisor is killed, the kernel kills the
servers too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from headrace.errors import HeadraceError, Unavailable
from headrace.platform.address import Ports, another_port, choose_ports, embedded_endpoints, overlay, remove_sockets
from headrace.platform.certificates import unguarded
from headrace.platform.child import Child, PortTaken
from headrace.platform.home import Home, Lock, free_bytes, write_private
from headrace.platform.keys import Keys, keys_of
from headrace.platform.model_server import start_model_server
from headrace.platform.seaweedfs import start_weed
from headrace.platform.state import FileId, Process, Request, Setup, State, read_request, this_process, write_state
from headrace.platform.tansu import start_broker
from headrace.storage.reason import FREE_BYTES

TICK_SECONDS = 0.5
READY_SECONDS = 45.0
STOP_SECONDS = 10.0
AFTER_FULL_SECONDS = 3.0
"""SeaweedFS ends within 1.5 s, or retries a write that a full disk left no volume for; killing it then loses nothing."""
ENDINGS, ENDINGS_SECONDS = 4, 60.0
"""A server that ends more than this many times within this many seconds is not restarted."""
PORT_TRIES = 5

_log = logging.getLogger("headrace.platform")


class Supervisor:
    """Starts, watches and stops the servers of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.running = Lock(home.running_lock)
        self.lease = Lock(home.lease)
        self.children: dict[str, Child] = {}
        self.parts: frozenset[str] = frozenset()
        self.stopping = False
        self._endings: dict[str, list[float]] = {}
        self._was_full = False
        self._idle_since: float | None = None
        self._idle_s = 0.0
        self._setup = Setup()
        self._keys: Keys
        self._ports = Ports()
        # Python resumes a wait after a signal; its byte in this pipe ends it.
        self._signals, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(written)

    def start(self) -> None:
        """Start the parts requested and record them. Raises `Unavailable`, `StorageFull`, `MissingPart`, `HomeRefused`."""
        if not self.running.acquire(seconds=2 * STOP_SECONDS):
            raise Unavailable(
                f"Servers of an earlier platform in {self.home.root} are still running.",
                hint=f"Find their processes with `fuser {self.home.running_lock}`, end them, and try again.",
            )
        self.home.state.unlink(missing_ok=True)
        # A store that cannot even write its first log would not show the reason.
        if (full := self.home.fullness()) is not None:
            raise full
        self._keys = keys_of(self.home)
        self._ports = choose_ports(self._previous_ports())
        request = read_request(self.home)
        if request is None:
            raise Unavailable(f"There is no request in {self.home.request}.", hint="Run the command again.")
        # The servers keep their setup: a command with a different setup starts new ones.
        self._setup = request.setup
        self.serve(request)

    def serve(self, request: Request) -> None:
        """Start the parts of `request` that are not running yet, and record the state."""
        self._idle_s = request.idle_s
        fresh = request.parts - self.parts
        for part in ("objects", "head"):
            if part in fresh:
                self._start(part)
        write_private(self.home.ports, self._ports.model_dump_json())
        endpoints = overlay(embedded_endpoints(self.home, self._keys, self._ports), self._setup.brought)
        write_private(self.home.endpoints, endpoints.model_dump_json(indent=1))
        if "models" in fresh:
            self.children["models"] = self._launch("models")
        self.parts |= fresh
        self._record()

    def _record(self) -> None:
        write_state(
            self.home,
            State(
                supervisor=this_process(),
                children={name: Process.from_pid(child.pid) for name, child in self.children.items() if not child.ended},
                parts=self.parts,
                setup=self._setup,
                ports=self._ports,
                endpoints=embedded_endpoints(self.home, self._keys, self._ports),
                lock=FileId.from_path(self.home.running_lock),
            ),
        )
        _log.info("serving %s", ", ".join(f"{name} (pid {child.pid})" for name, child in self.children.items()))

    def watch(self) -> None:
        """Return when there is a reason to stop, which is logged. Raises `HeadraceError` if a server keeps ending."""
        while not self.stopping:
            if not self.running.intact:
                _log.info("the home was removed")
                return
            if self._nobody_left():
                _log.info("idle for %.0f s", self._idle_s)
                return
            self._keep_up()
            request = read_request(self.home)
            if request is not None:
                self._idle_s = request.idle_s
                if not request.parts <= self.parts:
                    self.serve(request)
            self._wait()
        _log.info("asked to stop")

    def stop(self) -> None:
        """Remove the record, then end all servers, those that write to the object store first."""
        if not self.running.is_held:
            return  # the record, if any, is another supervisor's
        if self.running.intact:  # otherwise the record belongs to a new home at the same path
            with contextlib.suppress(OSError):
                self.home.state.unlink(missing_ok=True)
        if "head" in self.children and self.children["objects"].ended:
            self._end_head()
        for name in ("models", "head", "objects"):
            if name in self.children:
                child = self.children.pop(name)
                _log.info("stopping %s", child.name)
                child.stop(STOP_SECONDS)
        remove_sockets(self._ports)

    def _keep_up(self) -> None:
        """Restart servers that have ended, and the stores when a full disk has space again; trim logs."""
        for child in self.children.values():
            child.trim_log()
        free = free_bytes(self.home)
        if free < FREE_BYTES:
            if not self._was_full:
                _log.error("the disk is full")
            self._was_full = True
            return
        if self._was_full and free >= 2 * FREE_BYTES:
            # SeaweedFS keeps failing writes after a full disk, and so does Tansu.
            self._was_full = False
            _log.info("the disk has space again")
            if "head" in self.children:
                self._end_head()  # on SIGTERM, it would first retry failed writes for ten seconds
            if "objects" in self.children:
                self.children["objects"].stop(AFTER_FULL_SECONDS)
        ended = {name: child for name, child in self.children.items() if child.ended}
        if not ended:
            return
        for child in ended.values():
            _log.error("%s", child.fault(f"ended (exit {child.process.returncode})").message)
        if "objects" in ended and "head" in self.children:
            self._end_head()
        for part in ("objects", "head", "models"):
            if part in self.children and self.children[part].ended:
                self._restart(part)
        self._record()

    def _end_head(self) -> None:
        """Kill Tansu at once: without its store, it acknowledges records that it cannot keep.

        All its data is in the store, so nothing is lost.
        """
        self.children["head"].process.kill()
        self.children["head"].process.wait()

    def _restart(self, name: str) -> None:
        """Restart a server on its ports, with a longer wait each time it ends again soon."""
        while not self.stopping:
            now = time.monotonic()
            recent = [at for at in self._endings.get(name, ()) if now - at < ENDINGS_SECONDS]
            if len(recent) >= ENDINGS:
                child = self.children[name]
                often = f"ended {len(recent) + 1} times within {ENDINGS_SECONDS:.0f} s"
                raise child.fault(f"{often}, the last time with exit {child.process.returncode}")
            self._endings[name] = [*recent, now]
            until = now + (2.0 ** (len(recent) - 1) if recent else 0.0)
            while time.monotonic() < until and not self.stopping:
                time.sleep(0.05)
            try:
                if name == "models":
                    self.children[name] = self._launch(name)
                else:
                    self._start_once(name)
                return
            except Unavailable as error:  # e.g. its port was taken meanwhile
                _log.error("%s", error.message)

    def _wait(self) -> None:
        """Wait a tick, until a server ends, or until a signal comes."""
        watched, ended = [], select.poll()
        ended.register(self._signals, select.POLLIN)
        with contextlib.suppress(OSError):
            for child in self.children.values():
                watched.append(os.pidfd_open(child.pid))
                ended.register(watched[-1], select.POLLIN)
        ended.poll(TICK_SECONDS * 1000)
        for descriptor in watched:
            os.close(descriptor)
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 64)

    def _nobody_left(self) -> bool:
        """Whether no command has held the lease for the idle time. If so, keep the lease: new commands wait until we end."""
        if not self.lease.acquire():
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = time.monotonic()
        if time.monotonic() - self._idle_since >= self._idle_s:
            return True
        self.lease.release()
        return False

    def _launch(self, part: str) -> Child:
        keep = (self.running.descriptor,)
        if part == "objects":
            return start_weed(self.home, self._keys, self._ports, keep, self._setup)
        if part == "head":
            return start_broker(self.home, self._keys, self._ports, keep, self._setup)
        return start_model_server(self.home, self._keys, self._ports, self._setup, keep)

    def _start(self, part: str) -> None:
        """Start a store and wait until it answers; on other ports if its own were taken meanwhile."""
        for attempt in range(1, PORT_TRIES + 1):
            try:
                self._start_once(part)
                return
            except PortTaken as taken:
                if attempt == PORT_TRIES:
                    raise
                _log.warning("%s Trying other ports.", taken.message)
                self._ports = choose_ports() if part == "objects" else another_port(self._ports, "kafka")

    def _start_once(self, part: str) -> None:
        begun = time.monotonic()
        child = self._launch(part)
        from headrace.platform.health import CHECKS  # its libraries load while the server starts

        endpoints = embedded_endpoints(self.home, self._keys, self._ports)
        fault: str | None = "it was not checked"
        try:
            while fault is not None:
                time.sleep(0.01)
                fault = CHECKS[part](endpoints)
                # Check after the answer, which may come from another server that took the port first.
                if child.ended:
                    raise child.fault(f"ended while starting (exit {child.process.returncode})")
                if part == "objects" and self._ports.squatted:
                    raise PortTaken(f"{child.name} cannot create its sockets in /tmp: another user owns files with their names.")
                if self.stopping:
                    raise Unavailable("The platform was stopped while it started.", hint="Run the command again.")
                if fault is not None and time.monotonic() - begun > READY_SECONDS:
                    raise child.fault(f"did not get ready in {READY_SECONDS:.0f} s ({fault})")
            if part == "objects" and (fault := unguarded(self.home, self._ports)) is not None:
                raise child.fault(f"would accept every program on this machine: {fault}")
        except BaseException:
            child.stop(STOP_SECONDS)
            raise
        self.children[part] = child
        _log.info("%s was ready after %.2f s", child.name, time.monotonic() - begun)

    def _previous_ports(self) -> Ports | None:
        try:
            return Ports.model_validate_json(self.home.ports.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def tell(message: dict[str, str]) -> None:
    """Send the command that started us one line of JSON, if it still listens, and close standard output."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def run(home: Home) -> int:
    """Supervise `home` until there is a reason to stop; returns the exit code."""
    supervisor = Supervisor(home)

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        supervisor.stopping = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        supervisor.start()
        tell({"ready": str(os.getpid())})
        supervisor.watch()
        return 0
    except HeadraceError as error:
        _log.error("%s", error)
        # The command does not know subclasses defined in this package: report the base class from headrace.errors.
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == HeadraceError.__module__)
        tell({"error": kind.__name__, "message": error.message, "hint": error.hint})
        return error.exit_code
    except Exception as error:
        _log.exception("the supervisor failed")
        hint = f"The full log is {home.logs / 'supervisor.log'}."
        tell({"error": "Unavailable", "message": f"The embedded platform failed: {error!r}.", "hint": hint})
        return 1
    finally:
        supervisor.stop()
        _log.info("ended")


def main() -> NoReturn:
    """Detach from the parent command, then supervise."""
    parser = argparse.ArgumentParser(description="Owns the embedded servers of one home.")
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home)
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(run(home))


if __name__ == "__main__":
    main()
