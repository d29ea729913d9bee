"""Promises that Headrace relies on, their tests and findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from confluent_kafka import KafkaError, KafkaException

from headrace.catalog import Tier
from headrace.core.statistics import percentile
from headrace.errors import HeadraceError
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints
from headrace.storage.reason import reason

Sandbox = TypeVar("Sandbox")


class Outcome(StrEnum):
    """The outcome of testing a promise.

    `NOT_NEEDED`: tested and not kept, but Headrace works without it. `NOT_TESTED`: it could not be tested, or there was no sense
    in it. `seen` says what and why.
    """

    KEPT = "kept"
    BROKEN = "broken"
    NOT_NEEDED = "not_needed"
    NOT_TESTED = "not_tested"


@dataclass(frozen=True)
class Finding:
    """The result of testing one promise.

    `figure` is the measurement in words, `figures` the same as numbers, with names that end in the unit. `seen` says what
    happened if the promise is not kept, `loses` what Headrace loses if it is broken.
    """

    tier: Tier
    promise: str
    outcome: Outcome
    figure: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seen: str = ""
    loses: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding, JSON-ready."""
        return {
            "tier": str(self.tier),
            "promise": self.promise,
            "outcome": str(self.outcome),
            "figure": self.figure,
            "figures": self.figures,
            "seen": self.seen,
            "loses": self.loses,
        }


class Measured:
    """The measurement of a kept promise, in words and as numbers, e.g. `Measured("3 ms", p50_ms=3.1)`."""

    def __init__(self, figure: str, **figures: float) -> None:
        self.figure = figure
        self.figures = {name: round(float(value), 3) for name, value in figures.items()}


class Broken(Exception):
    """The promise is broken; the message is a clause that says what happened."""


class NotNeeded(Exception):
    """The promise was tested and is not kept, but Headrace works without it; the message says how."""

    def __init__(self, seen: str, measured: Measured | None = None) -> None:
        super().__init__(seen)
        self.measured = measured or Measured("")


class NotTested(Exception):
    """The promise could not be tested; the message says why."""


AMPLE_S = 0.5
"""Seconds for one promise from which on it is tested with what it needs at full size."""


class TimeBudget:
    """Time for testing one promise. Loops run at least their minimum number of rounds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def rounds(self, least: int, most: int) -> Iterator[int]:
        """Count from 0 until the time is up, with at least `least` and at most `most` rounds."""
        end = time.monotonic() + self.seconds
        for number in range(most):
            if number >= least and time.monotonic() >= end:
                return
            yield number


@dataclass(frozen=True)
class Promise(Generic[Sandbox]):
    """One promise: its name, what Headrace loses if it is broken, and the test, which runs in a sandbox.

    `ask` returns a measurement, or raises `Broken`, `NotNeeded` or `NotTested`.
    """

    name: str
    loses: str
    ask: Callable[[Sandbox, TimeBudget], Measured]


def promise(name: str, *, loses: str) -> Callable[[Callable[[Sandbox, TimeBudget], Measured]], Promise[Sandbox]]:
    """Declare a function as the test of a promise."""

    def declared(ask: Callable[[Sandbox, TimeBudget], Measured]) -> Promise[Sandbox]:
        return Promise(name, loses, ask)

    return declared


@dataclass(frozen=True)
class Promises(Generic[Sandbox]):
    """The promises of one tier. `faults` are the errors of its storage; any other error is a bug.

    `open` creates the sandbox and always removes it again; it raises `NotTested` if there is nothing to test.
    """

    tier: Tier
    promises: Sequence[Promise[Sandbox]]
    faults: tuple[type[Exception], ...]
    open: Callable[[Settings, Endpoints], AbstractContextManager[Sandbox]]


def latency(what: str, seconds: Sequence[float]) -> tuple[str, dict[str, float]]:
    """p50 and p95 of durations, as text and as `<what>_p50_ms` and `<what>_p95_ms`."""
    p50, p95 = percentile(seconds, 0.50) * 1e3, percentile(seconds, 0.95) * 1e3
    name = what.replace(" ", "_")
    return f"{what} p50 {p50:.1f} ms, p95 {p95:.1f} ms", {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95}


def describe(error: Exception) -> str:
    """The message of an error of ours or of a client library, as a clause without full stop."""
    if isinstance(error, HeadraceError):
        return error.message.rstrip(".")
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error.args[0].str()).rstrip(".")
    return "no answer in time" if isinstance(error, TimeoutError) and not str(error) else reason(error)
