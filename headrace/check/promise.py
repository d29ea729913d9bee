"""A promise that Headrace relies on, how it is asked for, and what was found."""

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
    """What became of a promise.

    `UNKNOWN`: it could not be asked for, or is not kept and Headrace gets by without it; `seen` says which.
    """

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One line of an acceptance test.

    `figure` is what was measured, in words; `figures` the same as numbers, whose names end in their unit. `seen` says what
    happened where the promise is not kept, `loses` what Headrace loses where it is broken.
    """

    tier: Tier
    promise: str
    verdict: Outcome
    figure: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seen: str = ""
    loses: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready keys."""
        return {
            "tier": str(self.tier),
            "promise": self.promise,
            "verdict": str(self.verdict),
            "figure": self.figure,
            "figures": self.figures,
            "seen": self.seen,
            "loses": self.loses,
        }


class Measured:
    """What a kept promise measured: a figure in words and the same as numbers, e.g. `Measured("3 ms", p50_ms=3.1)`."""

    def __init__(self, figure: str, **figures: float) -> None:
        self.figure = figure
        self.figures = {name: round(float(value), 3) for name, value in figures.items()}


class Broken(Exception):
    """The promise is broken; the message is a clause that says what was seen."""


class Unknown(Exception):
    """Whether the promise is kept was not found out, or does not matter; the message says why."""

    def __init__(self, seen: str, measured: Measured | None = None) -> None:
        super().__init__(seen)
        self.measured = measured or Measured("")


class TimeBudget:
    """How long one promise may be asked for. Loops do their least rounds whatever the time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def rounds(self, least: int, most: int) -> Iterator[int]:
        """Count from 0 until the time is up, but at least to `least` and at most to `most`."""
        end = time.monotonic() + self.seconds
        for number in range(most):
            if number >= least and time.monotonic() >= end:
                return
            yield number


@dataclass(frozen=True)
class Promise(Generic[Sandbox]):
    """One promise: its name, what Headrace loses where it is broken, and how it is asked for in a room of the check's own.

    `ask` returns what it measured, or raises `Broken` or `Unknown`.
    """

    name: str
    loses: str
    ask: Callable[[Sandbox, TimeBudget], Measured]


def promise(name: str, *, loses: str) -> Callable[[Callable[[Sandbox, TimeBudget], Measured]], Promise[Sandbox]]:
    """Declare a function as how a promise is asked for."""

    def declared(ask: Callable[[Sandbox, TimeBudget], Measured]) -> Promise[Sandbox]:
        return Promise(name, loses, ask)

    return declared


@dataclass(frozen=True)
class Promises(Generic[Sandbox]):
    """The promises of one tier. `faults` are the errors by which its storage says no; any other is a mistake of ours.

    `open` makes the room that promises are asked in and clears it away again, whatever happened in between; it raises `Unknown`
    where there is nothing to ask.
    """

    tier: Tier
    promises: Sequence[Promise[Sandbox]]
    faults: tuple[type[Exception], ...]
    open: Callable[[Settings, Endpoints], AbstractContextManager[Sandbox]]


def latency(what: str, seconds: Sequence[float]) -> tuple[str, dict[str, float]]:
    """p50 and p95 of durations, in words and as `<what>_p50_ms` and `<what>_p95_ms`."""
    p50, p95 = percentile(seconds, 0.50) * 1e3, percentile(seconds, 0.95) * 1e3
    name = what.replace(" ", "_")
    return f"{what} p50 {p50:.1f} ms, p95 {p95:.1f} ms", {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95}


def describe(error: Exception) -> str:
    """What an error of ours or of a client library says, as a clause without its full stop."""
    if isinstance(error, HeadraceError):
        return error.message.rstrip(".")
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return str(error.args[0].str()).rstrip(".")
    return "no answer in time" if isinstance(error, TimeoutError) and not str(error) else reason(error)
