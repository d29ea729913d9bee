"""The training loop over the API: what it tells of itself, beside what has landed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from headrace.api.auth import ADMIN, caller_of
from headrace.api.service import Service
from headrace.scheduler import status
from headrace.scheduler.ingest_thread import IngestThread


def add_loop(app: FastAPI, service: Service) -> None:
    """Add the route. `app.state.landing` and `app.state.trains` say what `headrace up` has started."""

    @app.get("/v1/loop")
    async def loop(request: Request) -> JSONResponse:
        """What the training loop waits for or does, its last decision, what is on trial, and what has landed."""
        caller_of(request).may(ADMIN)
        return JSONResponse(loop_told(app, service))


def loop_told(app: FastAPI, service: Service) -> dict[str, Any]:
    """The loop's file; its state is "off" where `headrace up` was told to leave it out."""
    landing: IngestThread | None = getattr(app.state, "landing", None)
    told = status.read(service.settings.home)
    if not getattr(app.state, "trains", False):
        told |= {"state": status.OFF, "running": False}
    return {**told, "landing": landing.told() if landing is not None else None}
