"""The supervisor: owns the servers and stops them when no command holds a lease.

    python -m headrace.platform.supervisor --home DIR --parts objects,head,models --threads 2

It has one thread, so that the children's parent-death signal follows this process: killed with -9, it takes them along.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

from headrace.errors import HeadraceError, Unavailable
from headrace.platform import servers
from headrace.platform.state import HEAD, MODELS, OBJECTS, Place, State, write_private

_READY_S = 30.0
_LOOK_S = 0.25
_GRACE_S = 1.0
_PR_SET_PDEATHSIG = 1
# SeaweedFS stops its S3 door at once and then waits 30 s for idle connections between its own parts; by then all it
# acknowledged is on disk, so that wait is cut short.
_STOP_S = {"models": 3.0, "head": 3.0, "objects": 2.5}


class _Stop(Exception):
    """A signal asked the supervisor to end."""


def main() -> int:
    """Start the servers, say in the state file that they are ready, and watch leases and servers until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()
    place = Place(asked.home.resolve())
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        ports = _start(place, frozenset(asked.parts.split(",")), asked.threads, running)
        me = psutil.Process()
        pids = {name: process.pid for name, process in running.items()}
        place.write(State(pid=me.pid, started=me.create_time(), servers=pids, ports=ports))
        _watch(place, running)
    except _Stop:
        _say("asked to stop")
    except HeadraceError as error:
        _say(str(error))
        # The command that waits for us turns this into its own error.
        failure = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        write_private(place.failure, json.dumps(failure))
        return 1
    finally:
        place.clear()
        _stop(running)
    return 0


def _start(
    place: Place, parts: frozenset[str], threads: int, running: dict[str, subprocess.Popen[bytes]]
) -> dict[str, int]:
    keys = place.keys()
    for attempt in range(4):
        ports: dict[str, int] = {}
        try:
            if MODELS in parts:
                server, found = servers.model_server(place, keys, threads)
                running[server.name] = servers.start(server, place, _die_with(os.getpid()))
                ports.update(found)
            if OBJECTS in parts:
                server, found = servers.object_store(place, keys)
                running[server.name] = servers.start(server, place, _die_with(os.getpid()))
                ports.update(found)
                servers.wait_ready(server, running[server.name], place, _READY_S)
            if HEAD in parts:
                server, found = servers.head(place, keys, ports["s3"])
                running[server.name] = servers.start(server, place, _die_with(os.getpid()))
                ports.update(found)
                servers.wait_ready(server, running[server.name], place, _READY_S)
            return ports
        except Unavailable as error:
            # Somebody may have taken a port between our look and the server's bind: other ports, then.
            if attempt == 3 or "in use" not in str(error):
                raise
            _say(f"trying other ports: {error}")
            _stop(running)
    raise AssertionError("unreachable")


def _watch(place: Place, running: dict[str, subprocess.Popen[bytes]]) -> None:
    with place.lease.open("ab") as lease:
        unheld_since: float | None = None
        while True:
            time.sleep(_LOOK_S)
            for name, process in running.items():
                if process.poll() is not None:
                    raise servers.died(name, process, place)
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                unheld_since = None
                continue
            now = time.monotonic()
            unheld_since = unheld_since or now
            if now - unheld_since >= _GRACE_S:
                # The exclusive lock is kept while the servers stop: a new command waits for it, then starts anew.
                _say("no command holds a lease")
                place.clear()
                _stop(running)
                return
            fcntl.flock(lease, fcntl.LOCK_UN)


def _stop(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stop the servers, the one that others store into last."""
    for names in (("models", "head"), ("objects",)):
        chosen = [(name, running[name]) for name in names if name in running]
        for _, process in chosen:
            if process.poll() is None:
                process.terminate()
        for name, process in chosen:
            try:
                process.wait(_STOP_S[name])
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    running.clear()


def _die_with(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return before_exec


def _on_signal(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
