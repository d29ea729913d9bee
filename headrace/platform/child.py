"""A child process of the supervisor: its log, its end, and an error from its last log lines."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.errors import HeadraceError, MissingPart, StorageFull, Unavailable
from headrace.platform.home import write_error
from headrace.process import ending_with

LOG_BYTES = 10_000_000
"""A longer log is renamed to `NAME.log.1`."""

_PORT_TAKEN = ("address already in use", "address in use", "port allocation failed")
_DISK_FULL = ("no space left on device", "disk quota exceeded")


class PortTaken(Unavailable):
    """Another process took a port after it was chosen; other ports may work."""


class Child:
    """One server process. The kernel kills it when the thread that created it ends, in whatever way."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        keep: Sequence[int] = (),
    ) -> None:
        """Start `command`, with its output appended to `log`; it inherits the descriptors `keep`.

        Raises `MissingPart`, `StorageFull`, `HomeRefused`.
        """
        self.name = name
        self.log = log
        rotate(log)
        try:
            with log.open("ab") as output:
                log.chmod(0o600)
                self._from = output.tell()
                self.process = subprocess.Popen(
                    command,
                    env=dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=tuple(keep),
                    preexec_fn=_bind_to_parent(),
                )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOEXEC, errno.EACCES) and error.filename == command[0]:
                raise MissingPart(f"{command[0]} cannot be started.", hint="Run `make install`.") from None
            raise write_error(error, log) from None

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def trim_log(self) -> None:
        """Rotate the log while the server is writing: other local users can make it log as much as they like.

        Lines written between copy and truncation are lost.
        """
        try:
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, _aside(self.log))
                os.truncate(self.log, 0)  # the server appends, so its next line is at the beginning
                self._from = 0
        except OSError:  # the disk is full, which is reported elsewhere
            return

    def last_words(self, lines: int = 12) -> str:
        """The last `lines` lines that this process, not an earlier one, wrote to its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._from, self.log.stat().st_size - 16_384))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def fault(self, happened: str) -> HeadraceError:
        """An error that explains, from the log, what `happened`: `PortTaken`, `StorageFull` or `Unavailable`."""
        words = self.last_words(200).lower()
        if any(sign in words for sign in _PORT_TAKEN):
            return PortTaken(f"{self.name} {happened}: a port was taken.", hint=f"Try again; its log is {self.log}.")
        if any(sign in words for sign in _DISK_FULL):
            return StorageFull(
                f"{self.name} {happened}: no space left on the home's disk.",
                hint=f"Free some space, or name a home on another disk with --home DIR. Its log is {self.log}.",
            )
        return Unavailable(f"{self.name} {happened}. Its last lines:\n{self.last_words()}\n", hint=f"The full log is {self.log}.")

    def stop(self, seconds: float) -> None:
        """Terminate the process, and kill it if it has not ended after `seconds`."""
        if self.ended:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rotate(log: Path) -> None:
    """Rename a log longer than `LOG_BYTES`."""
    try:
        if log.stat().st_size > LOG_BYTES:
            os.replace(log, _aside(log))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise write_error(error, log) from None


def _aside(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _bind_to_parent() -> Callable[[], None]:
    end_with_parent = ending_with(os.getpid())

    def bind() -> None:
        os.umask(0o077)
        end_with_parent()

    return bind
