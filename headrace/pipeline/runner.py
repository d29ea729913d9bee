"""The runner: gives each stage the handles its signature names, metered under its name, and no others."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

from headrace.pipeline.batches import Batches, Threads
from headrace.pipeline.progress import Bars
from headrace.pipeline.run import Run
from headrace.pipeline.stage import Handle, Stage
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter

R = TypeVar("R")


class Runner:
    """Runs stages of one run against one set of endpoints.

    Handles are kept per (stage, parameter, tenant): opening an index or a catalog again for each question would cost more
    than the question. `batches` says how batch work runs, `bars` where its progress shows.
    """

    def __init__(self, run: Run, endpoints: Endpoints, *, batches: Batches | None = None, bars: Bars | None = None) -> None:
        self.record = run
        self.endpoints = endpoints
        self.batches: Batches = batches or Threads()
        self.bars = bars or Bars(quiet=True)
        self._handles: dict[tuple[str, str, str], Handle] = {}
        self._making = threading.Lock()

    def run(self, stage: Stage[..., R], *, tenant: str = "", **inputs: Any) -> R:
        """Run one stage. A stage that asks for `batches`, `bars` or `tenant` gets the runner's; the rest are `inputs`."""
        given: dict[str, Any] = dict(inputs)
        for name, value in (("batches", self.batches), ("bars", self.bars), ("tenant", tenant)):
            if name in stage.inputs:
                given.setdefault(name, value)
        for port in stage.ports:
            key = (stage.name, port.parameter, tenant)
            with self._making:
                if key not in self._handles:
                    meter = Meter(self.record.ledger, stage.name, tenant)
                    self._handles[key] = port.handle(port.store, self.endpoints, meter)
                given[port.parameter] = self._handles[key]
        return stage.function(**given)
