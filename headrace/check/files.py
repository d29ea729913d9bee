"""Promises of a POSIX directory, local or NFS, tested in a directory of the check's own.

The second process runs on the same machine. On NFS, it shares this machine's cache of the mount, so other machines may see
changes later than measured here, by as long as the mount caches attributes (`acregmax`, `acdirmax`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.catalog import KV_CACHE, Tier
from headrace.check.peer import PeerProcess, begin_at, wait_until
from headrace.check.promise import Broken, Measured, NotNeeded, Promise, Promises, TimeBudget, latency, promise
from headrace.errors import Unavailable
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

_BLOCK_BYTES = 3 << 20  # a KV block of the embedded generator is about this large
_ANSWER_S = 30.0
_SEEN_S = 5.0
_HEADER = struct.Struct(">QI")
_BODY_BYTES = 256 << 10


class FilesSandbox:
    """A temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / f"headrace-check-{secrets.token_hex(6)}"

    def clear(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise Unavailable(f"{self.folder} could not be deleted.", hint="Delete it by hand.")


@promise(
    "exists, accepts files and has free space",
    loses="the KV cache: every prefix would be recomputed",
)
def answers(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    if not sandbox.root.is_dir():
        raise Broken(f"{sandbox.root} is not a directory: check that the file system is mounted")
    sandbox.folder.mkdir(mode=0o700)
    _write(sandbox.folder / "here", b"here")
    if (sandbox.folder / "here").read_bytes() != b"here":
        raise Broken("a file of 4 bytes came back with different bytes")
    status = os.statvfs(sandbox.folder)
    free = status.f_bavail * status.f_frsize
    if free < 64 << 20:
        raise Broken(f"only {free >> 20} MiB are free")
    return Measured(f"{free / 2**30:.1f} GiB free", free_gib=free / 2**30)


@promise(
    "renaming over a file is atomic for readers",
    loses="a reader could get half a KV block, or miss an existing one",
)
def atomic_rename(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    path = sandbox.folder / "renamed"
    _write_over(path, _numbered(0))
    seconds = min(2.0, max(0.5, budget.seconds))
    with PeerProcess() as second:
        begin = begin_at(second, "files")
        watching = second.ask("files.watch", path=str(path), begin=begin, seconds=seconds)
        wait_until(begin)
        end, renamed = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            renamed += 1
            _write_over(path, _numbered(renamed))
        reads, faults = watching.get(_ANSWER_S)
    if faults:
        raise Broken(f"{len(faults)} of {reads} reads in a second process failed while the file was replaced: {faults[0]}")
    return Measured(f"{renamed:,} renames, {reads:,} reads in a second process", renames=renamed, reads=reads)


def watch(path: str, begin: float, seconds: float) -> tuple[int, list[str]]:
    """In a second process: read a numbered file repeatedly; returns the number of reads and the faults."""
    wait_until(begin)
    reads, faults, newest = 0, [], 0
    while time.monotonic() < begin + seconds:
        reads += 1
        try:
            number = _number(Path(path).read_bytes())
        except OSError as error:
            faults.append(f"{error.strerror}")
            continue
        if number is None:
            faults.append("a torn file")
        elif number < newest:
            faults.append("an older file after a newer one")
        else:
            newest = number
    return reads, faults


@promise(
    "O_EXCL: of two processes that create a file, only one succeeds",
    loses="two writers could use the same temporary file and mix their bytes",
)
def exclusive(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    folder = sandbox.folder / "exclusive"
    folder.mkdir()
    names = 300
    with PeerProcess() as second:
        begin = begin_at(second, "files")
        theirs = second.ask("files.create_all", folder=str(folder), names=names, begin=begin)
        ours = set(create_all(str(folder), names, begin))
        other = set(theirs.get(_ANSWER_S))
    if both := ours & other:
        raise Broken(f"{len(both)} of {names} files were created by both processes")
    if len(ours | other) != names:
        raise Broken(f"{names - len(ours | other)} of {names} files were created by neither process")
    return Measured(f"{names} files: {len(ours)} here, {len(other)} in a second process", files=names)


def create_all(folder: str, names: int, begin: float) -> list[int]:
    """Create files 0 to `names`; returns those that did not exist."""
    made = []
    for number in range(names):
        wait_until(begin + number * 0.001)  # both processes try the same file at the same moment
        try:
            os.close(os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            continue
        made.append(number)
    return made


@promise(
    "fsync of a file and of its directory works",
    loses="KV blocks could be missing or incomplete after a power cut",
)
def synced(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    files, folders = [], []
    data = os.urandom(4096)
    for number in budget.rounds(5, 100):
        path = sandbox.folder / f"synced-{number}"
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            files.append(time.perf_counter() - began)
        began = time.perf_counter()
        _sync(sandbox.folder)
        folders.append(time.perf_counter() - began)
    file_words, file_figures = latency("file", files)
    folder_words, folder_figures = latency("directory", folders)
    return Measured(f"{file_words}; {folder_words}", **file_figures, **folder_figures)


@promise(
    "a second process sees a new or deleted file at once",
    loses="blocks stored by one worker would be recomputed by the next",
)
def visible(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    folder = sandbox.folder / "visible"
    folder.mkdir()
    made, gone = [], []
    with PeerProcess() as second:
        begin_at(second, "files")
        for number in budget.rounds(3, 20):
            path, data = folder / f"{number}", os.urandom(1000)
            wanted = hashlib.sha256(data).hexdigest()
            # It also looks before the file exists: a mount may cache its absence.
            watching = second.ask("files.appears", path=str(path), sha256=wanted, seconds=_SEEN_S)
            time.sleep(0.02)
            _write_over(path, data)
            written = time.monotonic()
            if (at := watching.get(_ANSWER_S)) is None:
                raise Broken(f"a file was not visible and complete within {_SEEN_S:.0f} s of its rename")
            made.append(max(0.0, at - written))
            watching = second.ask("files.disappears", path=str(path), seconds=_SEEN_S)
            time.sleep(0.02)
            path.unlink()
            deleted = time.monotonic()
            if (at := watching.get(_ANSWER_S)) is None:
                raise Broken(f"a deleted file was still visible after {_SEEN_S:.0f} s")
            gone.append(max(0.0, at - deleted))
    made_words, made_figures = latency("seen", made)
    gone_words, gone_figures = latency("gone", gone)
    return Measured(f"{made_words}; {gone_words}", **made_figures, **gone_figures)


def appears(path: str, sha256: str, seconds: float) -> float | None:
    """In a second process: the moment when a file can be opened, has these bytes and is listed; `None` if never."""
    end = time.monotonic() + seconds
    where = Path(path)
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            data = where.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256 and where.name in os.listdir(where.parent):
                return time.monotonic()
        time.sleep(0.0005)
    return None


def disappears(path: str, seconds: float) -> float | None:
    """In a second process: the moment when a file can no longer be opened and is not listed; `None` if never."""
    end = time.monotonic() + seconds
    where = Path(path)
    while time.monotonic() < end:
        try:
            where.read_bytes()
        except FileNotFoundError:
            if where.name not in os.listdir(where.parent):
                return time.monotonic()
        time.sleep(0.0005)
    return None


@promise(
    "a file being read may be replaced or deleted",
    loses="eviction would make readers fail",
)
def held_open(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    path, data = sandbox.folder / "held", os.urandom(_BODY_BYTES)
    for how in ("replaced", "deleted"):
        _write_over(path, data)
        with path.open("rb") as file:
            first = file.read(1000)
            if how == "replaced":
                _write_over(path, b"other")
            else:
                path.unlink()
            try:
                content = first + file.read()
            except OSError as error:
                raise Broken(f"reading a file failed after it was {how}: {error.strerror}") from None
        if content != data:
            raise Broken(f"a file returned different bytes after it was {how} during reading")
    return Measured("replaced, deleted")


@promise(
    "a memory-mapped file returns the bytes written",
    loses="weights and KV blocks, which are mapped, would be corrupt",
)
def mapped(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    path, data = sandbox.folder / "mapped", os.urandom(_BLOCK_BYTES)
    _write_over(path, data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        if mapping[:] != data:
            raise Broken("it returned different bytes")
    return Measured(f"{_BLOCK_BYTES >> 20} MiB")


@promise(
    "a file's access time can be set",
    loses="the KV cache would evict blocks in use and keep unused ones",
)
def times(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    path = sandbox.folder / "used"
    _write(path, b"x")
    for wanted in (1_600_000_000_000_000_000, 1_600_000_000_250_000_000):
        os.utime(path, ns=(wanted, wanted))
        if abs(path.stat().st_atime_ns - wanted) > 1_000_000_000:
            raise Broken(f"it was set to {wanted / 1e9:.2f} but is {path.stat().st_atime:.2f}")
    early = time.time()
    os.utime(path)  # like the cache: to now, by the file system's clock
    off = path.stat().st_atime - early
    if path.stat().st_atime_ns <= wanted:
        raise Broken("setting it to now left it in the past")
    return Measured(f"clock {abs(off):.1f} s {'ahead' if off > 0 else 'behind'}", clock_off_s=off)


@promise(
    "names as long as the KV cache's are accepted",
    loses="the KV cache: no block could be stored",
)
def names(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    # A tenant's name may have 63 letters; a block's name is its hash and position, and its temporary file's name is longer.
    key = hashlib.sha256(b"block").hexdigest()
    name = f".part-{secrets.token_hex(6)}-{key}.16383.safetensors"
    path = sandbox.folder / KV_CACHE.name / ("t" * 63) / key[:2] / name
    path.parent.mkdir(parents=True)
    _write(path, b"x")
    path.replace(path.with_name(name.partition("-")[2].partition("-")[2]))
    entries = sorted(entry.name for entry in path.parent.iterdir())
    if entries != [f"{key}.16383.safetensors"]:
        raise Broken(f"a file was named {key}.16383.safetensors but is listed as {entries}")
    return Measured(f"{len(name)} characters, {len(str(path))} with the directories", characters=len(name))


@promise(
    "KV blocks come back unchanged",
    loses="the KV cache: a block that does not match is discarded and recomputed",
)
def blocks(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    writes, reads = [], []
    for number in budget.rounds(4, 40):
        path, data = sandbox.folder / f"block-{number % 8}", os.urandom(_BLOCK_BYTES)
        began = time.perf_counter()
        _write_over(path, data, durable=True)
        written = time.perf_counter()
        content = path.read_bytes()
        reads.append(time.perf_counter() - written)
        writes.append(written - began)
        if content != data:
            raise Broken(f"a block of {_BLOCK_BYTES:,} bytes came back with {len(content):,} bytes, or different ones")
    write_words, write_figures = latency("write", writes)
    read_words, read_figures = latency("read", reads)
    return Measured(f"3 MiB: durable {write_words}; cached {read_words}", **write_figures, **read_figures)


@promise(
    "a lock (flock) excludes a second process",
    loses="nothing: Headrace only locks files in its home",
)
def locks(sandbox: FilesSandbox, budget: TimeBudget) -> Measured:
    path = sandbox.folder / "lock"
    _write(path, b"")
    with PeerProcess() as second, path.open("rb") as file:
        begin_at(second, "files")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise NotNeeded(f"not supported ({error.strerror}); Headrace locks nothing in this directory") from None
        if second.ask("files.try_lock", path=str(path)).get(_ANSWER_S):
            raise NotNeeded("two processes held the lock at once; Headrace locks nothing in this directory")
    return Measured("not relied upon")


def try_lock(path: str) -> bool:
    """In a second process: whether the lock can be acquired without waiting."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
    return True


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _write_over(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file as Headrace does: under a temporary name, then renamed."""
    temporary = path.with_name(f".part-{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(number: int) -> bytes:
    """File contents that repeat a number throughout, in one of two sizes."""
    size = _BODY_BYTES if number % 2 else _BODY_BYTES // 2
    return _HEADER.pack(number, size) + number.to_bytes(8, "big") * (size // 8)


def _number(data: bytes) -> int | None:
    """The number of a numbered file, or `None` if it is torn."""
    if len(data) < _HEADER.size:
        return None
    number, size = _HEADER.unpack_from(data)
    return int(number) if data[_HEADER.size :] == int(number).to_bytes(8, "big") * (size // 8) else None


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[FilesSandbox]:
    """A sandbox in the file tier's directory, for a block. The directory itself is only created if it is Headrace's own."""
    if settings.files.dir is None:
        endpoints.files_dir.mkdir(parents=True, exist_ok=True)
    sandbox = FilesSandbox(endpoints.files_dir)
    try:
        yield sandbox
    finally:
        sandbox.clear()


FAULTS: tuple[type[Exception], ...] = (OSError, Unavailable)
PROMISES: Sequence[Promise[FilesSandbox]] = (
    answers,
    atomic_rename,
    exclusive,
    synced,
    visible,
    held_open,
    mapped,
    times,
    names,
    blocks,
    locks,
)
SUBJECT: Promises[Any] = Promises(Tier.FILE, PROMISES, FAULTS, opened)
