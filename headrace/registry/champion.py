"""Manual moves of the champion pointer: promote a version, or roll back to the previous one."""

from __future__ import annotations

from typing import Annotated

from headrace.catalog import MODELS, PROMOTIONS
from headrace.core.stage import stage
from headrace.errors import NotFound
from headrace.models import RERANKER
from headrace.models.pointer import ChampionPointer
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableWriter
from headrace.training.promotions import PROMOTE, ROLLBACK, champion, end_canary, move


@stage("Moves the champion pointer to a released version and records the move.")
def set_champion(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    version: str,
    who: str,
    why: str,
    model: str = RERANKER,
) -> ChampionPointer:
    """Serve `version`. Raises `NotFound` if it was not released, `LostRace` if another move came first."""
    return move(models, promotions, model, version, who=who, why=why, kind=PROMOTE)


@stage("Moves the champion pointer back to the previous version and records the move.")
def rollback(
    models: Annotated[ObjectWriter, MODELS],
    promotions: Annotated[TableWriter, PROMOTIONS],
    who: str,
    why: str,
    model: str = RERANKER,
) -> ChampionPointer:
    """Serve the previous version again; a running canary is ended instead. Raises `NotFound` if there is none."""
    pointer, etag = champion(models, model)
    if pointer.canary is not None:
        return end_canary(models, promotions, model, who=who, why=why)
    if not pointer.history:
        raise NotFound(f"{model} has no earlier version to go back to.", hint="See `headrace models`.")
    return move(models, promotions, model, pointer.history[-1], who=who, why=why, kind=ROLLBACK, seen=(pointer, etag))
