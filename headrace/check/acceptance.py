"""Tests every promise of the configured storage, tier by tier."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from headrace.catalog import Tier
from headrace.check import catalog, files, head, objects
from headrace.check.promise import Broken, Finding, Measured, Outcome, Promise, Promises, TimeBudget, Unknown, describe
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints

SUBJECTS: tuple[Promises[Any], ...] = (objects.SUBJECT, head.SUBJECT, catalog.SUBJECT, files.SUBJECT)
TIERS: tuple[Tier, ...] = tuple(subject.tier for subject in SUBJECTS)
"""The tiers that can be tested; the vector tier keeps its files in the object tier or in a directory."""

_CLEARED = "objects created by the check can be deleted"
_STAYS = "space: deleted data would stay"
_NOT_ASKED = "not tested, because the first promise was not kept"


def promises(tiers: Sequence[Tier] = TIERS) -> int:
    """The number of promises of these tiers."""
    return sum(len(subject.promises) for subject in SUBJECTS if subject.tier in tiers)


def ask_promises(
    settings: Settings, endpoints: Endpoints, tiers: Sequence[Tier] = TIERS, *, seconds: float
) -> Generator[Finding, None, None]:
    """Test every promise of `tiers` and yield the findings.

    `seconds` is the approximate total time. All tests run in sandboxes, which are removed when the iterator ends or is closed. An
    error of an endpoint becomes a finding.
    """
    budget = TimeBudget(seconds / promises(tiers))
    for subject in SUBJECTS:
        if subject.tier in tiers:
            yield from _check_tier(subject, settings, endpoints, budget)


def _check_tier(subject: Promises[Any], settings: Settings, endpoints: Endpoints, budget: TimeBudget) -> Iterator[Finding]:
    first, *others = subject.promises
    first_finding = None
    try:
        with subject.open(settings, endpoints) as sandbox:
            first_finding = _finding(subject, first, sandbox, budget)
            yield first_finding
            if first_finding.outcome is Outcome.KEPT:
                for promise in others:
                    yield _finding(subject, promise, sandbox, budget)
                return
    except Unknown as unknown:
        yield Finding(subject.tier, first.name, Outcome.UNKNOWN, seen=str(unknown), loses=first.loses)
    except subject.faults as error:
        if first_finding is None:
            yield Finding(subject.tier, first.name, Outcome.BROKEN, seen=describe(error), loses=first.loses)
        elif first_finding.outcome is Outcome.KEPT:  # the tests ran, but the clean-up failed
            yield Finding(subject.tier, _CLEARED, Outcome.BROKEN, seen=describe(error), loses=_STAYS)
            return
    for promise in others:
        yield Finding(subject.tier, promise.name, Outcome.UNKNOWN, seen=_NOT_ASKED, loses=promise.loses)


def _finding(subject: Promises[Any], promise: Promise[Any], sandbox: Any, budget: TimeBudget) -> Finding:
    measured, outcome, seen = Measured(""), Outcome.KEPT, ""
    try:
        measured = promise.ask(sandbox, budget)
    except Unknown as unknown:
        measured, outcome, seen = unknown.measured, Outcome.UNKNOWN, str(unknown)
    except Broken as broken:
        outcome, seen = Outcome.BROKEN, str(broken)
    except subject.faults as error:
        outcome, seen = Outcome.BROKEN, describe(error)
    return Finding(subject.tier, promise.name, outcome, measured.figure, measured.figures, seen, promise.loses)
