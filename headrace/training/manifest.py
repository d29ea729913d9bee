"""A turn's manifest: the JSON that commits it, published last by one conditional put.

    turns/000001.plan.json   what the turn will learn from; put first, so that a killed turn is taken up again, not begun anew
    turns/000001.json        the manifest; once it stands, the turn happened

Everything between the two is named by what it was made from and may be made again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NewType

from headrace.errors import NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter

Plan = NewType("Plan", dict[str, Any])
"""What a turn will learn from, as `plan` in round.py writes it."""
Manifest = NewType("Manifest", dict[str, Any])
"""What a turn came to, as `promote` in promote.py writes it."""


@dataclass
class Clock:
    """Seconds by part of a turn.

    head: the newest verdict waited there, and in the table, until the turn began · land · prepare · train: of which read (data
    and first weights) · checkpoint: writing them, beside the steps · gate: evaluation · load: what answers loads the weights ·
    publish: release, manifest and pointer.
    """

    newest_verdict: str | None
    started: float
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = self.started
        if self.newest_verdict:
            began = datetime.now(UTC).timestamp() - (time.perf_counter() - self.started)
            self.seconds["head"] = round(max(0.0, began - datetime.fromisoformat(self.newest_verdict).timestamp()), 2)

    def lap(self, name: str) -> None:
        """The time since the last lap went into `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 2)
        self._last = now

    @property
    def feedback_to_served(self) -> float | None:
        """Seconds from the newest verdict to now; `None` where there was none to learn from."""
        if not self.newest_verdict:
            return None
        return round(datetime.now(UTC).timestamp() - datetime.fromisoformat(self.newest_verdict).timestamp(), 2)


_DIGITS = 6


def name(turn: int) -> str:
    """A turn's number as it stands in keys and versions: 000001."""
    return f"{turn:0{_DIGITS}d}"


def numbers(turns: ObjectReader) -> list[int]:
    """The turns that were committed, in order."""
    keys = [info.key for info in turns.list()]
    return sorted(int(key.removesuffix(".json")) for key in keys if key.removesuffix(".json").isdigit())


def read(turns: ObjectReader, turn: int) -> Manifest:
    """One manifest. Raises `NotFound`."""
    return Manifest(json.loads(turns.get(f"{name(turn)}.json")))


def plan(turns: ObjectReader, turn: int) -> Plan | None:
    """The plan of a turn that was begun, or `None`."""
    try:
        return Plan(json.loads(turns.get(f"{name(turn)}.plan.json")))
    except NotFound:
        return None


def begin(turns: ObjectWriter, turn: int, what: dict[str, Any]) -> Plan:
    """Put the plan of a turn and return it as it will be read. Raises `LostRace` where another process began it meanwhile."""
    turns.put_if_absent(f"{name(turn)}.plan.json", _bytes(what))
    return Plan(json.loads(_bytes(what)))


def withdraw(turns: ObjectWriter, turn: int) -> None:
    """Take back the plan of a turn that cannot be made; its number is free again."""
    turns.delete(f"{name(turn)}.plan.json")


def publish(turns: ObjectWriter, turn: int, manifest: Manifest) -> None:
    """Commit a turn. Raises `LostRace` where that turn was committed by somebody else."""
    turns.put_if_absent(f"{name(turn)}.json", _bytes(manifest))


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
