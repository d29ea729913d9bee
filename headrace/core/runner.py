"""The runner: gives each stage exactly the handles in its signature, metered under the stage's name."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Generator, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from headrace.catalog import Store
from headrace.core.launch import Batches, Threads
from headrace.core.progress import ProgressBars
from headrace.core.run import Counted, Run
from headrace.storage.endpoints import Endpoints
from headrace.storage.metadata import Metadata
from headrace.storage.meter import Meter
from headrace.storage.timeline import Timeline

if TYPE_CHECKING:  # a module that declares stages has imported the handles; other commands need not
    from headrace.core.stage import Handle, Stage

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Handle")


class Runner:
    """Runs stages of one run against one set of endpoints.

    Handles are cached by (stage, store, kind, tenant): reopening an index or a catalog for each question would cost more than the
    question. A stage's handles for different tenants share connections. `batches` runs batch work, `bars` shows its progress.
    """

    def __init__(
        self, run: Run, endpoints: Endpoints, *, batches: Batches | None = None, bars: ProgressBars | None = None
    ) -> None:
        self.record = run
        self.endpoints = endpoints
        self.batches: Batches = batches or Threads()
        self.bars = bars or ProgressBars(quiet=True)
        self.metadata = Metadata(endpoints)
        self._handles: dict[tuple[Any, ...], Handle] = {}
        self._first: dict[tuple[Any, ...], Handle] = {}
        self._tenant = ""
        self._making = threading.Lock()

    def run(self, stage: Stage[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one stage with its inputs; the runner adds the handles, and `batches`, `bars` and `metadata` where they are taken.

        Bytes count for its input `tenant` if it has one, else for the runner's (`for_tenant`). A generator is timed from its
        first item to its last, including what the caller does in between.
        """
        inputs: dict[str, Any] = {"batches": self.batches, "bars": self.bars, "metadata": self.metadata}
        inputs = {name: inputs[name] for name in inputs if name in stage.inputs}
        inputs |= dict(zip([name for name in stage.inputs if name not in inputs], args, strict=False)) | kwargs
        tenant = cast("str", inputs.get("tenant", self._tenant))
        if "batches" in inputs:
            inputs["batches"] = self.batches.metered(Meter(self.record.ledger, stage.name, tenant))
        for port in stage.ports:
            handle = self.open(port.handle, port.store, stage=stage.name, tenant=tenant)
            if port.many:
                inputs.setdefault(port.parameter, {})[port.store] = handle
            else:
                inputs[port.parameter] = handle
        timeline = self.record.ledger.timeline
        if inspect.isgeneratorfunction(stage.function):
            return cast("R", _timed(timeline, stage, stage.function(**inputs)))
        with timeline.span(stage.name, stage.phase):
            result = stage.function(**inputs)
        if isinstance(result, Counted):
            self.record.count(**result.counts)
        return result

    def for_tenant(self, tenant: str) -> Self:
        """The same runner, with its stages' bytes counted for this tenant."""
        other = copy.copy(self)
        other._tenant = tenant
        return other

    def open(self, handle: type[H], store: Store, *, stage: str, tenant: str = "") -> H:
        """A cached handle for a component that is not a stage, metered under the name `stage`."""
        of = (stage, store.tier, store.name, handle)  # the same name may exist in several tiers
        with self._making:
            own = self._handles.get((*of, tenant))
            if own is None:
                meter = Meter(self.record.ledger, stage, tenant)
                first = self._first.get(of)
                own = first.with_meter(meter) if first else handle(store, self.endpoints, meter)
                self._first.setdefault(of, own)
                self._handles[*of, tenant] = own
            return cast("H", own)


def _timed(timeline: Timeline, stage: Stage[Any, Any], items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    with timeline.span(stage.name, stage.phase):
        return (yield from items)


class FirstAlone:
    """Serializes the calls of a kind until one has succeeded, so that shared resources are opened only once."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._succeeded: set[Hashable] = set()

    @contextmanager
    def __call__(self, kind: Hashable) -> Iterator[None]:
        with nullcontext() if kind in self._succeeded else self._first:
            yield
        self._succeeded.add(kind)
