"""Moves of the champion pointer by compare-and-swap, each recorded once in the promotions table.

Besides the champion the pointer may name a canary: a challenger that answers a share of the traffic until it is promoted or
ended. The pointer's schema is in `models/pointer.py`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from headrace.catalog import PROMOTIONS
from headrace.errors import LostRace, NotFound
from headrace.models import MODEL_NAMES, RERANKER
from headrace.models.pointer import NONE, Canary, ChampionPointer, read_pointer, swap_pointer
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.records import batch
from headrace.storage.tables.handles import TableWriter

PROMOTE, ROLLBACK, CANARY, CANARY_ENDED = "promote", "rollback", "canary", "canary_ended"
_HISTORY = 50


def check_model_name(model: str) -> None:
    """Raise `NotFound` unless this is the name of a model."""
    if model not in MODEL_NAMES:
        raise NotFound(f"There is no model {model!r}.", hint=f"Models: {', '.join(MODEL_NAMES)}.")


def champion(models: ObjectReader, model: str = RERANKER) -> tuple[ChampionPointer, str]:
    """The champion of a model and the pointer's etag ("" while there is no pointer). Raises `NotFound` for any other name."""
    check_model_name(model)
    return read_pointer(models, model)


def card(models: ObjectReader, model: str, version: str) -> dict[str, Any]:
    """The card of a released version. Raises `NotFound`."""
    try:
        stored: dict[str, Any] = json.loads(models.get(f"{model}/{version}/card.json"))
    except NotFound:
        raise NotFound(f"No version {version!r} of {model} was released.", hint="See `headrace models`.") from None
    return stored


def versions(models: ObjectReader, model: str = RERANKER, *, newest: int | None = None) -> list[dict[str, Any]]:
    """The cards of all released versions of a model, or of so many of the newest, oldest first."""
    names = version_names(models, model)
    return [card(models, model, version) for version in (names if newest is None else names[-newest:])]


def version_names(models: ObjectReader, model: str) -> list[str]:
    """The names of a model's released versions, oldest first."""
    names = [info.key.split("/")[1] for info in models.list(f"{model}/") if info.key.endswith("/card.json")]
    return sorted(names, key=lambda name: (len(name), name))


def move(
    models: ObjectWriter,
    promotions: TableWriter,
    model: str,
    version: str,
    *,
    who: str,
    why: str,
    kind: str,
    seen: tuple[ChampionPointer, str] | None = None,
) -> ChampionPointer:
    """Move the pointer by compare-and-swap, then record the move; ends a canary. Without a change nothing is written.

    `seen` is the pointer and etag by which the caller chose `version`, if it did.
    """
    pointer, etag = seen or champion(models, model)
    record_move(promotions, pointer)
    if pointer.version == version and pointer.canary is None:
        return pointer
    number = int(card(models, model, version)["round"]) if version != NONE else 0
    history = pointer.history[:-1] if kind == ROLLBACK else [*pointer.history, pointer.version][-_HISTORY:]
    new = ChampionPointer(
        model=model,
        version=version,
        previous=pointer.version,
        round=number,
        moves=pointer.moves + 1,
        kind=kind,
        who=who,
        why=why,
        at=_now(),
        history=pointer.history if pointer.version == version else history,
    )
    return _put(models, promotions, new, etag)


def start_canary(
    models: ObjectWriter, promotions: TableWriter, model: str, version: str, *, share: float, who: str, why: str
) -> ChampionPointer:
    """Let a released version answer a share of the traffic. Raises `LostRace` if another move came first."""
    pointer, etag = champion(models, model)
    record_move(promotions, pointer)
    if version == pointer.version or (pointer.canary is not None and pointer.canary.version == version):
        return pointer
    number = int(card(models, model, version)["round"])
    candidate = Canary(version=version, share=share, round=number, since=_now(), why=why)
    return _put(models, promotions, _moved(pointer, CANARY, who, why, canary=candidate), etag)


def end_canary(
    models: ObjectWriter,
    promotions: TableWriter,
    model: str,
    *,
    who: str,
    why: str,
    seen: tuple[ChampionPointer, str] | None = None,
) -> ChampionPointer:
    """End a canary: the champion answers all traffic again. Without a canary nothing is written; `seen` is as in `move`."""
    pointer, etag = seen or champion(models, model)
    record_move(promotions, pointer)
    if pointer.canary is None:
        return pointer
    return _put(models, promotions, _moved(pointer, CANARY_ENDED, who, why), etag)


def record_move(promotions: TableWriter, pointer: ChampionPointer) -> None:
    """Record the pointer's last move in the promotions table, once; the process that moved it may have died before."""
    name = f"moves/{pointer.model}"
    recorded = promotions.snapshot_property(name)
    if pointer.moves == 0 or (recorded or 0) >= pointer.moves:
        return
    row = {
        "model": pointer.model,
        "version": pointer.canary.version if pointer.canary else pointer.version,
        "previous": pointer.previous,
        "kind": pointer.kind,
        "round": pointer.canary.round if pointer.canary else pointer.round,
        "who": pointer.who,
        "why": pointer.why,
        "at": datetime.fromisoformat(pointer.at),
    }
    try:
        promotions.append(batch(PROMOTIONS.columns, [row]), properties={name: pointer.moves}, expected={name: recorded})
    except LostRace:  # the process that won recorded this move too
        if (promotions.snapshot_property(name) or 0) < pointer.moves:
            raise


def _moved(pointer: ChampionPointer, kind: str, who: str, why: str, canary: Canary | None = None) -> ChampionPointer:
    # In the promotions table `previous` is what answered before this move: the champion, or the canary that ended.
    previous = pointer.canary.version if pointer.canary else pointer.version
    moved = {
        "previous": previous,
        "moves": pointer.moves + 1,
        "kind": kind,
        "who": who,
        "why": why,
        "at": _now(),
        "canary": canary,
    }
    return pointer.model_copy(update=moved)


def _put(models: ObjectWriter, promotions: TableWriter, new: ChampionPointer, etag: str) -> ChampionPointer:
    swap_pointer(models, new, etag)
    record_move(promotions, new)
    return new


def _now() -> str:
    return datetime.now(UTC).isoformat()
