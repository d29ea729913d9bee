"""Reading ahead in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from headrace.models.kv.ahead import ReadAhead


def test_items_come_in_order_and_end() -> None:
    with ReadAhead(iter(range(20)), 3) as found:
        assert list(found) == list(range(20))


def test_no_more_is_read_than_the_lead() -> None:
    read: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            read.append(number)
            if number == 2:
                third.set()
            yield number

    with ReadAhead(items(), 3) as found:
        for number in found:
            assert third.wait(10)  # while the first is in use
            assert len(read) <= number + 3
            if number == 4:
                break
    assert len(read) <= 7


def test_nothing_is_read_once_the_context_has_ended() -> None:
    gone = threading.Event()
    reads = 0

    def items() -> Iterator[int]:
        nonlocal reads
        try:
            while True:
                reads += 1
                yield reads
        finally:
            gone.set()

    before = threading.active_count()
    source = items()
    with ReadAhead(source, 2) as found:
        next(iter(found))
    assert threading.active_count() == before
    stood = reads
    source.close()
    assert (reads, gone.is_set()) == (stood, True)


def test_an_error_is_raised_where_its_item_would_have_been() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    seen: list[int] = []
    with pytest.raises(ValueError, match="the second"), ReadAhead(items(), 4) as found:
        seen.extend(found)
    assert seen == [1]
