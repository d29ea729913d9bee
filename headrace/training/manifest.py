"""A turn's manifest: the JSON that commits it, published last by one conditional put.

    turns/000001.plan.json   what the turn will learn from; put first, so that a killed turn is taken up again, not begun anew
    turns/000001.json        the manifest; once it stands, the turn happened

Everything between the two is named by what it was made from and may be made again.
"""

from __future__ import annotations

import json
from typing import Any

from headrace.errors import NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter

_DIGITS = 6


def name(turn: int) -> str:
    """A turn's number as it stands in keys and versions: 000001."""
    return f"{turn:0{_DIGITS}d}"


def numbers(turns: ObjectReader) -> list[int]:
    """The turns that were committed, in order."""
    keys = [info.key for info in turns.list()]
    return sorted(int(key.removesuffix(".json")) for key in keys if key.removesuffix(".json").isdigit())


def read(turns: ObjectReader, turn: int) -> dict[str, Any]:
    """One manifest. Raises `NotFound`."""
    found: dict[str, Any] = json.loads(turns.get(f"{name(turn)}.json"))
    return found


def plan(turns: ObjectReader, turn: int) -> dict[str, Any] | None:
    """The plan of a turn that was begun, or `None`."""
    try:
        found: dict[str, Any] = json.loads(turns.get(f"{name(turn)}.plan.json"))
    except NotFound:
        return None
    return found


def begin(turns: ObjectWriter, turn: int, what: dict[str, Any]) -> dict[str, Any]:
    """Put the plan of a turn and return it as it will be read. Raises `LostRace` where another process began it meanwhile."""
    turns.put_if_absent(f"{name(turn)}.plan.json", _bytes(what))
    read: dict[str, Any] = json.loads(_bytes(what))
    return read


def withdraw(turns: ObjectWriter, turn: int) -> None:
    """Take back the plan of a turn that cannot be made; its number is free again."""
    turns.delete(f"{name(turn)}.plan.json")


def publish(turns: ObjectWriter, turn: int, manifest: dict[str, Any]) -> None:
    """Commit a turn. Raises `LostRace` where that turn was committed by somebody else."""
    turns.put_if_absent(f"{name(turn)}.json", _bytes(manifest))


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
