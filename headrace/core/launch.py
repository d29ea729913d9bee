"""Where a training loop function runs: here, or on a cluster (`ray_train.RayTrain`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

R = TypeVar("R")
Report = Callable[[int, int, float], None]


class Launch(Protocol):
    """How a loop function is run."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """Run `loop(*arguments, report)`. Handles among the arguments count into the caller's ledger, wherever it runs."""
        ...


class LocalLauncher:
    """In this process."""

    def run(self, loop: Callable[..., R], *arguments: Any, report: Report) -> R:
        """See `Launch.run`."""
        return loop(*arguments, report)
