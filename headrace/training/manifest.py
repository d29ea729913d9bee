"""A round's manifest: the JSON that commits it, published last by one conditional put.

    rounds/000001.plan.json   what the round will learn from; put first, so that a killed round is taken up again, not begun anew
    rounds/000001.json        the manifest; once it stands, the round happened

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
"""What a round will learn from, as `plan` in round.py writes it."""
Manifest = NewType("Manifest", dict[str, Any])
"""What a round came to, as `promote` in promote.py writes it."""


@dataclass
class Clock:
    """Seconds by part of a round.

    head: the newest verdict waited there, and in the table, until the round began · land · prepare · train: of which read (data
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


def name(number: int) -> str:
    """A round's number as it stands in keys and versions: 000001."""
    return f"{number:0{_DIGITS}d}"


def numbers(rounds: ObjectReader) -> list[int]:
    """The rounds that were committed, in order."""
    keys = [info.key for info in rounds.list()]
    return sorted(int(key.removesuffix(".json")) for key in keys if key.removesuffix(".json").isdigit())


def read(rounds: ObjectReader, number: int) -> Manifest:
    """One manifest. Raises `NotFound`."""
    return Manifest(json.loads(rounds.get(f"{name(number)}.json")))


def plan(rounds: ObjectReader, number: int) -> Plan | None:
    """The plan of a round that was begun, or `None`."""
    try:
        return Plan(json.loads(rounds.get(f"{name(number)}.plan.json")))
    except NotFound:
        return None


def begin(rounds: ObjectWriter, number: int, what: dict[str, Any]) -> Plan:
    """Put the plan of a round and return it as it will be read. Raises `LostRace` where another process began it meanwhile."""
    rounds.put_if_absent(f"{name(number)}.plan.json", _bytes(what))
    return Plan(json.loads(_bytes(what)))


def withdraw(rounds: ObjectWriter, number: int) -> None:
    """Take back the plan of a round that cannot be made; its number is free again."""
    rounds.delete(f"{name(number)}.plan.json")


def publish(rounds: ObjectWriter, number: int, manifest: Manifest) -> None:
    """Commit a round. Raises `LostRace` where that round was committed by somebody else."""
    rounds.put_if_absent(f"{name(number)}.json", _bytes(manifest))


def _bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
