"""The `headrace` command in forked processes: a tenth of the time that `Home.run` takes, for what it prints and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import sys
import weakref
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import TYPE_CHECKING, Any

from forks import ForkedProcess

if TYPE_CHECKING:
    from conftest import Home


class Command:
    """A command that runs in a home: what `subprocess.Popen` has of a process, in a process group of its own.

    What it writes is in `out` and `err`, or in the file `log`, as soon as it is written; `more` goes into its environment.
    """

    def __init__(self, home: Home, *words: str | Path, log: Path | None = None, **more: str) -> None:
        self.args = ["headrace", "--home", str(home.path), *map(str, words)]
        if log:
            log.touch()
            self._streams = [log, log]
        else:
            files = [os.memfd_create(stream) for stream in ("out", "err")]
            weakref.finalize(self, lambda: [os.close(file) for file in files])
            self._streams = [Path(f"/proc/{os.getpid()}/fd/{file}") for file in files]
        streams = [os.devnull, *map(str, self._streams)]
        self._process = ForkedProcess(_command, self.args[1:], {**home.env, **more}, str(home.path.parent), *streams)
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return self._streams[0].read_text()

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return self._streams[1].read_text()

    def poll(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; `None` while it runs."""
        return self._process.exit_code()

    returncode = property(poll)

    def wait(self, timeout: float = 60) -> int:
        """The same, once it has ended. Raises `TimeoutExpired`."""
        code = self._process.exit_code(timeout)
        if code is None:
            raise TimeoutExpired(self.args, timeout)
        return code

    def communicate(self, timeout: float = 200) -> tuple[str, str]:
        """What it wrote, once it has ended. Raises `TimeoutExpired`."""
        self.wait(timeout)
        return self.out, self.err

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, which one that has ended does not mind, and wait for its end."""
        self._process.kill()


def run(home: Home, *words: str | Path, code: int = 0, **more: str) -> CompletedProcess[str]:
    """A command in a home, run to its end, which must be exit code `code` without a traceback; `more` goes into its env."""
    command = Command(home, *words, **more)
    try:
        out, err = command.communicate()
    finally:
        command.kill()
    assert command.returncode == code, f"{' '.join(command.args)}: exit {command.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err, err
    return CompletedProcess(command.args, code, out, err)


def as_json(home: Home, *words: str | Path, **more: str) -> Any:
    """What the command prints with `--json`."""
    return json.loads(run(home, *words, "--json", **more).stdout)


def sql(home: Home, query: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    rows: list[dict[str, Any]] = as_json(home, "sql", query)["rows"]
    return rows


def on_terminal(home: Home, *words: str | Path) -> bytes:
    """What a command writes to a terminal, whatever it ends with."""
    ours, theirs = pty.openpty()
    try:
        typed = ["--home", str(home.path), *map(str, words)]
        process = ForkedProcess(_command, typed, home.env, str(home.path.parent), *[os.ttyname(theirs)] * 3)
        shown = b""
        while True:
            ended = process.ended
            while select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65536)
            if ended:  # looked at before what there was to read
                return shown
    finally:
        os.close(ours)
        os.close(theirs)


def _command(_: Connection, typed: list[str], env: dict[str, str], folder: str, *streams: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    os.setsid()
    for descriptor, (name, way) in enumerate(zip(streams, ("rb", "ab", "ab"), strict=True)):
        with open(name, way, buffering=0) as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = ["headrace", *typed]
    from headrace.cli import main

    main()
