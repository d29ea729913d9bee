"""What a person does with the served version: promote another by hand, or go back to the one before."""

from __future__ import annotations

from typing import Annotated

from headrace.catalog import MODELS, PROMOTIONS
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.models.pointer import ChampionPointer
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training.champion import PROMOTE, ROLLBACK, champion, end_canary, move
from headrace.training.names import RERANKER


@stage("Moves the champion pointer to a released version and records the move.")
def set_champion(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    version: str,
    who: str,
    why: str,
    model: str = RERANKER,
) -> ChampionPointer:
    """Serve `version` from now on. Raises `NotFound` where it was not released, `LostRace` where another move came first."""
    return move(models, promotions, model, version, who=who, why=why, kind=PROMOTE)


@stage("Moves the champion pointer back to what was served before and records the move.")
def rollback(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    who: str,
    why: str,
    model: str = RERANKER,
) -> ChampionPointer:
    """Serve the version before this one again, and end a canary. Raises `NotFound` where there was none before."""
    pointer, etag = champion(models, model)
    if pointer.canary is not None:
        return end_canary(models, promotions, model, who=who, why=why)
    if not pointer.history:
        raise NotFound(f"{model} has no earlier version to go back to.", hint="See `headrace models`.")
    return move(models, promotions, model, pointer.history[-1], who=who, why=why, kind=ROLLBACK, seen=(pointer, etag))
