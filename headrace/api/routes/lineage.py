"""The route of lineage: what an answer came from, and where an event went."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from headrace.api.dependencies import Administering, InThread, Serving
from headrace.api.schemas import ApiResponse
from headrace.lineage.graph import trace_answer, trace_event

router = APIRouter()

_ITEM = r"^([0-9a-f]{16}([0-9a-f]{8})?|[a-z][a-z0-9-]{0,62}/[0-9]{1,9}/[0-9]{1,18})$"


class LineageResponse(ApiResponse):
    """The lineage as `headrace trace --json` prints it, of what has landed."""

    lineage: dict[str, Any]


@router.get("/v1/lineage")
async def lineage(
    service: Serving,
    caller: Administering,
    in_thread: InThread,
    of: Annotated[str, Query(pattern=_ITEM, description="The id of an answer, or TOPIC/PARTITION/OFFSET of an event.")],
) -> LineageResponse:
    """From an answer to its models, their training data and the verdicts behind it, or from an event to what learned from it."""
    run = service.runner.run
    if "/" in of:
        return LineageResponse(lineage=dict(await in_thread(lambda: run(trace_event, event=of))))
    return LineageResponse(lineage=dict(await in_thread(lambda: run(trace_answer, answer_id=of))))
