"""Workloads of a POSIX directory, local or NFS.

Before a read, the kernel is asked to drop the file's pages (`posix_fadvise`), so that it goes to the file system; a server's own
cache still answers.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from headrace.check.files import FilesSandbox
from headrace.check.workloads.workload import MIB, Effort, Timed, Workload, drive, size_words, workload

_PIECE_BYTES = MIB
_PAGE_BYTES = 4 << 10
_BLOCK_BYTES = 3 * MIB  # a KV block of the embedded generator is about this large
_KEPT = 16
_SPACE = 8  # the share of the free space that the check takes is at most 1 to this
_PERFORMANCE = "HSS02"


@workload("sequential write", requirement=_PERFORMANCE)
def sequential_write(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """Whole files, each synced."""
    size, folder, kept = _file_bytes(effort), _folder(sandbox, "sequential"), _kept(sandbox, _file_bytes(effort))
    data = os.urandom(_PIECE_BYTES)
    return drive(
        lambda number: _write(folder / f"{number % kept}", data, size // _PIECE_BYTES),
        effort,
        f"files of {size_words(size)} in pieces of {size_words(_PIECE_BYTES)}, synced",
    )


@workload("sequential read", requirement=_PERFORMANCE)
def sequential_read(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """The same files, whole."""
    paths = _paths(sandbox, "sequential")
    return drive(
        lambda number: _read(paths[number % len(paths)]),
        effort,
        f"the same {len(paths)} files, whole, in turn",
        before=lambda number: _drop(paths[number % len(paths)]),
    )


@workload("random read", requirement=_PERFORMANCE)
def random_read(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """Pages of the same files, each page once, without read-ahead."""
    paths, pages = _paths(sandbox, "sequential"), _file_bytes(effort) // _PAGE_BYTES
    dice = random.Random(5)
    places = [(at, page) for at in range(len(paths)) for page in dice.sample(range(pages), min(pages, 4096))]
    dice.shuffle(places)
    descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
    try:
        for descriptor in descriptors:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

        def read(number: int) -> int:
            at, page = places[number]
            return len(os.pread(descriptors[at], _PAGE_BYTES, page * _PAGE_BYTES))

        shape = f"pages of {size_words(_PAGE_BYTES)} of the same files, each page once"
        return drive(read, effort, shape, least=8 * effort.concurrency, most=len(places))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@workload("random write", requirement=_PERFORMANCE)
def random_write(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """Pages of one file for each thread, each synced."""
    size, dice = _file_bytes(effort), random.Random(7)
    folder, data = _folder(sandbox, "random"), os.urandom(_PAGE_BYTES)
    paths = [folder / f"{number}" for number in range(effort.concurrency)]
    for path in paths:
        _write(path, bytes(_PIECE_BYTES), size // _PIECE_BYTES)
    descriptors = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in paths]
    try:

        def write(number: int) -> int:
            descriptor = descriptors[number % len(descriptors)]
            written = os.pwrite(descriptor, data, dice.randrange(size // _PAGE_BYTES) * _PAGE_BYTES)
            os.fdatasync(descriptor)
            return written

        return drive(write, effort, f"pages of {size_words(_PAGE_BYTES)}, each synced", least=8 * effort.concurrency)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@workload("small files, write", requirement=_PERFORMANCE)
def small_write(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """New files of 4 KiB, not synced."""
    folder, data = _folder(sandbox, "small"), os.urandom(_PAGE_BYTES)
    shape = f"new files of {size_words(_PAGE_BYTES)}, not synced"
    return drive(lambda n: (folder / f"{n}").write_bytes(data), effort, shape, least=8 * effort.concurrency, most=20_000)


@workload("metadata, stat", requirement=_PERFORMANCE)
def stat(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """stat of the same files."""
    paths = _paths(sandbox, "small")

    def run(number: int) -> int:
        paths[number % len(paths)].stat()
        return 0

    return drive(run, effort, f"stat of the same {len(paths):,} files, in turn", least=8 * effort.concurrency)


@workload("metadata, delete", requirement=_PERFORMANCE)
def delete(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """Delete the same files."""
    paths = _paths(sandbox, "small")

    def run(number: int) -> int:
        paths[number].unlink()
        return 0

    return drive(run, effort, "the same files, each once", least=effort.concurrency, most=len(paths))


@workload("checkpoint write", requirement=_PERFORMANCE)
def checkpoint_write(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """One writer, one large file at a time, synced, as a trainer stops for it."""
    size = min(2 * MIB if effort.quick else 64 * MIB, max(_PIECE_BYTES, _free(sandbox) // _SPACE))
    folder, data = _folder(sandbox, "checkpoint"), os.urandom(_PIECE_BYTES)
    shape = f"one writer, a checkpoint of {size_words(size)}, synced"
    return drive(lambda n: _write(folder / f"{n % 2}", data, size // _PIECE_BYTES), Effort(effort.seconds, 1), shape)


@workload("checkpoint read", requirement=_PERFORMANCE)
def checkpoint_read(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """One reader, as a trainer resumes."""
    paths = _paths(sandbox, "checkpoint")
    return drive(
        lambda number: _read(paths[number % len(paths)]),
        Effort(effort.seconds, 1),
        "one reader, the same checkpoint, whole",
        before=lambda number: _drop(paths[number % len(paths)]),
    )


@workload("KV blocks, write", requirement=_PERFORMANCE)
def kv_write(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """Blocks as the KV cache writes them: under a temporary name, synced, renamed."""
    folder, data, kept = _folder(sandbox, "kv"), os.urandom(_BLOCK_BYTES), 4 * _kept(sandbox, _BLOCK_BYTES)

    def write(number: int) -> int:
        part = folder / f".part-{number}"
        written = _write(part, data, 1)
        part.replace(folder / f"{number % kept}")
        return written

    return drive(write, effort, f"blocks of {size_words(_BLOCK_BYTES)}, each synced and renamed")


@workload("KV blocks, read", requirement=_PERFORMANCE)
def kv_read(sandbox: FilesSandbox, effort: Effort) -> Timed:
    """The same blocks, as a server reads a prefix back."""
    paths = _paths(sandbox, "kv")
    order = random.Random(9).sample(paths, len(paths))
    return drive(
        lambda number: _read(order[number % len(order)]),
        effort,
        f"the same {len(paths)} blocks, whole, in random order",
        before=lambda number: _drop(order[number % len(order)]),
    )


def _file_bytes(effort: Effort) -> int:
    return MIB if effort.quick else 16 * MIB


def _free(sandbox: FilesSandbox) -> int:
    status = os.statvfs(sandbox.folder)
    return status.f_bavail * status.f_frsize


def _kept(sandbox: FilesSandbox, size: int) -> int:
    """How many files of this size may stay at once."""
    return max(1, min(_KEPT, _free(sandbox) // (_SPACE * size)))


def _folder(sandbox: FilesSandbox, name: str) -> Path:
    folder = sandbox.folder / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _paths(sandbox: FilesSandbox, name: str) -> list[Path]:
    """What an earlier workload wrote."""
    found = sorted(path for path in (sandbox.folder / name).iterdir() if not path.name.startswith("."))
    if not found:
        raise OSError("nothing to read: the workload that writes it failed")
    return found


def _write(path: Path, piece: bytes, pieces: int) -> int:
    with path.open("wb") as file:
        for _ in range(pieces):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return len(piece) * pieces


def _read(path: Path) -> int:
    size = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            size += len(piece)
    return size


def _drop(path: Path) -> None:
    """Ask the kernel to forget a file's pages."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


WORKLOADS: Sequence[Workload[FilesSandbox]] = (
    sequential_write,
    sequential_read,
    random_read,
    random_write,
    small_write,
    stat,
    delete,
    checkpoint_write,
    checkpoint_read,
    kv_write,
    kv_read,
)
