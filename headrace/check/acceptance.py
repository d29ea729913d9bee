"""Tests every promise of the configured storage and drives every workload, tier by tier."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from headrace.catalog import Tier
from headrace.check import catalog, files, head, objects, vectors
from headrace.check.promise import (
    Broken,
    Finding,
    Measured,
    NotNeeded,
    NotTested,
    Outcome,
    Promise,
    Promises,
    TimeBudget,
    describe,
)
from headrace.check.workloads import catalog as catalog_workloads
from headrace.check.workloads import files as file_workloads
from headrace.check.workloads import head as head_workloads
from headrace.check.workloads import objects as object_workloads
from headrace.check.workloads import vectors as vector_workloads
from headrace.check.workloads.workload import Effort, Workload, WorkloadResult
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

SUBJECTS: tuple[Promises[Any], ...] = (objects.SUBJECT, head.SUBJECT, catalog.SUBJECT, vectors.SUBJECT, files.SUBJECT)
TIERS: tuple[Tier, ...] = tuple(subject.tier for subject in SUBJECTS)
"""The tiers in the order in which they are tested."""
WORKLOADS: Mapping[Tier, Sequence[Workload[Any]]] = {
    Tier.OBJECT: object_workloads.WORKLOADS,
    Tier.STREAM: head_workloads.WORKLOADS,
    Tier.TABLE: catalog_workloads.WORKLOADS,
    Tier.VECTOR: vector_workloads.WORKLOADS,
    Tier.FILE: file_workloads.WORKLOADS,
}

_LEAST_SHARE = 0.1
"""Share of the time that is left for the remaining tiers, however long the earlier ones took."""
_WORKLOADS_SHARE = 0.8
"""Time of a workload to that of a promise: many promises need less than their share, no workload does."""
_CLEARED = "objects created by the check can be deleted"
_STAYS = "space: deleted data would stay"
_NOT_ASKED = "not tested, because the first promise was not kept"


def steps(tiers: Sequence[Tier] = TIERS) -> int:
    """The number of promises and workloads of these tiers."""
    return sum(_steps(subject) for subject in SUBJECTS if subject.tier in tiers)


def check_storage(
    settings: Settings, endpoints: Endpoints, tiers: Sequence[Tier] = TIERS, *, seconds: float, concurrency: int
) -> Generator[Finding | WorkloadResult, None, None]:
    """Test every promise of `tiers` and drive their workloads, with `concurrency` operations in flight; yield what is found.

    `seconds` is the approximate total time: where a tier takes longer than its share, later ones do less. Everything happens in
    sandboxes, which are removed when the iterator ends or is closed. An error of an endpoint becomes a finding. A tier whose
    first promise is not kept has no workloads.
    """
    asked = [subject for subject in SUBJECTS if subject.tier in tiers]
    began = time.monotonic()
    for number, subject in enumerate(asked):
        left = seconds - (time.monotonic() - began)
        share = max(left, _LEAST_SHARE * seconds) / sum(map(_steps, asked[number:]))
        yield from _check_tier(
            subject,
            settings,
            endpoints,
            TimeBudget(share),
            WORKLOADS[subject.tier],
            Effort(_WORKLOADS_SHARE * share, concurrency),
        )


def _steps(subject: Promises[Any]) -> int:
    return len(subject.promises) + len(WORKLOADS[subject.tier])


def _check_tier(
    subject: Promises[Any],
    settings: Settings,
    endpoints: Endpoints,
    budget: TimeBudget,
    workloads: Sequence[Workload[Any]],
    effort: Effort,
) -> Iterator[Finding | WorkloadResult]:
    first, *others = subject.promises
    first_finding = None
    try:
        with subject.open(settings, endpoints) as sandbox:
            first_finding = _finding(subject, first, sandbox, budget)
            yield first_finding
            if first_finding.outcome is Outcome.KEPT:
                for promise in others:
                    yield _finding(subject, promise, sandbox, budget)
                for workload in workloads:
                    yield _result(subject, workload, sandbox, effort)
                return
    except NotTested as untested:
        yield Finding(subject.tier, first.name, Outcome.NOT_TESTED, seen=str(untested), loses=first.loses)
    except subject.faults as error:
        if first_finding is None:
            yield Finding(subject.tier, first.name, Outcome.BROKEN, seen=describe(error), loses=first.loses)
        elif first_finding.outcome is Outcome.KEPT:  # the tests ran, but the clean-up failed
            yield Finding(subject.tier, _CLEARED, Outcome.BROKEN, seen=describe(error), loses=_STAYS)
            return
    for promise in others:
        yield Finding(subject.tier, promise.name, Outcome.NOT_TESTED, seen=_NOT_ASKED, loses=promise.loses)


def _finding(subject: Promises[Any], promise: Promise[Any], sandbox: Any, budget: TimeBudget) -> Finding:
    measured, outcome, seen = Measured(""), Outcome.KEPT, ""
    try:
        measured = promise.ask(sandbox, budget)
    except NotNeeded as unneeded:
        measured, outcome, seen = unneeded.measured, Outcome.NOT_NEEDED, str(unneeded)
    except NotTested as untested:
        outcome, seen = Outcome.NOT_TESTED, str(untested)
    except Broken as broken:
        outcome, seen = Outcome.BROKEN, str(broken)
    except subject.faults as error:
        outcome, seen = Outcome.BROKEN, describe(error)
    return Finding(subject.tier, promise.name, outcome, measured.figure, measured.figures, seen, promise.loses)


def _result(subject: Promises[Any], workload: Workload[Any], sandbox: Any, effort: Effort) -> WorkloadResult:
    faults: tuple[type[Exception], ...] = (Broken, *subject.faults)
    try:
        timed = workload.drive(sandbox, effort)
    except faults as error:
        return WorkloadResult(subject.tier, workload.name, requirement=workload.requirement, failed=describe(error))
    return WorkloadResult.of(subject.tier, workload.name, workload.requirement, timed)
