"""The routes of training and of the head: which versions are served, the rounds, the backlog, and moves of the pointers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from headrace.answering.record import REASON_CHARACTERS
from headrace.api.dependencies import Administering, InThread, Serving
from headrace.api.schemas import ApiRequest, ApiResponse, Text
from headrace.training.manifest import Manifest

router = APIRouter()

Model = Annotated[str, Path(max_length=50, description="ranking, reranker, embedder or generator.")]


class BacklogResponse(ApiResponse):
    """A partition of the head: where it begins and ends, how far it has landed, and what only Kafka has."""

    topic: str
    partition: int
    low: int
    end: int
    landed: int
    lag: int
    bytes: int
    estimated: bool
    oldest_s: float | None
    retention_s: float | None
    trouble: str


class DivergenceResponse(ApiResponse):
    """A partition that stopped because the head and its table disagree, or that `who` let go on (`action`)."""

    topic: str
    partition: int
    kind: str
    action: str
    landed: int
    low: int
    end: int
    seen: str
    who: str
    at: datetime


class HeadResponse(ApiResponse):
    """The head: its partitions, and what stopped them lately."""

    partitions: list[BacklogResponse]
    divergences: list[DivergenceResponse]


class ReleasedResponse(ApiResponse):
    """A released version of a model, and the share of the answers it gives now (0 to 1)."""

    version: str
    round: int
    recipe: str
    bytes: int
    share: float


class TrainedModelResponse(ApiResponse):
    """A model that is trained: its pointer, as in `headrace models --json`, and its newest released versions, newest first."""

    pointer: dict[str, Any]
    versions: list[ReleasedResponse]


class MoveResponse(ApiResponse):
    """A move of a model's pointer; `kind` is promote, rollback, canary or canary_ended."""

    model: str
    version: str
    previous: str
    kind: str
    round: int
    who: str
    why: str
    at: datetime


class RegistryResponse(ApiResponse):
    """The models that are trained, and the newest moves of their pointers, newest first."""

    models: list[TrainedModelResponse]
    moves: list[MoveResponse]


class RoundResponse(ApiResponse):
    """A committed round; `evaluation` and `power` are as in its manifest."""

    round: int
    recipe: str
    model: str
    begun: str
    committed: str
    run: str
    promoted: bool
    why: str
    alarms: list[str]
    version: str | None
    champion: str
    dataset: str
    evaluation: dict[str, Any]
    power: dict[str, Any] | None
    timings: dict[str, float]
    feedback_to_served: float | None


class RoundList(ApiResponse):
    """Committed rounds, newest first."""

    object: Literal["list"] = "list"
    data: list[RoundResponse]
    has_more: bool


class MoveRequest(ApiRequest):
    """Why a model's pointer is moved; it is kept in the history."""

    why: Annotated[Text, Field(max_length=REASON_CHARACTERS)] = "asked over the API"


class PromoteRequest(MoveRequest):
    """Which released version of a model to serve, and why."""

    version: Annotated[str, Field(pattern=r"^v\d{6,12}$", examples=["v000001"])]


class PointerResponse(ApiResponse):
    """A model's pointer after a move."""

    pointer: dict[str, Any]


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
