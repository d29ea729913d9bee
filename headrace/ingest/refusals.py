"""The table of refusals: where landing stopped, and who let it go on. Each is written once, however often it is met."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from headrace.catalog import REFUSALS
from headrace.errors import LostRace
from headrace.ingest.positions import Divergence
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter

STOPPED = "stopped"
ACCEPTED = "accepted"


def record_refusal(refusals: TableWriter, refusal: Divergence) -> None:
    """Write that a partition stopped, unless that very refusal is what the table says of it last."""
    name = f"refused/{refusal.place}"
    standing = refusals.mark(name)
    now = [refusal.kind, refusal.landed, refusal.span.low]
    if standing == now:
        return
    with contextlib.suppress(LostRace):  # another lander has met it too and written it
        _append(refusals, refusal, STOPPED, "", mark={name: now}, expected={name: standing})


def record_acceptance(refusals: TableWriter, refusal: Divergence, who: str) -> None:
    """Write that somebody let a partition go on."""
    _append(refusals, refusal, ACCEPTED, who, mark={f"refused/{refusal.place}": None}, expected={})


def _append(
    refusals: TableWriter, refusal: Divergence, action: str, who: str, *, mark: dict[str, Any], expected: dict[str, Any]
) -> None:
    row = {
        "topic": refusal.topic,
        "partition": refusal.partition,
        "kind": refusal.kind,
        "action": action,
        "landed": refusal.landed,
        "low": refusal.span.low,
        "end": refusal.span.end,
        "seen": refusal.seen,
        "who": who,
        "at": datetime.now(UTC),
    }
    refusals.append(batch(REFUSALS.columns, [row]), marks=mark, expected=expected)
