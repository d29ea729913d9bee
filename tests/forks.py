"""Child processes to be killed: real ones, forked from a server process that has imported Headrace already.

A new interpreter spends two seconds of processor time on imports before its first line; a fork takes a tenth of one.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("headrace.lineage.forget", "headrace.landing.divergence", "headrace.documents.index", "headrace.training.promote"),
        *("headrace.cli.demo", "headrace.api.app"),
    ]
)


class Failed(str):
    """The traceback of a child that raised; the last that it said."""


class ForkedProcess:
    """`work(link, *given)` in a process of its own. What it sends over the link is collected in `said`, also after its death.

    `work` is a function of a module that the child can import; what is `given` must be picklable.
    """

    def __init__(self, work: Callable[..., object], *given: Any) -> None:
        self._link, theirs = _SERVER.Pipe()
        self._asking = threading.Lock()
        self._process = _SERVER.Process(target=_run, args=(theirs, dict(os.environ), work, given), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.said: list[Any] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, word: Any = None) -> None:
        """Say something to the child, which may have ended meanwhile."""
        with contextlib.suppress(OSError):
            self._link.send(word)

    def signal(self, number: int) -> None:
        """Send a signal to a child that has not been waited for."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, which one that has ended does not mind, and wait for its end."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.exit_code(60.0)

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.exit_code() is not None

    def wait(self, seconds: float = 90.0) -> int:
        """Its exit code, or minus the number of the signal that ended it. Kills it, and fails, if it takes longer."""
        code = self.exit_code(seconds)
        if code is None:
            self.kill()
            raise AssertionError(f"a child did not end within {seconds:.0f} s; it said {self.said[-5:]}")
        self._listener.join(seconds)
        return code

    def result(self, seconds: float = 90.0) -> Any:
        """The last that it said before it ended in good order."""
        code = self.wait(seconds)
        assert code == 0, f"exit code {code}: {self.said[-1:]}"
        return self.said[-1]

    def killed(self, seconds: float = 90.0) -> None:
        """Wait until it has been killed; fail if it ended in another way."""
        code = self.wait(seconds)
        assert code == -signal.SIGKILL, f"exit code {code}: {self.said[-1:]}"

    def exit_code(self, seconds: float = 0.0) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; `None` if it still runs after so many seconds."""
        wait([self._process.sentinel], seconds)
        with self._asking:  # the code can be read once; whoever kills the child and whoever waits for it are two threads
            return self._process.exitcode

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.said.append(self._link.recv())


def _run(link: Connection, env: dict[str, str], work: Callable[..., object], given: tuple[Any, ...]) -> None:
    os.environ.clear()  # the server has that of the test that happened to start it
    os.environ.update(env)
    gc.freeze()  # a collection writes to the headers of all objects, and so would copy the memory that is shared with the server
    try:
        work(link, *given)
    except SystemExit:
        raise
    except BaseException:
        link.send(Failed(traceback.format_exc()))
        raise SystemExit(1) from None
