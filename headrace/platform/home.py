"""The home: the directory of embedded state, keys, locks and logs.

<home>/
  objects/            SeaweedFS: every embedded bucket, among them the head's
  files/              the file tier, unless settings name a directory; in git-copies/ the newest commits of repositories
  logs/NAME.log       one per process; NAME.log.1 is the previous one, renamed at 10 MB
  models-cache/       converted weights
  demo/               the demo's documents
  metadata.db         tenants and API keys, unless settings name a PostgreSQL
  catalog.db          the Iceberg catalog of an S3 without one, unless settings name a PostgreSQL
  unrecorded/         answers not yet recorded in the head, one file each
  up.json             address of `headrace up` while it runs
  platform/
    keys.json         random keys, created once
    ports.json        ports of the last start, reused if free
    certificate.pem   key and certificate for TLS within SeaweedFS
    genuine.json      programs whose SHA-256 was verified, valid while they are unchanged
    format            version of the home's data
    platform.json     what is running; removed before anything stops
    endpoints.json    endpoints of the tiers, for the model server
    request.json      parts that commands request from the supervisor
    lease             shared flock: held by every command that uses the platform
    start.lock        exclusive flock: held while a command looks for or starts the supervisor
    running.lock      exclusive flock: held by the supervisor and its children, so free only when all have ended
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shlex
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.atomic import replacing
from headrace.errors import HeadraceError, HomeRefused, StorageFull
from headrace.genuine import GENUINE
from headrace.storage.reason import FREE_BYTES

if TYPE_CHECKING:
    from headrace.settings import Settings


FORMAT = 2
"""Version of a home's data (names of stores, columns, keys). Increased when older homes become unreadable."""

DEMO = "demo"
"""Subdirectory for the demo's documents."""
_MARKS = ("keys.json", "endpoints.json", "platform.json", "running.lock")


def is_home(folder: Path) -> bool:
    """Whether a folder is a home, of any user."""
    return any(os.path.lexists(folder / "platform" / mark) for mark in _MARKS)


class Home:
    """Paths under one home directory; `prepare()` creates it, private to its owner."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.objects = self.root / "objects"
        self.files = self.root / "files"
        self.logs = self.root / "logs"
        self.models_cache = self.root / "models-cache"
        self.metadata = self.root / "metadata.db"
        self.service = self.root / "up.json"
        self.service_lock = self.root / "up.lock"
        self.platform = self.root / "platform"
        self.format = self.platform / "format"
        self.keys = self.platform / "keys.json"
        self.ports = self.platform / "ports.json"
        self.clock = self.platform / "clock.json"
        self.genuine = self.platform / GENUINE
        self.certificate = self.platform / "certificate.pem"
        self.state = self.platform / "platform.json"
        self.endpoints = self.platform / "endpoints.json"
        self.request = self.platform / "request.json"
        self.lease = self.platform / "lease"
        self.start_lock = self.platform / "start.lock"
        self.running_lock = self.platform / "running.lock"

    def prepare(self) -> None:
        """Create the home and its directories with mode 0700.

        Raises `HomeRefused` if it belongs to another user, is writable by others or not by us, or has another format;
        `StorageFull`.
        """
        try:
            if not self.root.exists():
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # another command may be as early
            if not self.root.is_dir():
                raise HomeRefused(f"The home {self.root} is not a directory.", hint="Name another with --home DIR.")
            owner = self.root.stat().st_uid
            if owner != os.geteuid():
                raise HomeRefused(
                    f"The home {self.root} belongs to another user (uid {owner}, you are {os.geteuid()}).",
                    hint="Name one of your own with --home DIR.",
                )
            if not any(self.root.iterdir()):
                self.root.chmod(0o700)
            if self.root.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise HomeRefused(
                    f"Other users may write to the home {self.root}: its mode is {stat.S_IMODE(self.root.stat().st_mode):04o}.",
                    hint=f"If you trust its contents: chmod 700 {shlex.quote(str(self.root))}",
                )
            new = self._check_format()
            for directory in (self.platform, self.logs, self.objects, self.models_cache):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)
            if not os.access(self.platform, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.platform))
            if new:
                write_private(self.format, f"{FORMAT}\n")
        except OSError as error:
            raise write_error(error, self.root) from None

    def _check_format(self) -> bool:
        """Whether the home is new and has no format yet. Raises `HomeRefused` for a home of another format."""
        old = is_home(
            self.root
        )  # checked first: a command that creates the home concurrently writes the format before anything else
        try:
            version = self.format.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            if not old:
                return True
            version = "1"  # homes of the first format have no such file
        if version != str(FORMAT):
            raise HomeRefused(
                f"The home {self.root} has format {version}; this version of Headrace reads and writes format {FORMAT}.",
                hint="Use the version of Headrace that wrote it, or index the documents again: in a new home (--home DIR),"
                " or in this one after `headrace reset`.",
            )
        return False

    def fullness(self) -> StorageFull | None:
        """An error if the home's disk is full, else `None`."""
        if free_bytes(self) >= FREE_BYTES:
            return None
        return StorageFull(
            f"The disk of the home {self.root} has less than {FREE_BYTES >> 20} MiB free.",
            hint="Free some space, or name a home on another disk with --home DIR.",
        )


def free_bytes(home: Home) -> int:
    """Free bytes on a home's disk; 0 if the home was removed."""
    try:
        return shutil.disk_usage(home.root).free
    except OSError:
        return 0


def write_error(error: OSError, path: Path) -> HeadraceError:
    """Translate an `OSError` from writing under the home to `StorageFull` or `HomeRefused`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"No space left to write {path}.",
            hint="Free some space, or name a home on another disk with --home DIR.",
        )
    return HomeRefused(
        f"{path} cannot be written: {error.strerror or error}.", hint="Name a directory of your own with --home DIR."
    )


def write_private(path: Path, text: str) -> None:
    """Atomically and durably replace the file `path` by `text`, with mode 0600.

    Raises `StorageFull`, `HomeRefused`.
    """
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise write_error(error, path) from None


class Lock:
    """A `flock` on a file; the kernel releases it when its last holder ends, in whatever way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether we hold it."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        """The file descriptor, e.g. to share the lock with a child process."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked")
        return self._descriptor

    @property
    def intact(self) -> bool:
        """Whether the path still names the locked file: a home may be removed and recreated while its servers run."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except OSError:
            return False

    def acquire(self, *, shared: bool = False, seconds: float = 0.0) -> bool:
        """Acquire the lock within `seconds` (0: try once); False if it stays taken. Raises `HomeRefused`, `StorageFull`."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(error, self.path) from None
        end = time.monotonic() + seconds
        try:
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= end:
                        os.close(descriptor)
                        return False
                    time.sleep(0.05)
                else:
                    self._descriptor = descriptor
                    return True
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_FIRST_UID = 1000
"""First uid of people's accounts in common distributions (`UID_MIN` of /etc/login.defs)."""
_NOBODY = 65_534
_NO_SHELLS = ("nologin", "false", "sync", "shutdown", "halt")


def other_users() -> list[str]:
    """Names of other local users who can log in, without root and service accounts."""
    return sorted(
        user.pw_name
        for user in pwd.getpwall()
        if user.pw_uid >= _FIRST_UID and user.pw_uid not in (_NOBODY, os.geteuid()) and Path(user.pw_shell).name not in _NO_SHELLS
    )


def trust(settings: Settings) -> str:
    """A sentence on what other users of this machine can do to the embedded head; empty without either."""
    from headrace.settings import EmbeddedPart  # late: the supervisor has no settings and starts sooner without their models

    if not isinstance(settings.head, EmbeddedPart) or not (others := other_users()):
        return ""
    return (
        f"This machine has other users ({_some(others)}): they can read all events in the embedded Kafka, including questions and"
        " answers, and delete events that have not landed (SECURITY.md)."
    )


def started_notes(settings: Settings) -> list[str]:
    """Notes to print when the embedded servers have started."""
    chosen = settings.platform
    own = [
        f"{name} is your own program, {path}."
        for name, path in (("SeaweedFS", chosen.weed), ("Tansu", chosen.tansu))
        if path is not None
    ]
    return [*own, *filter(None, [trust(settings)])]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
