"""Records of other programs' topics, as CloudEvents or as what is none."""

from __future__ import annotations

import json
from typing import cast

import pytest
from confluent_kafka import Message

from headrace.storage.stream.cloud_events import event_of

EVENT = {"specversion": "1.0", "id": "1", "source": "/mill", "type": "grain.came"}


class _Record:
    """What a consumer gets of a record."""

    def __init__(self, value: bytes, headers: list[tuple[str, bytes]] | None) -> None:
        self._value, self._headers = value, headers

    def value(self) -> bytes:
        return self._value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers


def record(value: bytes, headers: list[tuple[str, bytes]] | None = None) -> Message:
    return cast("Message", _Record(value, headers))


def nested(depth: int) -> bytes:
    return json.dumps({**EVENT, "data": "HERE"}).replace('"HERE"', "[" * depth + "]" * depth).encode()


@pytest.mark.parametrize("depth", [120, 900, 940, *range(950, 1000, 3), 5_000])
def test_an_event_that_could_not_be_written_again_is_none(depth: int) -> None:
    """What Python can read it may not be able to write: nothing behind such a record would reach its trigger any more."""
    with pytest.raises(ValueError, match=r"nested more than|is not JSON"):
        event_of(record(nested(depth)))
    binary: list[tuple[str, bytes]] = [(f"ce_{name}", value.encode()) for name, value in EVENT.items()]
    body = b"[" * depth + b"]" * depth
    if depth == 5_000:
        assert event_of(record(body, binary))["data"] == body.decode(), "as text"
    elif depth < 950:
        with pytest.raises(ValueError, match="nested more than"):
            event_of(record(body, binary))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
def test_what_only_python_takes_for_json_is_none(number: str) -> None:
    """A receiver could not read it."""
    with pytest.raises(ValueError, match="is not JSON"):
        event_of(record(json.dumps({**EVENT, "data": 0}).replace("0}", f"{number}}}").encode()))


def test_an_event_is_passed_on_as_it_is() -> None:
    assert event_of(record(nested(50)))["id"] == "1"
    assert event_of(record(json.dumps(EVENT).encode())) == EVENT
