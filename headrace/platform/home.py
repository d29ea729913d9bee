"""The home: where embedded state, keys, locks and logs live on disk.

<home>/
  objects/            SeaweedFS: every embedded bucket, among them the head's
  files/              the file tier, unless settings name a directory
  logs/NAME.log       one per process; NAME.log.1 is the one before, once it passed 10 MB
  models-cache/       converted weights
  demo/               documents of the demo
  metadata.db         tenants and API keys, unless settings name a PostgreSQL
  unrecorded/         answers that the head could not take yet, a file each
  up.json             where `headrace up` answers, while it runs
  platform/
    keys.json         random keys, made once and kept
    ports.json        ports of the last start, taken again when free
    certificate.pem   key and certificate by which SeaweedFS knows itself
    genuine.json      programs whose SHA-256 was found right, as long as they stay as they are
    format            version of what the home holds
    platform.json     what runs now; removed before anything stops
    endpoints.json    where each tier answers, for the model server
    request.json      parts the commands asked the supervisor for
    lease             shared flock: held by every command that uses the platform
    start.lock        exclusive flock: held while a command looks for, or starts, the supervisor
    running.lock      exclusive flock: held by the supervisor and its children, so it is free only when all are gone
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

from headrace.atomic import replacing
from headrace.errors import HeadraceError, HomeRefused, StorageFull
from headrace.genuine import GENUINE
from headrace.settings import EmbeddedPart, Settings

FREE_BYTES = 64 << 20
"""With less free space than this nothing is started, and a store that fails is taken to fail for want of it."""


FORMAT = 2
"""Version of the names under which a home keeps its data: stores, columns, keys. Increased when older homes become unreadable."""

DEMO = "demo"
"""The part of a home that the demo writes documents to."""
_MARKS = ("keys.json", "endpoints.json", "platform.json", "running.lock")


def is_home(folder: Path) -> bool:
    """Whether a folder bears the marks of a home, whosever it is."""
    return any(os.path.lexists(folder / "platform" / mark) for mark in _MARKS)


class Home:
    """Paths under one home directory; `prepare()` makes it exist, private to its owner."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.objects = self.root / "objects"
        self.files = self.root / "files"
        self.logs = self.root / "logs"
        self.models_cache = self.root / "models-cache"
        self.metadata = self.root / "metadata.db"
        self.service = self.root / "up.json"
        self.platform = self.root / "platform"
        self.format = self.platform / "format"
        self.keys = self.platform / "keys.json"
        self.ports = self.platform / "ports.json"
        self.genuine = self.platform / GENUINE
        self.certificate = self.platform / "certificate.pem"
        self.state = self.platform / "platform.json"
        self.endpoints = self.platform / "endpoints.json"
        self.request = self.platform / "request.json"
        self.lease = self.platform / "lease"
        self.start_lock = self.platform / "start.lock"
        self.running_lock = self.platform / "running.lock"

    def prepare(self) -> None:
        """Create the home and its platform directories with mode 0700.

        Raises `HomeRefused` if it belongs to another user, others may write to it, we may not, or another version of Headrace
        wrote it; `StorageFull`.
        """
        try:
            if not self.root.exists():
                self.root.mkdir(mode=0o700, parents=True)
            if not self.root.is_dir():
                raise HomeRefused(f"The home {self.root} is not a directory.", hint="Name another one with --home DIR.")
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
                    f"Others may write to the home {self.root}: its mode is {stat.S_IMODE(self.root.stat().st_mode):04o}.",
                    hint=f"If you trust what is in it: chmod 700 {shlex.quote(str(self.root))}",
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
        """Whether the home has no format yet, since it is new. Raises `HomeRefused` for a home of another format."""
        old = is_home(
            self.root
        )  # asked first: a command that creates the home at the same time writes the format before anything
        try:
            version = self.format.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            if not old:
                return True
            version = "1"  # homes of the first format do not name it
        if version != str(FORMAT):
            raise HomeRefused(
                f"The home {self.root} has format {version}; this version of Headrace reads and writes format {FORMAT}.",
                hint="Use the version of Headrace that wrote it, or start a new home (--home DIR) and index the documents again.",
            )
        return False

    def fullness(self) -> StorageFull | None:
        """The error to raise if the disk that holds the home is full, else `None`."""
        if free_bytes(self) >= FREE_BYTES:
            return None
        return StorageFull(
            f"Less than {FREE_BYTES >> 20} MiB are free where the home {self.root} is.",
            hint="Free some space, or name a home on another disk with --home DIR.",
        )


def free_bytes(home: Home) -> int:
    """Free bytes of the disk that holds a home; none where it was removed."""
    try:
        return shutil.disk_usage(home.root).free
    except OSError:
        return 0


def write_error(error: OSError, path: Path) -> HeadraceError:
    """The error to raise for an `OSError` met while writing under the home: `StorageFull` or `HomeRefused`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"No space is left to write {path}.",
            hint="Free some space, or name a home on another disk with --home DIR.",
        )
    return HomeRefused(
        f"{path} cannot be written: {error.strerror or error}.", hint="Name a directory of your own with --home DIR."
    )


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` with mode 0600: a reader sees the old text or the new, also after a power loss.

    Raises `StorageFull`, `HomeRefused`.
    """
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise write_error(error, path) from None


class Lock:
    """A `flock` on a file: the kernel lets go of it when its last holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether we hold it."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        """The open file, e.g. to hand a share of the lock to a child."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked")
        return self._descriptor

    @property
    def intact(self) -> bool:
        """Whether the path still names the file we locked: a home may be removed, and made anew, under its servers."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except OSError:
            return False

    def acquire(self, *, shared: bool = False, seconds: float = 0.0) -> bool:
        """Take the lock within `seconds` (0: try once); False if others kept it. Raises `HomeRefused`, `StorageFull`."""
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
        """Let go; does nothing when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_FIRST_UID = 1000
"""From here on users are people, by the custom of every large distribution (`UID_MIN` of /etc/login.defs)."""
_NOBODY = 65_534
_NO_SHELLS = ("nologin", "false", "sync", "shutdown", "halt")


def other_users() -> list[str]:
    """Names of the other users who can log in here, by the local list of users: not root, and not a service's."""
    return sorted(
        user.pw_name
        for user in pwd.getpwall()
        if user.pw_uid >= _FIRST_UID and user.pw_uid not in (_NOBODY, os.geteuid()) and Path(user.pw_shell).name not in _NO_SHELLS
    )


def trust(settings: Settings) -> str:
    """What other users of this machine can do to the embedded head, in a sentence; empty where there is neither."""
    if not isinstance(settings.head, EmbeddedPart) or not (others := other_users()):
        return ""
    return (
        f"This machine has other users ({_some(others)}): they can read what passes through the embedded Kafka, questions and"
        " answers among it, and delete what has not landed (SECURITY.md)."
    )


def started_notes(settings: Settings) -> list[str]:
    """What is said when the embedded servers have started."""
    chosen = settings.platform
    own = [
        f"{name} is a program of your own, {path}."
        for name, path in (("SeaweedFS", chosen.weed), ("Tansu", chosen.tansu))
        if path is not None
    ]
    return [*own, *filter(None, [trust(settings)])]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
