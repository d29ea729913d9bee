"""The routes of training and of the head: which versions are served, the rounds, the backlog, and moves of the pointers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from headrace.api.dependencies import Administering, InThread, Serving
from headrace.api.schemas import (
    BacklogResponse,
    DivergenceResponse,
    HeadResponse,
    MoveRequest,
    MoveResponse,
    PointerResponse,
    PromoteRequest,
    RegistryResponse,
    ReleasedResponse,
    RoundList,
    RoundResponse,
    TrainedModelResponse,
)
from headrace.training.manifest import Manifest

router = APIRouter()

Model = Annotated[str, Path(max_length=50, description="ranking, reranker, embedder or generator.")]


@router.get("/v1/registry")
async def registry(service: Serving, caller: Administering, in_thread: InThread) -> RegistryResponse:
    """The models that are trained: what is served, what was released, and the history of moves."""

    def work() -> RegistryResponse:
        models = [
            TrainedModelResponse(pointer=pointer.as_dict(), versions=[ReleasedResponse(**vars(version)) for version in released])
            for pointer, released in service.training.models()
        ]
        return RegistryResponse(models=models, moves=[MoveResponse(**row) for row in service.training.moves()])

    return await in_thread(work)


@router.post("/v1/registry/{model}/promote")
async def promote(
    model: Model, body: PromoteRequest, request: Request, service: Serving, caller: Administering, in_thread: InThread
) -> PointerResponse:
    """Serve a released version of a model."""
    request.scope["noted"].resource = f"{model}/{body.version}"
    who = service.questions.name_of(caller)
    pointer = await in_thread(lambda: service.training.promote(model, body.version, who=who, why=body.why))
    return PointerResponse(pointer=pointer.as_dict())


@router.post("/v1/registry/{model}/rollback")
async def rollback(
    model: Model, body: MoveRequest, request: Request, service: Serving, caller: Administering, in_thread: InThread
) -> PointerResponse:
    """Serve the previous version of a model again; a running canary ends instead."""
    request.scope["noted"].resource = model
    who = service.questions.name_of(caller)
    pointer = await in_thread(lambda: service.training.rollback(model, who=who, why=body.why))
    return PointerResponse(pointer=pointer.as_dict())


@router.get("/v1/rounds")
async def rounds(
    service: Serving,
    caller: Administering,
    in_thread: InThread,
    before: Annotated[int | None, Query(ge=1, description="Only rounds before this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> RoundList:
    """Committed rounds of training, newest first."""
    found, more = await in_thread(lambda: service.training.rounds(before, limit))
    return RoundList(data=[_round(one) for one in found], has_more=more)


@router.get("/v1/head")
async def head(service: Serving, caller: Administering, in_thread: InThread) -> HeadResponse:
    """What of the head has not landed, by partition, and where landing stopped lately."""

    def work() -> HeadResponse:
        partitions = [BacklogResponse(**one.as_dict()) for one in service.app.storage.backlog()]
        return HeadResponse(
            partitions=partitions, divergences=[DivergenceResponse(**row) for row in service.events.divergences()]
        )

    return await in_thread(work)


def _round(one: Manifest) -> RoundResponse:
    return RoundResponse(
        **{name: getattr(one, name) for name in ("round", "recipe", "model", "begun", "committed", "run", "champion", "timings")},
        promoted=one.decision.promote,
        why=one.decision.why,
        alarms=one.decision.alarms,
        version=one.weights.version,
        dataset=one.dataset.version,
        evaluation=one.evaluation.model_dump(),
        power=one.power.model_dump() if one.power else None,
        feedback_to_served=one.feedback_to_served,
    )
