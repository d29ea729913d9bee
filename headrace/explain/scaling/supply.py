"""What storage supplies, by tier: as `headrace check` measured it, or as the caller says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from headrace.catalog import Tier
from headrace.errors import WrongUsage
from headrace.storage.ledger import Direction

MIB = 1 << 20
_BYTES: Mapping[tuple[str, str], Sequence[str]] = {
    (Tier.OBJECT, Direction.READ): ("sequential read", "checkpoint read"),
    (Tier.OBJECT, Direction.WRITE): ("sequential write", "checkpoint write"),
    (Tier.STREAM, Direction.READ): ("read, in bulk",),
    (Tier.STREAM, Direction.WRITE): ("append, in bulk",),
    (Tier.TABLE, Direction.READ): ("rows, read",),
    (Tier.TABLE, Direction.WRITE): ("rows, write",),
    (Tier.VECTOR, Direction.READ): ("vectors, scan", "vectors, take"),
    (Tier.VECTOR, Direction.WRITE): ("vectors, write",),
    (Tier.FILE, Direction.READ): ("sequential read", "KV blocks, read"),
    (Tier.FILE, Direction.WRITE): ("sequential write", "KV blocks, write"),
}
# Of the other tiers the check counts rows, records and commits, the ledger requests.
_OPS: Mapping[tuple[str, str], Sequence[str]] = {
    (Tier.OBJECT, Direction.READ): ("small objects, read",),
    (Tier.OBJECT, Direction.WRITE): ("small objects, write",),
    (Tier.FILE, Direction.READ): ("random read", "KV blocks, read"),
    (Tier.FILE, Direction.WRITE): ("small files, write",),
}


class TierSupply(BaseModel):
    """What a tier supplies in one direction: bytes and operations a second; `None` where it is not known."""

    model_config = ConfigDict(frozen=True)

    tier: str
    direction: str
    bytes_per_s: float | None = None
    ops_per_s: float | None = None
    source: str


def checked_supply(report: Mapping[str, Any]) -> tuple[TierSupply, ...]:
    """The best rates that a check measured, at its concurrency. Raises `WrongUsage` for a report of another kind."""
    try:
        results = [one for one in report["workloads"] if not one["failed"]]
        return tuple(
            TierSupply(tier=tier, direction=direction, bytes_per_s=moved, ops_per_s=ops, source="headrace check")
            for tier, direction in _BYTES
            if (moved := _best(results, tier, _BYTES[tier, direction], "mib_per_s", MIB)) is not None
            for ops in [_best(results, tier, _OPS.get((tier, direction), ()), "ops_per_s", 1)]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WrongUsage(
            "This is not the report of a check.", hint="Save one with `headrace check --json > FILE.json`, and name that."
        ) from error


def _best(results: Sequence[Mapping[str, Any]], tier: str, names: Sequence[str], figure: str, factor: float) -> float | None:
    rates = [float(one[figure]) * factor for one in results if one["tier"] == tier and one["workload"] in names]
    return max((rate for rate in rates if rate > 0), default=None)


def stated_supply(words: Sequence[str]) -> tuple[TierSupply, ...]:
    """Supplies as a person states them: TIER=READ/WRITE in GB/s, e.g. `object=40/20`. Raises `WrongUsage`."""
    found: list[TierSupply] = []
    for word in words:
        tier, sign, rates = word.partition("=")
        read, both, write = rates.partition("/")
        try:
            numbers = [float(read), float(write)]
        except ValueError:
            numbers = []
        if not (sign and both and tier in list(Tier)) or len(numbers) != 2 or not all(0 < rate < 1e9 for rate in numbers):
            raise WrongUsage(
                f"--supply takes TIER=READ/WRITE in GB/s, not {word!r}.", hint=f"TIER is one of {', '.join(Tier)}: object=40/20."
            )
        found += [
            TierSupply(tier=tier, direction=direction, bytes_per_s=rate * 1e9, source="as given")
            for direction, rate in zip((Direction.READ, Direction.WRITE), numbers, strict=True)
        ]
    return tuple(found)


def merged(stated: Sequence[TierSupply], checked: Sequence[TierSupply]) -> tuple[TierSupply, ...]:
    """What is stated, and of other tiers and directions what was checked."""
    known = {(one.tier, one.direction) for one in stated}
    return (*stated, *(one for one in checked if (one.tier, one.direction) not in known))
