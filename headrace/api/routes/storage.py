"""The routes about storage: followed sources, triggers, the last acceptance test of this home, and the sizing of a platform."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from headrace.api.dependencies import Administering, InThread, Serving
from headrace.api.follow_thread import FollowedSource
from headrace.api.schemas import ApiResponse
from headrace.check.report import last_report
from headrace.errors import WrongUsage
from headrace.explain.sizing.measured import measurements
from headrace.explain.sizing.models import PRESETS
from headrace.explain.sizing.parameters import SizingParameters
from headrace.explain.sizing.sizing import Sizing, choices, size
from headrace.scheduler.triggers.built_in import BuiltInTrigger, built_in_triggers
from headrace.scheduler.triggers.thread import TriggerReport

router = APIRouter()


class CheckResponse(ApiResponse):
    """The last report of `headrace check` (docs/reference/json.md); null before the first."""

    report: dict[str, Any] | None


class SizingResponse(ApiResponse):
    """A sizing, and the presets and precision recipes that can be chosen."""

    sizing: Sizing
    models: list[str]
    recipes: list[str]


class SourcesResponse(ApiResponse):
    """The sources that this service follows, and how far."""

    data: list[FollowedSource]


class TriggersResponse(ApiResponse):
    """The triggers of the settings, what became of their events, and what the service does without one."""

    data: list[TriggerReport]
    built_in: list[BuiltInTrigger]


@router.get("/v1/triggers")
async def triggers(service: Serving, caller: Administering, in_thread: InThread) -> TriggersResponse:
    """The triggers of the settings (`[[triggers]]`): their events that wait, run, are done in the last days, and are dead.

    `built_in` is what the service does without one, and the setting that switches each step.
    """
    return TriggersResponse(data=await in_thread(service.triggers), built_in=built_in_triggers(service.settings))


@router.get("/v1/sources")
async def sources(service: Serving, caller: Administering) -> SourcesResponse:
    """The folders and prefixes of the settings (`[[sources]]`), and the age of the oldest change that no question finds yet."""
    return SourcesResponse(data=service.followed_sources())


@router.get("/v1/check")
async def check(service: Serving, caller: Administering, in_thread: InThread) -> CheckResponse:
    """The report of the last `headrace check` of this home, as its `--json`; null before the first."""
    return CheckResponse(report=await in_thread(lambda: last_report(service.settings.home)))


@router.get("/v1/sizing")
async def sizing(
    service: Serving, caller: Administering, in_thread: InThread, parameters: Annotated[SizingParameters, Query()]
) -> SizingResponse:
    """The sizing of a platform, as `headrace size --json`, beside what this home measured, and what can be chosen."""
    if parameters.model not in PRESETS:  # on the command line it may be a file, which no request may name
        raise WrongUsage(f"There is no preset {parameters.model[:100]!r}.", hint=f"Choose from {', '.join(PRESETS)}.")
    found = await in_thread(lambda: size(parameters, measurements(service.settings.home)))
    offered = choices()
    return SizingResponse(
        sizing=found,
        models=[one["name"] for one in offered["models"]],
        recipes=[one["name"] for one in offered["recipes"]],
    )
