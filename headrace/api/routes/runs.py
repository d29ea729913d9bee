"""The routes of runs, past and present: ledger, runs, diagrams, the loop, and the events that the page listens to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import ConfigDict

from headrace.api.dependencies import Administering, InThread, Reading, Serving
from headrace.api.routes.health import Health
from headrace.api.routes.questions import event
from headrace.api.schemas import ApiResponse, TenantName
from headrace.api.service import Service
from headrace.explain.diagram.views import Detail, View
from headrace.scheduler import status
from headrace.scheduler.landing_thread import LandingThread
from headrace.storage.ledger import Row

router = APIRouter()

RunId = Annotated[str | None, Query(max_length=200, description="A run's id, or a beginning of it that no other run has.")]
_SVG_CSP = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; frame-ancestors 'none'; sandbox"
_TOTALS_S = 1.0
_LOOK_S = 0.2
_HEALTH_S = 5.0  # often enough for the page


class LedgerResponse(ApiResponse):
    """The ledger of a run."""

    run: str
    state: str
    command: str
    started: str
    ended: str | None
    rows: list[Row]


class RunSummary(ApiResponse):
    """A recorded run without its ledger; `seconds` and the rates are null while it runs and if it was killed."""

    run: str
    command: str
    state: str
    started: str
    ended: str | None
    seconds: float | None
    ops: int
    bytes: int
    ops_per_s: float | None
    bytes_per_s: int | None
    questions: int
    bytes_per_question: int | None
    counts: dict[str, int]
    storage: dict[str, str]
    provenance: dict[str, Any]
    pipelines: list[str]


class SceneGroup(ApiResponse):
    """One element of a diagram: `items` are SVG's elements (`is`) with their attributes; `alt` describes it in words.

    `name` says which stage, bar (tier/store) or flow (stage|direction|tier/store) it is.
    """

    kind: str
    name: str
    alt: str
    items: list[dict[str, Any]]


class SceneResponse(ApiResponse):
    """A pipeline's diagram as its parts, in the order in which they are painted; `live` says that its run is under way here.

    `stages` and `stores` map the names at slide level to stages of the ledger and to stores.
    """

    pipeline: str
    run: str
    measured: bool
    live: bool
    width: float
    height: float
    ground: str
    title: str
    description: str
    notes: list[str]
    stages: dict[str, list[str]]
    stores: dict[str, str]
    groups: list[SceneGroup]


class RunList(ApiResponse):
    """Recorded runs, newest first."""

    runs: list[RunSummary]


class IndexedResponse(ApiResponse):
    """How many passages of a tenant are indexed, and in which version of the index.

    `waiting` documents were put or deleted and are not in the index so yet, the oldest since `lag_s` seconds.
    """

    run: str
    tenant: str
    default_tenant: str
    index_version: str
    passages: int
    waiting: int
    lag_s: float


class IndexLagResponse(ApiResponse):
    """The documents that were put or deleted and are not in the index so yet: how many, and the age of the oldest in seconds."""

    waiting: int
    lag_s: float


class LandingResponse(ApiResponse):
    """What has landed since the start, and what cannot land, with the reason."""

    landed: dict[str, int]
    dead_letters: int
    troubles: list[str]


class LoopResponse(ApiResponse):
    """The training loop, as in `headrace loop --json`, and what has landed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    state: str
    running: bool
    landing: LandingResponse | None


@router.get("/v1/ledger")
async def ledger(service: Serving, caller: Administering, in_thread: InThread, run: RunId = None) -> LedgerResponse:
    """What the run under way, or `run`, has moved: a row for each stage, store, direction and tenant."""
    return LedgerResponse(**await in_thread(lambda: service.live.ledger(run)))


@router.get("/v1/runs")
async def recorded(
    service: Serving, caller: Administering, in_thread: InThread, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
) -> RunList:
    """The newest recorded runs of this home, newest first, with the pipelines they ran a part of."""
    return RunList(runs=[RunSummary(**run) for run in await in_thread(lambda: service.live.runs(limit))])


@router.get("/v1/index")
async def index_status(
    service: Serving, caller: Reading, in_thread: InThread, tenant: TenantName | None = None
) -> IndexedResponse:
    """How many passages of a tenant are indexed, and in which version of the index."""
    whose = caller.tenant_for(tenant)
    return IndexedResponse(**await in_thread(lambda: service.live.index_status(caller, whose)))


@router.get("/v1/index/lag")
async def index_lag(service: Serving, caller: Administering, in_thread: InThread) -> IndexLagResponse:
    """How many documents of all tenants wait to be indexed, and since when the oldest does."""
    count, oldest_s = await in_thread(service.documents.waiting)
    return IndexLagResponse(waiting=count, lag_s=round(oldest_s, 1))


@router.get("/v1/diagrams/{pipeline}.svg")
async def diagram(
    pipeline: str,
    service: Serving,
    caller: Administering,
    in_thread: InThread,
    run: RunId = None,
    view: View = View.STORAGE,
    detail: Detail = Detail.SLIDE,
    theme: Literal["light", "dark"] = "light",
) -> Response:
    """A pipeline's diagram, drawn from `run`, or the newest run that moved anything in it; before the first run, as declared."""
    drawn = await in_thread(lambda: service.live.diagram(pipeline, run, view, detail, theme))
    return Response(drawn, media_type="image/svg+xml", headers={"Content-Security-Policy": _SVG_CSP})


@router.get("/v1/diagrams/{pipeline}.json")
async def scene(
    pipeline: str,
    service: Serving,
    caller: Administering,
    in_thread: InThread,
    run: RunId = None,
    view: View = View.STORAGE,
    detail: Detail = Detail.SLIDE,
    theme: Literal["light", "dark"] = "light",
) -> SceneResponse:
    """The same diagram as its parts, which the page draws: it can then show details, and what moves now."""
    return SceneResponse(**await in_thread(lambda: service.live.scene(pipeline, run, view, detail, theme)))


@router.get("/v1/loop")
async def loop(request: Request, caller: Administering) -> LoopResponse:
    """What the training loop waits for or does, its last decision, the canary, and what has landed."""
    return LoopResponse(**_loop(request.app))


@router.get("/v1/events")
async def events(request: Request, service: Serving, caller: Administering) -> StreamingResponse:
    """Server-sent events: `totals`, the run under way by tier, about once a second; `loop` (as /v1/loop), `health` (as
    /health/ready) and `moved` (the flows of this run, and of a concurrent training round) when they change."""
    still_valid: Callable[[], bool] = request.scope.get("still_valid", lambda: True)
    live = _live(service, lambda: _loop(request.app), request.app.state.health, still_valid)
    return StreamingResponse(live, media_type="text/event-stream")


def _loop(app: FastAPI) -> dict[str, Any]:
    """The status of the loop; "off" under `headrace up --no-train`.

    `app.state.landing` and `app.state.trains` show what `headrace up` has started.
    """
    landing: LandingThread | None = getattr(app.state, "landing", None)
    state = status.read(app.state.service.settings.home)
    if not getattr(app.state, "trains", False):
        state |= {"state": status.OFF, "running": False}
    return {**state, "landing": landing.status() if landing is not None else None}


async def _live(
    service: Service, loop: Callable[[], dict[str, Any]], health: Health, still_valid: Callable[[], bool]
) -> AsyncIterator[str]:
    """The events of `/v1/events`, until the service stops or the key is no longer valid."""
    last_loop: dict[str, Any] = {}
    last_health: dict[str, Any] = {}
    last_moved: list[dict[str, Any]] = []
    while True:
        yield event("totals", service.live.totals())
        if (now := await asyncio.to_thread(loop)) != last_loop:
            last_loop = now
            yield event("loop", now)
        if (now := await health.as_dict(_HEALTH_S)) != last_health:
            last_health = now
            yield event("health", now)
        if (moved := await asyncio.to_thread(service.live.moving)) != last_moved:
            last_moved = moved
            yield event("moved", {"runs": moved})
        if service.stopping:
            return
        for _ in range(round(_TOTALS_S / _LOOK_S)):
            if not service.stopping:
                await asyncio.sleep(_LOOK_S)
                if not await asyncio.to_thread(still_valid):
                    return
