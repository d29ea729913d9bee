"""A second process, for promises about concurrent processes.

The first process sends a line of JSON, `{"call": "files.watch", "given": {…}}`, and reads one back, `{"answer": …}`. The second
ends with the first, when its standard input closes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import Any

from headrace.errors import Unavailable
from headrace.process import python

_MODULES = ("objects", "catalog", "files")
_READY_S = 60.0


class PeerProcess:
    """A second process for a `with` block; `ask` makes it call a function of a module of this package."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process does
        command, env = python("headrace.check.peer")
        # Its own session: only this process gets a Ctrl-C, and ends it cleanly.
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def ask(self, call: str, **arguments: Any) -> PeerAnswer:
        """Begin a call, e.g. `files.watch`, and return its future answer. One call at a time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, "given": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self.died() from None
        return PeerAnswer(self)

    def line(self) -> bytes:
        """Its next line of output; empty once it has ended."""
        assert self._process.stdout is not None
        try:
            return self._process.stdout.readline()
        except ValueError:  # closed meanwhile: the block was left, e.g. by Ctrl-C
            return b""

    def died(self) -> Unavailable:
        """The error for an unexpected end."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return Unavailable(
            f"The check's second process ended: {lines[-1] if lines else 'without output'}.", hint="Run the check again."
        )


class PeerAnswer:
    """A pending answer."""

    def __init__(self, second: PeerProcess) -> None:
        self._second = second
        self._line = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def get(self, seconds: float) -> Any:
        """Wait for the answer. Raises `OSError` with the call's error if it failed, or `Unavailable`."""
        self._reader.join(seconds)
        if self._reader.is_alive():
            raise Unavailable(f"The check's second process did not answer within {seconds:.0f} s.", hint="Run the check again.")
        if not self._line:
            raise self._second.died()
        answer = json.loads(self._line)
        if "fault" in answer:
            raise OSError(f"in a second process: {answer['fault']}")
        return answer["answer"]

    def _read(self) -> None:
        self._line = self._second.line()


def begin_at(second: PeerProcess, module: str) -> float:
    """Let the second process import a module; returns the moment (`time.monotonic`) when both should begin."""
    second.ask("ready", module=module).get(_READY_S)
    return time.monotonic() + 0.05


def wait_until(moment: float) -> None:
    """Sleep until a moment of `time.monotonic`, a clock that all processes of a machine share."""
    time.sleep(max(0.0, moment - time.monotonic()))


def _called(call: str, arguments: dict[str, Any]) -> Any:
    if call == "ready":
        importlib.import_module(f"headrace.check.{arguments['module']}")
        return None
    module, _, name = call.partition(".")
    if module not in _MODULES:
        raise ValueError(f"no module {module!r}")
    return getattr(importlib.import_module(f"headrace.check.{module}"), name)(**arguments)


def main() -> None:
    """Answer calls until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"answer": _called(request["call"], request["given"])}
        except Exception as error:  # reported to the first process
            reply = {"fault": f"{type(error).__name__}: {error}"[:500]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
