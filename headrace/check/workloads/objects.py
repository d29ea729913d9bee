"""Workloads of an S3 endpoint."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import obstore

from headrace.check.objects import ObjectsSandbox, listed_keys
from headrace.check.workloads.workload import MIB, Effort, Timed, Workload, drive, size_words, workload

_PART_BYTES = 8 * MIB
_SMALL_BYTES = 4 << 10
_RANGE_BYTES = 64 << 10
_KEPT = 32  # distinct objects of a workload; later ones overwrite them, which bounds the space that the check takes
_PERFORMANCE = "HSS02"


@workload("sequential write", requirement=_PERFORMANCE)
def sequential_write(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """Whole objects, several at a time."""
    data = os.urandom(_object_bytes(effort))
    return drive(
        lambda number: _put(sandbox, f"sequential/{number % _KEPT}", data),
        effort,
        f"objects of {size_words(len(data))}, put in parts of {size_words(min(_PART_BYTES, len(data)))}",
    )


@workload("sequential read", requirement=_PERFORMANCE)
def sequential_read(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """The same objects, whole."""
    keys = _keys(sandbox, "sequential")
    return drive(lambda number: _get(sandbox, keys[number % len(keys)]), effort, f"the same {len(keys)} objects, whole, in turn")


@workload("random read", requirement=_PERFORMANCE)
def random_read(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """Ranges of the same objects."""
    keys, size, dice = _keys(sandbox, "sequential"), _object_bytes(effort), random.Random(5)

    def read(number: int) -> int:
        start = dice.randrange(size - _RANGE_BYTES)
        data = obstore.get_range(sandbox.reader, dice.choice(keys), start=start, length=_RANGE_BYTES)
        return len(data)

    return drive(read, effort, f"ranges of {size_words(_RANGE_BYTES)} of the same objects", least=4 * effort.concurrency)


@workload("small objects, write", requirement=_PERFORMANCE)
def small_write(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """Objects of 4 KiB."""
    data = os.urandom(_SMALL_BYTES)
    least = 8 * effort.concurrency
    return drive(
        lambda number: _put(sandbox, f"few/{number % 1000}", data), effort, f"objects of {size_words(_SMALL_BYTES)}", least=least
    )


@workload("small objects, read", requirement=_PERFORMANCE)
def small_read(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """The same objects."""
    keys = _keys(sandbox, "few")
    least = 8 * effort.concurrency
    return drive(lambda number: _get(sandbox, keys[number % len(keys)]), effort, "the same objects, in turn", least=least)


@workload("metadata, head", requirement=_PERFORMANCE)
def metadata(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """HEAD of the same objects."""
    keys = _keys(sandbox, "few")

    def head(number: int) -> int:
        obstore.head(sandbox.reader, keys[number % len(keys)])
        return 0

    return drive(head, effort, "HEAD of the same objects", least=8 * effort.concurrency)


@workload("metadata, list", requirement=_PERFORMANCE)
def listing(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """One listing after another."""
    folder, listed = f"{sandbox.prefix}/few", len(_keys(sandbox, "few"))

    def run(number: int) -> int:
        for _ in listed_keys(sandbox.reader, folder):
            pass
        return 0

    return drive(run, Effort(effort.seconds, 1), f"a listing of {listed:,} objects", least=2)


@workload("checkpoint write", requirement=_PERFORMANCE)
def checkpoint_write(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """One writer, one large object at a time, as a trainer stops for it."""
    data = os.urandom(_checkpoint_bytes(effort))
    shape = f"one writer, a checkpoint of {size_words(len(data))} in parts of {size_words(min(_PART_BYTES, len(data)))}"
    return drive(lambda number: _put(sandbox, f"checkpoint/{number % 2}", data), Effort(effort.seconds, 1), shape)


@workload("checkpoint read", requirement=_PERFORMANCE)
def checkpoint_read(sandbox: ObjectsSandbox, effort: Effort) -> Timed:
    """One reader, as a trainer resumes."""
    keys = _keys(sandbox, "checkpoint")
    shape = "one reader, the same checkpoint, whole"
    return drive(lambda number: _get(sandbox, keys[number % len(keys)]), Effort(effort.seconds, 1), shape)


def _object_bytes(effort: Effort) -> int:
    return MIB if effort.quick else 16 * MIB


def _checkpoint_bytes(effort: Effort) -> int:
    return 2 * MIB if effort.quick else 64 * MIB


def _keys(sandbox: ObjectsSandbox, folder: str) -> Sequence[str]:
    """What an earlier workload put."""
    found = list(listed_keys(sandbox.reader, f"{sandbox.prefix}/{folder}"))
    if not found:
        raise OSError("nothing to read: the workload that writes it failed")
    return found


def _put(sandbox: ObjectsSandbox, name: str, data: bytes) -> int:
    key = sandbox.key(name)
    obstore.put(sandbox.writer, key, data, use_multipart=len(data) > _PART_BYTES, chunk_size=_PART_BYTES)
    return len(data)


def _get(sandbox: ObjectsSandbox, key: str) -> int:
    return sum(len(piece) for piece in obstore.get(sandbox.reader, key).stream(min_chunk_size=MIB))


WORKLOADS: Sequence[Workload[ObjectsSandbox]] = (
    sequential_write,
    sequential_read,
    random_read,
    small_write,
    small_read,
    metadata,
    listing,
    checkpoint_write,
    checkpoint_read,
)
