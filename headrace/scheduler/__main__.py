"""The loop's process: `python -m headrace.scheduler --home DIR --name NAME`, as `headrace up` starts it.

It ends cleanly (exit 0) on SIGINT or SIGTERM, when its standard input ends, and when its parent ends in any way.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from headrace.app import App
from headrace.errors import HeadraceError
from headrace.process import ending_with
from headrace.scheduler import status
from headrace.scheduler.lease import BEAT_S, LeaderLease
from headrace.scheduler.scheduler import Scheduler
from headrace.scheduler.status import Status
from headrace.settings import Settings

_FLUSH_S = 1.0

log = logging.getLogger("headrace.scheduler")


def main() -> int:
    """Train until stopped. Returns 1 if the settings or the platform prevent it; the status then says why."""
    parser = argparse.ArgumentParser(prog="python -m headrace.scheduler", description="The training loop of `headrace up`.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--name", required=True, help="a restarted loop takes over its predecessor's name")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    _go_with_parent()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("headrace.scheduler").setLevel(logging.INFO)
    before = status.stored(given.home)
    report = Status(given.home, **{name: before[name] for name in ("round", "last", "models", "recipes")}, state=status.STARTING)
    report.flush()
    try:
        _train(given.home, given.name, report)
    except KeyboardInterrupt:
        pass
    except HeadraceError as error:
        log.error("%s", error)
        report.update(
            trouble={"recipe": "", "why": error.message, "hint": error.hint, "times": 1, "next": ""}, state=status.ENDED
        )
        report.flush()
        return 1
    report.update(state=status.ENDED)
    report.flush()
    return 0


def _train(home: Path, name: str, report: Status) -> None:
    settings = Settings.load(home=home)
    _lower_priority(settings.training.nice)
    with (
        App(settings, "loop", quiet=True, searches=False) as app,  # it mostly waits; rounds of few recipes open the index
        contextlib.suppress(KeyboardInterrupt),  # a normal end of the run
    ):
        loop = Scheduler(app, report, name)
        over = threading.Event()
        with contextlib.suppress(HeadraceError):
            loop.lease.beat()
        beating = threading.Thread(target=_beat, args=(loop.lease, report, over), name="beat", daemon=True)
        beating.start()
        try:
            loop.run()
        finally:
            over.set()
            beating.join(5.0)
            with contextlib.suppress(HeadraceError):
                loop.lease.leave()


def _beat(lease: LeaderLease, report: Status, over: threading.Event) -> None:
    """Keep the lease and write the status file, also while a round runs."""
    beaten = -BEAT_S
    while not over.is_set():
        if time.monotonic() - beaten >= BEAT_S:
            try:
                lease.beat()
            except HeadraceError as error:
                log.warning("cannot renew the lease at present: %s", error)
            beaten = time.monotonic()
        report.flush()
        over.wait(_FLUSH_S)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Only once: the shutdown must not be interrupted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _go_with_parent() -> None:
    ending_with(os.getppid())()

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGINT)  # to the process: the main thread may be asleep

    threading.Thread(target=listen, name="parent", daemon=True).start()


def _lower_priority(nice: int) -> None:
    os.nice(nice)
    # With autogrouping, the kernel applies priorities within a session's group, and each group has its own priority.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(f"{nice}\n")


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of torch crash in a normal interpreter shutdown.
    os._exit(code)
