"""Asks the configured storage for every promise, tier by tier."""

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
"""The tiers that can be asked; the vector tier keeps its files in the object tier, or in a directory."""

_CLEARED = "what the check made can be deleted"
_STAYS = "space: what an owner deletes would stay"
_NOT_ASKED = "not asked, for the first was not kept"


def promises(tiers: Sequence[Tier] = TIERS) -> int:
    """How many promises of these tiers there are."""
    return sum(len(subject.promises) for subject in SUBJECTS if subject.tier in tiers)


def ask_promises(
    settings: Settings, endpoints: Endpoints, tiers: Sequence[Tier] = TIERS, *, seconds: float
) -> Generator[Finding, None, None]:
    """Ask for every promise of `tiers` and yield what was found, a line each.

    `seconds` is about how long all of it may take. Everything happens in places of the check's own, which are gone when the
    iterator ends or is closed; what an endpoint refuses becomes a finding, not an error.
    """
    effort = TimeBudget(seconds / promises(tiers))
    for subject in SUBJECTS:
        if subject.tier in tiers:
            yield from _check_tier(subject, settings, endpoints, effort)


def _check_tier(subject: Promises[Any], settings: Settings, endpoints: Endpoints, effort: TimeBudget) -> Iterator[Finding]:
    first, *others = subject.promises
    verdict = None
    try:
        with subject.open(settings, endpoints) as room:
            verdict = _finding(subject, first, room, effort)
            yield verdict
            if verdict.verdict is Outcome.KEPT:
                for promise in others:
                    yield _finding(subject, promise, room, effort)
                return
    except Unknown as unknown:
        yield Finding(subject.tier, first.name, Outcome.UNKNOWN, seen=str(unknown), loses=first.loses)
    except subject.faults as error:
        if verdict is None:
            yield Finding(subject.tier, first.name, Outcome.BROKEN, seen=describe(error), loses=first.loses)
        elif verdict.verdict is Outcome.KEPT:  # it answered, and does not let us clear up
            yield Finding(subject.tier, _CLEARED, Outcome.BROKEN, seen=describe(error), loses=_STAYS)
            return
    for promise in others:
        yield Finding(subject.tier, promise.name, Outcome.UNKNOWN, seen=_NOT_ASKED, loses=promise.loses)


def _finding(subject: Promises[Any], promise: Promise[Any], room: Any, effort: TimeBudget) -> Finding:
    measured, verdict, seen = Measured(""), Outcome.KEPT, ""
    try:
        measured = promise.ask(room, effort)
    except Unknown as unknown:
        measured, verdict, seen = unknown.measured, Outcome.UNKNOWN, str(unknown)
    except Broken as broken:
        verdict, seen = Outcome.BROKEN, str(broken)
    except subject.faults as error:
        verdict, seen = Outcome.BROKEN, describe(error)
    return Finding(subject.tier, promise.name, verdict, measured.figure, measured.figures, seen, promise.loses)
