"""The champion: the pointer to the served version of a model, moved by compare-and-swap, with what rollback goes back on.

Beside it the pointer may name a canary: a challenger that answers a share of the traffic until it is promoted or retreats.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any

from headrace.catalog import MODELS, PROMOTIONS
from headrace.core.stage import stage
from headrace.errors import LostRace, NotFound
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter
from headrace.training.recipe import MODELS as MODEL_NAMES
from headrace.training.recipe import RERANKER

NONE = "none"
PROMOTE, ROLLBACK, CANARY, CANARY_ENDED = "promote", "rollback", "canary", "canary_ended"
_HISTORY = 50


@dataclass(frozen=True)
class Canary:
    """A challenger on trial: it answers `share` of the traffic since `since` (ISO 8601)."""

    version: str
    share: float
    round: int
    since: str
    why: str


@dataclass(frozen=True)
class Champion:
    """What the pointer says: the served version ("none": what there is without one), its round, who put it there, what was
    before.

    `moves` is the pointer's own count, so that each of its positions can be recorded exactly once.
    """

    model: str = RERANKER
    version: str = NONE
    previous: str = NONE
    round: int = 0
    moves: int = 0
    kind: str = PROMOTE
    who: str = ""
    why: str = ""
    at: str = ""
    history: list[str] = field(default_factory=list)
    canary: Canary | None = None

    def share(self, version: str) -> float:
        """The share of the answers that a version gives."""
        tried = self.canary.share if self.canary else 0.0
        if self.canary and version == self.canary.version:
            return tried
        return 1.0 - tried if version == self.version else 0.0


def known(model: str) -> None:
    """Raise `NotFound` for no model of ours."""
    if model not in MODEL_NAMES:
        raise NotFound(f"There is no model {model!r}.", hint=f"Those there are: {', '.join(MODEL_NAMES)}.")


def champion(models: ObjectReader, model: str = RERANKER) -> tuple[Champion, str]:
    """The champion of a model and the pointer's etag ("" while there is no pointer). Raises `NotFound` for no model of ours."""
    known(model)
    try:
        data, etag = models.get_with_etag(f"{model}/champion.json")
    except NotFound:
        return Champion(model), ""
    found = json.loads(data)
    trial = found.pop("canary", None)
    return Champion(**found, canary=Canary(**trial) if trial else None), etag


def card(models: ObjectReader, model: str, version: str) -> dict[str, Any]:
    """The card of a released version. Raises `NotFound`."""
    try:
        found: dict[str, Any] = json.loads(models.get(f"{model}/{version}/card.json"))
    except NotFound:
        raise NotFound(f"No version {version!r} of {model} was released.", hint="See `headrace models`.") from None
    return found


def versions(models: ObjectReader, model: str = RERANKER) -> list[dict[str, Any]]:
    """The cards of all released versions of a model, oldest first."""
    names = sorted(info.key.split("/")[1] for info in models.list(f"{model}/") if info.key.endswith("/card.json"))
    return [card(models, model, version) for version in names]


@stage("Moves the champion pointer to a released version and records the move.")
def set_champion(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    version: str,
    who: str,
    why: str,
    model: str = RERANKER,
) -> Champion:
    """Serve `version` from now on. Raises `NotFound` where it was not released, `LostRace` where another move came first."""
    return move(models, promotions, model, version, who=who, why=why, kind=PROMOTE)


@stage("Moves the champion pointer back to what was served before and records the move.")
def rollback(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    who: str,
    why: str,
    model: str = RERANKER,
) -> Champion:
    """Serve the version before this one again, and end a trial. Raises `NotFound` where there was none before."""
    standing, etag = champion(models, model)
    if standing.canary is not None:
        return end_canary(models, promotions, model, who=who, why=why)
    if not standing.history:
        raise NotFound(f"{model} has no earlier version to go back to.", hint="See `headrace models`.")
    return move(models, promotions, model, standing.history[-1], who=who, why=why, kind=ROLLBACK, seen=(standing, etag))


def move(
    models: ObjectWriter,
    promotions: TableWriter,
    model: str,
    version: str,
    *,
    who: str,
    why: str,
    kind: str,
    seen: tuple[Champion, str] | None = None,
) -> Champion:
    """Move the pointer by compare-and-swap, then record it; moving it to where it stands changes nothing. A trial ends.

    `seen` is the champion and etag that the caller chose `version` by, where it did.
    """
    standing, etag = seen or champion(models, model)
    record_move(promotions, standing)
    if standing.version == version and standing.canary is None:
        return standing
    number = int(card(models, model, version)["round"]) if version != NONE else 0
    history = standing.history[:-1] if kind == ROLLBACK else [*standing.history, standing.version][-_HISTORY:]
    new = Champion(
        model=model,
        version=version,
        previous=standing.version,
        round=number,
        moves=standing.moves + 1,
        kind=kind,
        who=who,
        why=why,
        at=_now(),
        history=standing.history if standing.version == version else history,
    )
    return _put(models, promotions, new, etag)


def start_canary(
    models: ObjectWriter, promotions: TableWriter, model: str, version: str, *, share: float, who: str, why: str
) -> Champion:
    """Let a released version answer a share of the traffic. Raises `LostRace` where another move came first."""
    standing, etag = champion(models, model)
    record_move(promotions, standing)
    if version == standing.version or (standing.canary is not None and standing.canary.version == version):
        return standing
    trial = Canary(version, share, int(card(models, model, version)["round"]), _now(), why)
    return _put(models, promotions, _moved(standing, CANARY, who, why, canary=trial), etag)


def end_canary(
    models: ObjectWriter,
    promotions: TableWriter,
    model: str,
    *,
    who: str,
    why: str,
    seen: tuple[Champion, str] | None = None,
) -> Champion:
    """End a trial: the champion answers everybody again. Without a trial nothing changes; `seen` is as in `move`."""
    standing, etag = seen or champion(models, model)
    record_move(promotions, standing)
    if standing.canary is None:
        return standing
    return _put(models, promotions, _moved(standing, CANARY_ENDED, who, why), etag)


def record_move(promotions: TableWriter, standing: Champion) -> None:
    """Write the pointer's last move into the promotions table, once: a process may have died right after moving it."""
    name = f"moves/{standing.model}"
    recorded = promotions.snapshot_property(name)
    if standing.moves == 0 or (recorded or 0) >= standing.moves:
        return
    row = {
        "model": standing.model,
        "version": standing.canary.version if standing.canary else standing.version,
        "previous": standing.previous,
        "kind": standing.kind,
        "round": standing.canary.round if standing.canary else standing.round,
        "who": standing.who,
        "why": standing.why,
        "at": datetime.fromisoformat(standing.at),
    }
    try:
        promotions.append(batch(PROMOTIONS.columns, [row]), properties={name: standing.moves}, expected={name: recorded})
    except LostRace:  # the next mover records what it finds unrecorded, too
        if (promotions.snapshot_property(name) or 0) < standing.moves:
            raise


def _moved(standing: Champion, kind: str, who: str, why: str, canary: Canary | None = None) -> Champion:
    # `previous` says in the promotions table what answered before this move: the champion, or the trial that ended.
    previous = standing.canary.version if standing.canary else standing.version
    return replace(standing, previous=previous, moves=standing.moves + 1, kind=kind, who=who, why=why, at=_now(), canary=canary)


def _put(models: ObjectWriter, promotions: TableWriter, new: Champion, etag: str) -> Champion:
    data = json.dumps(asdict(new), indent=1).encode()
    key = f"{new.model}/champion.json"
    if etag:
        models.put_if_match(key, data, etag)
    else:
        models.put_if_absent(key, data)
    record_move(promotions, new)
    return new


def _now() -> str:
    return datetime.now(UTC).isoformat()
