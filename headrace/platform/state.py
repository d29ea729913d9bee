"""What the platform keeps under the home: who runs, on which ports, with which keys. Every file is mode 0600."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from headrace.errors import HomeRefused, StorageFull

OBJECTS, HEAD, MODELS = "objects", "head", "models"


@dataclass(frozen=True)
class Keys:
    """Random secrets of one home, made once and kept, since the stored data is signed for with them."""

    access_key: str = field(default_factory=lambda: "HR" + secrets.token_hex(9).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    models_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    internal_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    cluster_id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class State:
    """A running platform: the supervisor's pid and start time, its servers' pids and ports."""

    pid: int
    started: float
    servers: dict[str, int]
    ports: dict[str, int]

    def alive(self) -> bool:
        """Whether that very supervisor still runs; a pid alone may have been given to another process."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Place:
    """The platform's corner of a home."""

    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "platform"

    @property
    def lease(self) -> Path:
        return self.folder / "lease"

    @property
    def starting(self) -> Path:
        return self.folder / "start.lock"

    @property
    def endpoints(self) -> Path:
        return self.folder / "endpoints.json"

    @property
    def failure(self) -> Path:
        return self.folder / "failure.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def prepare(self) -> None:
        """Make the folders. Raises `HomeRefused` where the home is somebody else's or cannot be written."""
        try:
            for folder in (self.home, self.folder, self.logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HomeRefused(
                f"The home {self.home} cannot be made: {error.strerror}.", hint="Choose another with --home DIR."
            ) from None
        owner = self.home.stat().st_uid
        if owner != os.getuid() or not os.access(self.home, os.W_OK):
            raise HomeRefused(
                f"The home {self.home} belongs to another user (uid {owner}) or is read-only.",
                hint="Choose another with --home DIR.",
            )

    def keys(self) -> Keys:
        """The keys of this home, made at first use."""
        path = self.folder / "keys.json"
        with contextlib.suppress(FileNotFoundError):
            return Keys(**json.loads(path.read_bytes()))
        keys = Keys()
        write_private(path, json.dumps(asdict(keys)))
        return keys

    def read(self) -> State | None:
        """The state on disk, or `None` where there is none or it cannot be understood."""
        try:
            return State(**json.loads((self.folder / "platform.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, state: State) -> None:
        write_private(self.folder / "platform.json", json.dumps(asdict(state)))

    def clear(self) -> None:
        (self.folder / "platform.json").unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner alone. Raises `StorageFull` where the disk is."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise StorageFull(f"No space left to write {path}.", hint="Free some space and run again.") from None
        raise
