"""Bytes of documents that are read before their turn: some at a time, within bounds, and each fault at its own turn."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from headrace.documents.ahead import ReadingAhead
from headrace.errors import NotFound


def event(offset: int, size: int = 10) -> dict[str, Any]:
    return {"topic": "document-events", "partition": 0, "offset": offset, "bytes": size}


def content(event: Mapping[str, Any]) -> bytes:
    return b"%d" % event["offset"]


def test_sources_are_read_at_once_and_taken_in_any_order() -> None:
    together = threading.Barrier(4)

    def read(event: Mapping[str, Any]) -> bytes:
        together.wait(60)  # breaks unless four are read at once
        return content(event)

    with ReadingAhead(read) as ahead:
        ahead.expect(map(event, range(4)))
        assert [ahead.take(event(offset)) for offset in (2, 0, 3, 1)] == [b"2", b"0", b"3", b"1"]


def test_what_is_expected_twice_is_read_once_and_what_is_not_expected_at_its_turn() -> None:
    reads: list[int] = []

    def read(event: Mapping[str, Any]) -> bytes:
        reads.append(event["offset"])
        return content(event)

    with ReadingAhead(read) as ahead:
        for _ in range(2):
            ahead.expect([event(1)])
        assert (ahead.take(event(1)), ahead.take(event(2))) == (b"1", b"2")
    assert reads == [1, 2]


def test_it_holds_no_more_than_it_may() -> None:
    read = threading.Event()
    begun: list[int] = []

    def reads(event: Mapping[str, Any]) -> bytes:
        begun.append(event["offset"])
        read.wait(60)
        return content(event)

    with ReadingAhead(reads) as ahead:
        ahead.expect([event(0, 10 << 20), event(1, 10 << 20), event(2, 50 << 20), *map(event, range(3, 50))])
        assert not ahead.wants()
        read.set()
        assert [ahead.take(event(offset)) for offset in range(50)] == [b"%d" % offset for offset in range(50)]
        assert ahead.wants()
    assert sorted(begun[:8]) == [0, *range(3, 10)], "two are too large beside the first, and eight are enough"


def test_what_nobody_takes_keeps_no_place() -> None:
    """A document that was put twice is read ahead twice, and parsed once."""
    with ReadingAhead(content) as ahead:
        ahead.expect(map(event, range(8)))
        assert not ahead.wants()
        for offset in range(8):
            ahead.drop(event(offset))
        ahead.drop(event(9))
        assert ahead.wants()
        ahead.expect([event(10)])
        assert ahead.take(event(10)) == b"10"


def test_a_fault_is_raised_at_its_own_turn_and_what_was_not_taken_keeps_nothing() -> None:
    def read(event: Mapping[str, Any]) -> bytes:
        if event["offset"] == 1:
            raise NotFound("There is no such source.")
        return content(event)

    with ReadingAhead(read) as ahead:
        ahead.expect(map(event, range(6)))
        assert ahead.take(event(0)) == b"0"
        with pytest.raises(NotFound):
            ahead.take(event(1))
        assert ahead.take(event(2)) == b"2"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("source")]
