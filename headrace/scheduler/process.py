"""The training loop's process, which `headrace up` starts, watches and ends."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from headrace.platform.child import rotate
from headrace.platform.home import Home, write_error
from headrace.process import python
from headrace.scheduler import status
from headrace.scheduler.scheduler import Pause
from headrace.settings import Settings

_LOOK_S = 0.2
_END_S = 5.0
"""Short, because an interrupted round resumes from its last checkpoint."""
_LASTED_S = 120.0


class SchedulerProcess:
    """A context manager that keeps the loop's process running and restarts it when it ends unexpectedly.

    The kernel ends the process with the thread that started it, so that thread stays until it has ended.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._home = Home(settings.home)
        self._name = name
        self._over = threading.Event()
        self._pause = Pause(2.0, 300.0)
        self._thread = threading.Thread(target=self._keep, name="loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.join(_END_S + 5.0)

    def stop(self) -> None:
        """Tell the process to end, without waiting for it."""
        self._over.set()

    def _keep(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                process = self._start()
            except Exception as error:
                self._wait(f"The training loop's process cannot be started: {error}")
                continue
            while process.poll() is None and not self._over.wait(_LOOK_S):
                pass
            if self._over.is_set():
                self._end(process)
                return
            if time.monotonic() - began > _LASTED_S:
                self._pause.succeeded()
            self._wait(_how(process.returncode))

    def _start(self) -> subprocess.Popen[bytes]:
        log = self._home.logs / "loop.log"
        command, env = python("headrace.scheduler")
        try:
            self._home.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            rotate(log)
            with log.open("ab") as output:
                log.chmod(0o600)
                return subprocess.Popen(
                    [*command, "--home", str(self._home.root), "--name", self._name],
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that it gets a Ctrl-C once, from us
                )
        except OSError as error:
            raise write_error(error, log) from None

    def _wait(self, why: str) -> None:
        """Write that it ended and when it will be restarted, and wait until then."""
        wait_s = self._pause.failed()
        state = status.stored(self._home.root)
        # The trouble it reported before it ended is more useful than its exit code.
        reason = state["trouble"] if state["state"] == status.ENDED else None
        trouble = {"recipe": "", "why": why, "hint": f"Its log is {self._home.logs / 'loop.log'}.", **(reason or {})}
        trouble |= {"times": self._pause.times, "next": (datetime.now(UTC) + timedelta(seconds=wait_s)).isoformat()}
        status.write(self._home.root, {**state, "state": status.RESTARTING, "trouble": trouble})
        self._over.wait(wait_s)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _how(code: int) -> str:
    if code < 0:
        return f"The training loop's process was ended by {signal.Signals(-code).name}."
    return f"The training loop's process ended unexpectedly with exit code {code}."
