"""A child process of the supervisor: its log, its end, and what its last words say went wrong."""

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
"""A log longer than this is set aside as `NAME.log.1`."""

_PORT_TAKEN = ("address already in use", "address in use", "port allocation failed")
_DISK_FULL = ("no space left on device", "disk quota exceeded")


class PortTaken(Unavailable):
    """Somebody took a port between its choice and its use; other ports may do."""


class Child:
    """One server process. It is killed by the kernel when the thread that made it ends, however that ends."""

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
        """Start `command`, its output appended to `log`; it inherits the descriptors `keep`.

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
        """Whether the process is over."""
        return self.process.poll() is not None

    def trim_log(self) -> None:
        """Set the log aside though the server goes on writing to it: strangers have it say something as often as they like.

        What is written between copy and cut is lost.
        """
        try:
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, _aside(self.log))
                os.truncate(self.log, 0)  # it is appended to, so what comes next stands at its beginning
                self._from = 0
        except OSError:  # the disk is full, which is said elsewhere
            return

    def last_words(self, lines: int = 12) -> str:
        """The last `lines` lines this process, not one before it, wrote to its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._from, self.log.stat().st_size - 16_384))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def fault(self, happened: str) -> HeadraceError:
        """The error that explains why `happened`, from the log: `PortTaken`, `StorageFull` or `Unavailable`."""
        words = self.last_words(200).lower()
        if any(sign in words for sign in _PORT_TAKEN):
            return PortTaken(f"{self.name} {happened}: a port was taken.", hint=f"Try again; its log is {self.log}.")
        if any(sign in words for sign in _DISK_FULL):
            return StorageFull(
                f"{self.name} {happened}: no space is left where the home is.",
                hint=f"Free some space, or name a home on another disk with --home DIR. Its log is {self.log}.",
            )
        return Unavailable(
            f"{self.name} {happened}. Its last lines:\n{self.last_words()}\n", hint=f"The whole log is {self.log}."
        )

    def stop(self, seconds: float) -> None:
        """Ask the process to end, and kill it if it has not after `seconds`."""
        if self.ended:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rotate(log: Path) -> None:
    """Set a log aside that grew past `LOG_BYTES`."""
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
