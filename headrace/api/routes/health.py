"""Whether the service is alive and ready: routes for load balancers and probes, without a key."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from headrace import __version__
from headrace.api.dependencies import Serving
from headrace.api.schemas import ApiResponse
from headrace.api.service import Service
from headrace.models.http import error_body
from headrace.readiness import FRESH_S, PartState

router = APIRouter()


class LiveResponse(ApiResponse):
    """Whether the server answers."""

    status: str
    version: str


class ReadyResponse(ApiResponse):
    """Whether each part that the service needs answers."""

    status: str
    parts: list[dict[str, Any]]
    unrecorded_answers: int


class Health:
    """The last known state of each part of the service. Requests at the same time share one check, on one thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[tuple[PartState, ...]] | None = None

    async def look(self, fresh_s: float = FRESH_S) -> tuple[PartState, ...]:
        """Every part, as `Readiness.look`."""
        if (found := self._service.readiness.recent(fresh_s)) is not None:
            return found
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(asyncio.to_thread(self._service.readiness.check, fresh_s))
        return await asyncio.shield(self._task)

    async def as_dict(self, fresh_s: float = FRESH_S) -> dict[str, Any]:
        """The same as JSON-ready keys; `status` is ok, not_ready or stopping."""
        parts = await self.look(fresh_s)
        status = "stopping" if self._service.stopping else "ok" if all(part.ready for part in parts) else "not_ready"
        return {
            "status": status,
            "parts": [part.as_dict() for part in parts],
            "unrecorded_answers": self._service.unrecorded_answers,
        }


@router.get("/health")
@router.get("/health/live")
async def live(service: Serving) -> LiveResponse:
    """Whether the server answers; needs no key."""
    return LiveResponse(status="stopping" if service.stopping else "ok", version=__version__)


@router.get("/health/ready", response_model=ReadyResponse)
async def ready(request: Request, service: Serving) -> ReadyResponse | JSONResponse:
    """Whether every part that the service needs answers: 503 and the parts that do not; needs no key."""
    if service.stopping:
        return _not_ready("stopping", {"status": "stopping", "parts": []})
    found = await request.app.state.health.as_dict()
    wanting = [part for part in found["parts"] if not part["ready"]]
    if not wanting:
        return ReadyResponse(**found)
    reason = "; ".join(f"{part['part']}: {part['state']}" for part in wanting)
    return _not_ready(reason, found)


def _not_ready(reason: str, found: dict[str, Any]) -> JSONResponse:
    return JSONResponse(error_body(503, f"Not ready: {reason}.", "not_ready") | found, 503, {"Retry-After": "2"})
