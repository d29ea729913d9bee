"""The runner: gives each stage the handles its signature names, metered under its name, and no others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.core.batches import Batches, Threads
from headrace.core.progress import Bars
from headrace.core.run import Run
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter

if TYPE_CHECKING:  # a module that declares stages has imported the handles; a command that runs none does without them
    from headrace.core.stage import Handle, Port, Stage

R = TypeVar("R")


class Runner:
    """Runs stages of one run against one set of endpoints.

    Handles are kept per (stage, parameter, tenant): opening an index or a catalog again for each question would cost more
    than the question. Those of a stage's tenants share what the first of them opened. `batches` says how batch work runs,
    `bars` where its progress shows.
    """

    def __init__(self, run: Run, endpoints: Endpoints, *, batches: Batches | None = None, bars: Bars | None = None) -> None:
        self.record = run
        self.endpoints = endpoints
        self.batches: Batches = batches or Threads()
        self.bars = bars or Bars(quiet=True)
        self._handles: dict[tuple[str, str, str], Handle] = {}
        self._first: dict[tuple[str, str], Handle] = {}
        self._making = threading.Lock()

    def run(self, stage: Stage[..., R], *, tenant: str = "", **inputs: Any) -> R:
        """Run one stage. A stage that asks for `batches`, `bars` or `tenant` gets the runner's; the rest are `inputs`."""
        given: dict[str, Any] = dict(inputs)
        for name, value in (("batches", self.batches), ("bars", self.bars), ("tenant", tenant)):
            if name in stage.inputs:
                given.setdefault(name, value)
        for port in stage.ports:
            given[port.parameter] = self._handle(stage.name, port, tenant)
        return stage.function(**given)

    def _handle(self, stage: str, port: Port, tenant: str) -> Handle:
        with self._making:
            own = self._handles.get((stage, port.parameter, tenant))
            if own is None:
                meter = Meter(self.record.ledger, stage, tenant)
                first = self._first.get((stage, port.parameter))
                own = first.counting(meter) if first else port.handle(port.store, self.endpoints, meter)
                self._first.setdefault((stage, port.parameter), own)
                self._handles[stage, port.parameter, tenant] = own
            return own
