"""Write behind: bounded, in order, readable while it waits, and it ends in good order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from headrace.errors import StorageFull
from headrace.models.kv.writes import PendingWrite, WriteBehind


class Gate:
    """Holds the thread that stores until it is opened."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def write(
    name: str,
    then: object = None,
    *,
    size: int = 10,
    run: str = "",
    documents: set[str] | None = None,
    why: list[str] | None = None,
) -> PendingWrite:
    dropped: list[str] = [] if why is None else why
    return PendingWrite(
        tenant="acme",
        run=run,
        documents=None if documents is None else frozenset(documents),
        blocks={name: np.full(3, 7.0, np.float32)},
        size=size,
        store=then if callable(then) else lambda: None,
        dropped=dropped.append,
    )


def test_writes_are_stored_in_their_order(gate: Gate) -> None:
    queue, done = WriteBehind(), list[str]()
    queue.offer(write("a", gate))
    for name in "bcd":
        assert queue.offer(write(name, lambda name=name: done.append(name))) == ""
    assert queue.waiting() == 4
    gate.opened.set()
    assert queue.wait(30)
    assert done == ["b", "c", "d"]


def test_what_waits_can_be_read_until_it_is_stored(gate: Gate) -> None:
    queue = WriteBehind()
    queue.offer(write("a", gate))
    queue.offer(write("b"))
    assert gate.entered.wait(30)
    for name in "ab":
        block = queue.block(name)
        assert block is not None
        assert block.tolist() == [7.0] * 3
    assert queue.block("c") is None
    gate.opened.set()
    assert queue.wait(30)
    assert queue.block("a") is None
    assert queue.block("b") is None


def test_what_does_not_fit_is_dropped_and_one_of_any_size_is_taken(gate: Gate) -> None:
    queue = WriteBehind(most_bytes=100)
    assert queue.offer(write("a", gate, size=1_000)) == ""
    assert gate.entered.wait(30)
    assert queue.offer(write("b", size=1)) == "queue full"
    assert queue.block("b") is None
    gate.opened.set()
    assert queue.wait(30)
    for name, reason in (("c", ""), ("d", "")):
        assert queue.offer(write(name, size=40)) == reason
    assert queue.wait(30)


def test_what_is_revoked_while_it_waits_is_neither_read_nor_stored(gate: Gate) -> None:
    queue, stored, why = WriteBehind(), list[str](), list[str]()
    queue.offer(write("a", gate, documents={"x"}))
    assert gate.entered.wait(30)
    for name, documents in (("b", {"x", "y"}), ("c", {"y"}), ("d", None)):
        queue.offer(write(name, lambda name=name: stored.append(name), documents=documents, why=why))
    queue.revoke("globex", "x", "*")
    assert queue.block("b") is not None
    queue.revoke("acme", "x", "*")
    assert [queue.block(name) is None for name in "abcd"] == [True, True, False, True]
    gate.opened.set()
    assert queue.wait(30)
    assert (stored, why) == (["c"], ["revoked", "revoked"])


def test_a_failure_is_counted_by_its_reason_and_the_next_is_stored() -> None:
    queue, why, stored = WriteBehind(), list[str](), list[int]()

    def full() -> None:
        raise StorageFull("No space left under /mnt.", hint="Free some.")

    def broken() -> None:
        raise ValueError("odd")

    for name, then in (("a", full), ("b", broken)):
        queue.offer(write(name, then, why=why))
    assert queue.wait(30)
    assert (why, queue.trouble) == (["storage full", "storage failed"], "odd")
    queue.offer(write("c", lambda: stored.append(1)))
    assert queue.wait(30)
    assert (stored, queue.trouble) == ([1], "")


def test_a_run_waits_for_its_own_alone(gate: Gate) -> None:
    queue = WriteBehind()
    queue.offer(write("a", run="mine"))
    assert queue.wait(30, "mine")
    queue.offer(write("b", gate, run="theirs"))
    assert queue.wait(0.0, "mine")
    assert not queue.wait(0.0, "theirs")


def test_at_the_end_what_waits_is_stored_and_nothing_more_is_taken() -> None:
    queue, stored = WriteBehind(), list[int]()
    queue.offer(write("a", lambda: stored.append(1)))
    queue.close(30)
    assert stored == [1]
    assert queue.offer(write("b")) == "stopping"


def test_at_the_end_nobody_waits_for_storage_that_hangs(gate: Gate) -> None:
    queue, why = WriteBehind(), list[str]()
    queue.offer(write("a", gate))
    assert gate.entered.wait(30)
    queue.offer(write("b", why=why))
    queue.close(0.0)
    assert why == ["stopping"]
