"""Emptying a home: what it holds goes, keys and what lies elsewhere stay.

Entries are renamed into a folder of the home first, which takes an instant, and removed from there: a reset that is killed leaves
no home with half of its data, and the next one removes the rest. Only what Headrace writes is touched, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import HomeRefused, NotFound, StorageFull, Unavailable
from headrace.platform.address import storage_names
from headrace.platform.home import FORMAT, Home, Lock, is_home, write_error, write_private
from headrace.platform.platform import down
from headrace.platform.state import read_service
from headrace.settings import EmbeddedPart, PostgreSQL, Settings
from headrace.storage.endpoints import Endpoints

_DATA = {
    "objects": "everything on the embedded S3: documents, tables, index, models, events of Kafka",
    "files": "the KV cache",
    "metadata.db": "tenants, API keys, and what is known of each document",
    "catalog.db": "the catalog of the tables",
    "unrecorded": "answers that are not recorded yet",
    "runs": "runs and their ledgers",
    "logs": "logs",
    "models-cache": "unpacked weights, which are unpacked again",
    "demo": "the demo's documents",
    "loop.json": "the state of the training loop",
    "check.json": "the last report of `headrace check`",
    "up.json": "the record of a `headrace up` that has ended",
}
"""What Headrace writes into a home, besides `platform/` and the lock of `up`: locks stay, since a command may wait for them."""
_REMOVED = "removed-"  # then random digits: the folder of what is being removed
_BESIDE = ("-wal", "-shm", "-journal")  # files of SQLite beside a database
_PLATFORM_DATA = (
    *("ports.json", "clock.json", "certificate.pem", "genuine.json"),
    *("platform.json", "endpoints.json", "request.json"),
)
_OWN_ROWS = ("tenants", "api_keys", "migrations")


@dataclass(frozen=True)
class Entry:
    """Something in a home: its path below it, what it is, its size in bytes, and where it leads if it is a link.

    A link is removed, never what it points to. `platform` means the files in that directory that a reset removes.
    """

    name: str
    what: str
    bytes: int = 0
    link: str = ""


@dataclass(frozen=True)
class Reset:
    """What a reset of one home removes and keeps.

    `elsewhere` is the storage of the settings outside the home, by tier, which no reset touches.
    """

    home: Path
    removes: tuple[Entry, ...]
    keeps: tuple[Entry, ...]
    elsewhere: dict[str, str] = field(default_factory=dict)
    database: Path | None = None
    """The metadata store, if keys are kept in it and all else in it goes."""

    def as_dict(self) -> dict[str, Any]:
        """The plan, JSON-ready."""
        return {
            "home": str(self.home),
            "removed": [asdict(entry) for entry in self.removes],
            "kept": [asdict(entry) for entry in self.keeps],
            "elsewhere": self.elsewhere,
        }


def planned(settings: Settings, endpoints: Endpoints, *, keys: bool) -> Reset:
    """What a reset would do now; with `keys` it removes those, too.

    Raises `NotFound` where there is no home, `HomeRefused` for a folder that is not a home or belongs to another user, and
    `Unavailable` beside a running `headrace up`.
    """
    home = Home(settings.home)
    root = home.root
    if not root.exists():
        raise NotFound(f"There is no home {root}.", hint="Name another with --home DIR.")
    if not root.is_dir() or not (is_home(root) or home.format.exists() or (root / "runs" / "running").is_dir()):
        raise HomeRefused(f"{root} is not a home of Headrace, so nothing in it is removed.", hint="Name a home with --home DIR.")
    if home.platform.is_symlink():
        raise HomeRefused(f"{home.platform} is a link, and no reset leaves the home.", hint="Put the folder itself in its place.")
    if (owner := root.stat().st_uid) != os.geteuid():
        raise HomeRefused(f"The home {root} belongs to another user (uid {owner}).", hint="Reset it as that user.")
    _require_no_service(home)
    own_s3, own_tables = (not isinstance(part, EmbeddedPart) for part in (settings.objects, settings.tables))
    removes, keeps, database = [], [], None
    for path in sorted(root.iterdir()):
        name = path.name
        base = next((name.removesuffix(end) for end in _BESIDE if name.endswith(end)), name)
        if name.startswith(_REMOVED):
            removes.append(_entry(path, "what an interrupted reset left"))
        elif base == "metadata.db" and not keys:
            if name == base:
                database = None if path.is_symlink() else path
                keeps.append(_entry(path, "tenants and API keys" + ("" if database is None else "; all else in it goes")))
        elif base == "catalog.db" and own_s3 and not own_tables:
            if name == base:
                keeps.append(_entry(path, "the catalog of the tables in your bucket, which could not be found without it"))
        elif base in _DATA:
            removes.append(_entry(path, _DATA[base]))
        elif name not in ("platform", "up.lock"):
            keeps.append(_entry(path, "not written by Headrace"))
    if state := _platform_data(home):
        removes.append(Entry("platform", "addresses, ports and the certificate of the embedded servers", sum(map(_bytes, state))))
    if os.path.lexists(home.keys):
        of_home = "keys of the embedded servers, and the one that signs events"
        (removes if keys else keeps).append(_entry(home.keys, of_home))
    return Reset(root, tuple(removes), tuple(keeps), _elsewhere(settings, endpoints), database)


def _elsewhere(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    named = storage_names(settings, endpoints)
    brought = {
        "object": not isinstance(settings.objects, EmbeddedPart),
        "table": not isinstance(settings.objects, EmbeddedPart) or not isinstance(settings.tables, EmbeddedPart),
        "vector": not isinstance(settings.objects, EmbeddedPart) or settings.vectors.uri is not None,
        "stream": not isinstance(settings.head, EmbeddedPart),
        "file": settings.files.dir is not None,
    }
    found = {tier: named[tier] for tier, own in brought.items() if own}
    if "object" in found:
        found["object"] += f", bucket {endpoints.bucket}"
    if isinstance(settings.metadata, PostgreSQL):
        found["metadata"] = "PostgreSQL: tenants and API keys"
    return found


def reset(settings: Settings, plan: Reset, *, at_work: Callable[[], list[str]]) -> None:
    """Do what was planned: end the idle servers, then remove. `at_work` names the runs that are under way in the home.

    Raises `Unavailable` if another command or a `headrace up` works in the home, `HomeRefused` where something cannot be removed,
    `StorageFull` where not even that makes room.
    """
    home = Home(settings.home)
    with _alone(settings, home, at_work):
        folder = home.root / f"{_REMOVED}{secrets.token_hex(4)}"
        try:
            _remove_set_aside(home)  # of a reset that was interrupted: on a full disk there may be no room for a folder
            folder.mkdir(mode=0o700)
            for entry in plan.removes:
                for path in _platform_data(home) if entry.name == "platform" else [home.root / entry.name]:
                    _set_aside(path, folder)
            _remove_set_aside(home)
            if plan.database is not None:  # last, since this takes space, and a full disk has some only now
                _keep_keys(plan.database)
        except OSError as error:
            raise write_error(error, Path(error.filename or home.root)) from None
        except sqlite3.Error as error:
            if "full" in str(error) or home.fullness() is not None:
                raise StorageFull(f"No space left to write {plan.database}.", hint="Free some space and run again.") from None
            raise HomeRefused(f"{plan.database} cannot be emptied: {error}.", hint="Remove it as well: --keys.") from None
        write_private(home.format, f"{FORMAT}\n")
        home.prepare()


def _remove_set_aside(home: Home) -> None:
    for leftover in sorted(home.root.glob(f"{_REMOVED}*")):
        if not leftover.is_symlink():
            shutil.rmtree(leftover)


def _platform_data(home: Home) -> list[Path]:
    return [home.platform / name for name in _PLATFORM_DATA if os.path.lexists(home.platform / name)]


@contextlib.contextmanager
def _alone(settings: Settings, home: Home, at_work: Callable[[], list[str]]) -> Iterator[None]:
    """Keep every other command out of the home for the duration of the block. Raises `Unavailable` where one is at work."""
    with ExitStack() as held:
        _require_no_service(home)
        if busy := at_work():
            raise Unavailable(f"{busy[0]} is at work in the home {home.root}.", hint="End it, or wait until it is done.")
        down(settings)
        home.platform.mkdir(mode=0o700, exist_ok=True)
        for path in (home.service_lock, home.start_lock, home.lease, home.running_lock):
            lock = Lock(path)
            if not lock.acquire():
                raise Unavailable(f"Another command uses the home {home.root}.", hint="End it, or wait until it is done.")
            held.callback(lock.release)
        yield


def _require_no_service(home: Home) -> None:
    if (service := read_service(home)) is not None:
        raise Unavailable(f"A `headrace up` runs in the home {home.root}: {service.url}.", hint="End it first, with Ctrl-C.")


def _set_aside(path: Path, folder: Path) -> None:
    """Move an entry of the home into a folder of it; a mount point, which cannot be moved, is emptied."""
    if path.is_symlink():
        path.unlink()
        return
    try:
        path.rename(folder / secrets.token_hex(8))
    except FileNotFoundError:  # the servers that have just ended removed it
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        for inner in path.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()


def _keep_keys(database: Path) -> None:
    """Empty a metadata store except for tenants and API keys."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        connection.execute("BEGIN IMMEDIATE")
        for name in names:
            if name not in _OWN_ROWS and not name.startswith("sqlite_"):
                connection.execute(f'DELETE FROM "{name}"')
        connection.execute("COMMIT")
        connection.execute("VACUUM")  # or the deleted text would stay in the file


def _entry(path: Path, what: str) -> Entry:
    """An entry of a home, below which no link is followed."""
    name = f"platform/{path.name}" if path.parent.name == "platform" else path.name
    if path.is_symlink():
        return Entry(name, what, link=str(path.readlink()))
    return Entry(name, what, _bytes(path))


def _bytes(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # it may go meanwhile
        if not path.is_dir():
            return path.lstat().st_size
        for folder, _, files in os.walk(path):
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total
