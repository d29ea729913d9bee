"""The `git` program, run so that no repository can have it run anything: no hook, filter, helper, or protocol but the one named.

Nothing of the user's or the machine's configuration counts either. Nothing is ever checked out.
"""

from __future__ import annotations

import atexit
import base64
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import AccessDenied, HeadraceError, MissingPart, NotFound, StorageFull, Unavailable
from headrace.terminal import printable

_KEPT = (
    *("PATH", "TMPDIR", "LD_LIBRARY_PATH"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""Of the environment: where programs are, and how a server is reached and known."""

_CONFIGURATION = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.askPass": "",
    "core.logAllRefUpdates": "false",
    "core.bigFileThreshold": "16m",  # what is larger is never whole in memory
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",  # what was fetched is one file, whose size can be bounded
    "gc.autoDetach": "false",
    "gc.autoPackLimit": "20",
    "gc.cruftPacks": "false",
    "gc.pruneExpire": "now",  # what no commit has that is still to be read
    "http.followRedirects": "false",  # another address would be sent the credentials of this one
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "60",  # a server that sends nothing for so many seconds is away
    "maintenance.auto": "false",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "protocol.version": "2",
    "submodule.recurse": "false",
}
_MEMORY_BYTES = 1 << 30
"""That a command may take, beside the files that it maps. An object may be stored as a few bytes that say to repeat another one
any number of times, and git makes it whole in memory, both to fetch it and to read it."""
_ASK_S, _FETCH_S, _SAID_S = 60.0, 3_600.0, 5.0
_ANSWER_BYTES = 1 << 20
_SAID = 4_096  # bytes of what it says that are looked at
_PIECE = 1 << 16
_OWNED = "dubious ownership"
_DENIED = re.compile(r"Authentication failed|could not read (Username|Password)|error: 40[13]|Permission denied", re.IGNORECASE)
_ABSENT = re.compile(r"not found|does not (appear to be a git repository|exist)|couldn't find remote ref", re.IGNORECASE)
_MOVED = re.compile(r"error: 30[12378]|redirect", re.IGNORECASE)
_MEMORY = re.compile(r"Out of memory|Cannot allocate memory", re.IGNORECASE)
_FULL = re.compile(r"No space left|Disk quota exceeded", re.IGNORECASE)

_pids: set[int] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Remote:
    """A repository that is read: its URL, and who asks. `token` is a secret."""

    url: str
    user: str = ""
    token: str = ""

    @property
    def scheme(self) -> str:
        """The only protocol that may be used."""
        return self.url.partition("://")[0]

    def header(self) -> str:
        """The header that says who asks; empty where nobody needs to know."""
        return f"Authorization: Basic {base64.b64encode(f'{self.user}:{self.token}'.encode()).decode()}" if self.token else ""


class Git:
    """Runs git beside a copy, a bare repository that need not be there yet; only `ask` and `fetch` reach the remote."""

    def __init__(self, remote: Remote, copy: Path) -> None:
        self._remote = remote
        self._copy = copy

    def ask(self, *arguments: str) -> bytes:
        """What a command says that asks the remote, without a repository. Raises as `fetch`."""
        return self._whole(arguments, remote=True, seconds=_ASK_S)

    def fetch(self, *arguments: str, most_bytes: int, lock: int) -> None:
        """Run a command that asks the remote and writes to the copy; no file that it writes may be larger than `most_bytes`.

        The lock (a descriptor) stays held while the command runs, even if this process is killed. Raises `NotFound`,
        `AccessDenied`, `StorageFull`, `Unavailable`, and `MissingPart` where git is not installed.
        """
        self._whole(arguments, remote=True, seconds=_FETCH_S, most_bytes=most_bytes, lock=lock, copy=True)

    def local(self, *arguments: str, lock: int | None = None) -> bytes:
        """What a command says that needs the copy alone, and may use no protocol. Raises `Unavailable` and `MissingPart`."""
        return self._whole(arguments, seconds=_FETCH_S, lock=lock, copy=True)

    def pieces(self, *arguments: str) -> Iterator[bytes]:
        """The same, piece by piece; the command is ended if its pieces are not all taken."""
        with self._started(arguments, seconds=_FETCH_S, copy=True) as running:
            yield from running.pieces()
            self._check(running, remote=False)

    def _whole(
        self,
        arguments: Sequence[str],
        *,
        seconds: float,
        remote: bool = False,
        most_bytes: int | None = None,
        lock: int | None = None,
        copy: bool = False,
    ) -> bytes:
        with self._started(arguments, seconds=seconds, remote=remote, most_bytes=most_bytes, lock=lock, copy=copy) as running:
            out = b""
            for piece in running.pieces():
                out += piece
                if len(out) > _ANSWER_BYTES:
                    raise Unavailable(f"{self._remote.url} says more than it was asked.", hint="Is it a repository?")
            self._check(running, remote=remote)
            return out

    @contextmanager
    def _started(
        self,
        arguments: Sequence[str],
        *,
        seconds: float,
        remote: bool = False,
        most_bytes: int | None = None,
        lock: int | None = None,
        copy: bool = False,
    ) -> Iterator[_Running]:
        program = shutil.which("git")
        if program is None:
            raise MissingPart("git is not installed, which reads repositories.", hint="Install it, e.g. apt-get install git.")
        process = subprocess.Popen(
            [*_bounded(most_bytes), program, *arguments],
            cwd=self._copy.parent,
            env=self._environment(remote=remote, copy=copy),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        running = _Running(process, seconds)
        try:
            yield running
        finally:
            running.end()

    def _environment(self, *, remote: bool, copy: bool) -> dict[str, str]:
        settings = dict(_CONFIGURATION)
        if remote and (header := self._remote.header()):
            settings["http.extraHeader"] = header  # in the environment, which other users cannot see
        numbered = list(enumerate(settings.items()))
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            **{f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in numbered},
            **{f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in numbered},
            "GIT_CONFIG_COUNT": str(len(numbered)),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": self._remote.scheme if remote else "",
            "GIT_ASKPASS": "",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            # No repository that the directory happens to be in.
            "GIT_CEILING_DIRECTORIES": str(self._copy.parent.parent),
            **({"GIT_DIR": str(self._copy)} if copy else {}),
            "HOME": str(self._copy),  # no .netrc
            "XDG_CONFIG_HOME": str(self._copy),
            "LC_ALL": "C",
        }

    def _check(self, running: _Running, *, remote: bool) -> None:
        code, said = running.result()
        if running.late:
            raise Unavailable(
                f"{self._remote.url} did not answer within {running.seconds:,.0f} s.", hint="Is its server overloaded?"
            )
        if code:
            raise self._fault(said.decode("utf-8", "replace"), remote=remote)

    def _fault(self, said: str, *, remote: bool) -> HeadraceError:
        url = self._remote.url
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        line = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0] if lines else "no reason given")
        why = printable(line.partition(": ")[2] if line.startswith(("fatal:", "error:")) else line).rstrip(".")
        if _FULL.search(said):
            return StorageFull(f"No space left under {self._copy.parent} for a copy of {url}.", hint="Free some space.")
        if _MEMORY.search(said):
            return Unavailable(
                f"{url} has an object that takes more than {_MEMORY_BYTES >> 20:,} MiB of memory.",
                hint="Remove it from the branch.",
            )
        if not remote:
            return Unavailable(f"The copy of {url} cannot be read: {why}.", hint="It is looked at again.")
        if _OWNED in said:
            return AccessDenied(
                f"{url} belongs to another user of this machine, from whom git reads nothing.",
                hint="Run Headrace as that user, or have the repository served over https.",
            )
        if _MOVED.search(said):
            return Unavailable(f"{url} has moved: its server names another address.", hint="Name that one in its place.")
        if _DENIED.search(said):
            return AccessDenied(f"{url} may not be read: {why}.", hint="Check `user` and `token` under [sources.git].")
        if _ABSENT.search(said):
            return NotFound(
                f"{url} is no repository that can be read: {why}.", hint="Check the address, and `token` if it is private."
            )
        return Unavailable(f"{url} cannot be read: {why}.", hint="Is its server up, and its address right?")


def _bounded(most_bytes: int | None) -> list[str]:
    """What a command follows whose memory and written files are bounded. Limits set from here could be late."""
    limits = f"ulimit -c 0; ulimit -d {_MEMORY_BYTES >> 10}"  # ulimit(1): KiB, and blocks of 512 bytes
    limits += "" if most_bytes is None else f"; ulimit -f {-(-most_bytes // 512)}"
    return ["/bin/sh", "-c", f'{limits}; exec "$@"', "sh"]


class _Running:
    """A command that runs. It is ended after so many seconds, with all that it started; of what it says only the end is kept."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.seconds = seconds
        self.late = False
        self._process, self._out, self._errors = process, process.stdout, process.stderr
        self._said = b""
        with _lock:
            _pids.add(process.pid)
        self._listener = threading.Thread(target=self._listen, name="git says", daemon=True)
        self._listener.start()
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def pieces(self) -> Iterator[bytes]:
        """Its output, to its end."""
        while piece := os.read(self._out.fileno(), _PIECE):
            yield piece

    def result(self) -> tuple[int, bytes]:
        """Its exit code, which is waited for, and the end of what it said."""
        code = self._process.wait()
        self._listener.join(_SAID_S)
        return code, self._said

    def end(self) -> None:
        """End it, if it has not ended."""
        self._timer.cancel()
        self._kill()
        self._process.wait()
        with _lock:
            _pids.discard(self._process.pid)
        self._listener.join(_SAID_S)
        self._out.close()
        self._errors.close()

    def _kill(self) -> None:
        with _lock:
            if self._process.poll() is None:  # else its number may be another's
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _expire(self) -> None:
        self.late = True
        self._kill()

    def _listen(self) -> None:
        with suppress(OSError, ValueError):  # it was closed
            while piece := os.read(self._errors.fileno(), _PIECE):
                self._said = (self._said + piece)[-_SAID:]


@atexit.register
def _end_all() -> None:
    """End what still runs in threads that are not waited for."""
    with _lock:
        for pid in _pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
