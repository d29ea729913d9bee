"""The champion: the pointer to the served model, moved by compare-and-swap, with the history that rollback goes back on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import MODELS, PROMOTIONS
from headrace.errors import LostRace, NotFound
from headrace.pipeline.stage import stage
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables import TableWriter

RERANKER = "reranker"
NONE = "none"
_HISTORY = 50


@dataclass(frozen=True)
class Champion:
    """What the pointer says: the served version ("none": retrieval's own order), its turn, who put it there, and what was before.

    `moves` is the pointer's own count, so that each of its positions can be recorded exactly once.
    """

    model: str = RERANKER
    version: str = NONE
    previous: str = NONE
    turn: int = 0
    moves: int = 0
    kind: str = "promote"
    who: str = ""
    why: str = ""
    at: str = ""
    history: list[str] = field(default_factory=list)


def champion(models: ObjectReader) -> tuple[Champion, str]:
    """The champion and the pointer's etag ("" while there is no pointer)."""
    try:
        data, etag = models.get_with_etag(f"{RERANKER}/champion.json")
    except NotFound:
        return Champion(), ""
    return Champion(**json.loads(data)), etag


def card(models: ObjectReader, version: str) -> dict[str, Any]:
    """The card of a released version. Raises `NotFound`."""
    try:
        found: dict[str, Any] = json.loads(models.get(f"{RERANKER}/{version}/card.json"))
    except NotFound:
        raise NotFound(f"No version {version!r} of {RERANKER} was released.", hint="See `headrace models`.") from None
    return found


def versions(models: ObjectReader) -> list[dict[str, Any]]:
    """The cards of all released versions, oldest first."""
    names = sorted(info.key.split("/")[1] for info in models.list(f"{RERANKER}/") if info.key.endswith("/card.json"))
    return [card(models, version) for version in names]


@stage("Moves the champion pointer to a released version and records the move.")
def crown(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    version: str,
    who: str,
    why: str,
    kind: str = "promote",
) -> Champion:
    """Serve `version` from now on. Raises `NotFound` where it was not released, `LostRace` where another move came first."""
    return move(models, promotions, version, who=who, why=why, kind=kind)


@stage("Moves the champion pointer back to what was served before and records the move.")
def dethrone(
    models: Annotated[ObjectWriter, MODELS], promotions: Annotated[TableWriter, PROMOTIONS], who: str, why: str
) -> Champion:
    """Serve the version before this one again. Raises `NotFound` where there was none."""
    standing, etag = champion(models)
    if not standing.history:
        raise NotFound(f"{RERANKER} has no earlier version to go back to.", hint="See `headrace models`.")
    return move(models, promotions, standing.history[-1], who=who, why=why, kind="rollback", seen=(standing, etag))


def move(
    models: ObjectWriter,
    promotions: TableWriter,
    version: str,
    *,
    who: str,
    why: str,
    kind: str,
    seen: tuple[Champion, str] | None = None,
) -> Champion:
    """Move the pointer by compare-and-swap, then record it; moving it to where it stands changes nothing.

    `seen` is the champion and etag that the caller chose `version` by, where it did.
    """
    standing, etag = seen or champion(models)
    record_move(promotions, standing)
    if standing.version == version:
        return standing
    turn = int(card(models, version)["turn"]) if version != NONE else 0
    history = standing.history[:-1] if kind == "rollback" else [*standing.history, standing.version][-_HISTORY:]
    new = Champion(
        version=version,
        previous=standing.version,
        turn=turn,
        moves=standing.moves + 1,
        kind=kind,
        who=who,
        why=why,
        at=datetime.now(UTC).isoformat(),
        history=history,
    )
    data = json.dumps({**asdict(new)}, indent=1).encode()
    key = f"{RERANKER}/champion.json"
    if etag:
        models.put_if_match(key, data, etag)
    else:
        models.put_if_absent(key, data)
    record_move(promotions, new)
    return new


def record_move(promotions: TableWriter, standing: Champion) -> None:
    """Write the pointer's last move into the promotions table, once: a process may have died right after moving it."""
    name = f"moves/{standing.model}"
    recorded = promotions.mark(name)
    if standing.moves == 0 or (recorded or 0) >= standing.moves:
        return
    row = {
        "model": standing.model,
        "version": standing.version,
        "previous": standing.previous,
        "kind": standing.kind,
        "turn": standing.turn,
        "who": standing.who,
        "why": standing.why,
        "at": datetime.fromisoformat(standing.at),
    }
    try:
        promotions.append(batch(PROMOTIONS.columns, [row]), marks={name: standing.moves}, expected={name: recorded})
    except LostRace:  # the next mover records what it finds unrecorded, too
        if (promotions.mark(name) or 0) < standing.moves:
            raise
