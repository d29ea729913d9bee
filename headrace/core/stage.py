"""A stage: a plain function whose parameters name the stores it may touch; and the runner, which gives it those and no others."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from headrace.catalog import Store
from headrace.core.launch import Batches, Threads
from headrace.core.progress import Bars
from headrace.core.run import Run
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileReader, FileWriter
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter, ReportedReader, ReportedWriter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream import TopicReader, TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.handles import VectorReader, VectorWriter

P = ParamSpec("P")
R = TypeVar("R")

Handle = FileReader | ObjectReader | ReportedReader | TableReader | TopicReader | TopicWriter | VectorReader
_READERS = (FileReader, ObjectReader, ReportedReader, TableReader, TopicReader, VectorReader)
_WRITERS = (FileWriter, ObjectWriter, ReportedWriter, TableWriter, TopicWriter, VectorWriter)


@dataclass(frozen=True)
class Port:
    """One parameter of a stage that is a store: which handle it gets, of which store, for reading or for writing."""

    parameter: str
    store: Store
    handle: type[Handle]

    @property
    def direction(self) -> Direction:
        """What the stage declares. A writer may read its store too; the ledger shows what it did."""
        return Direction.WRITE if issubclass(self.handle, _WRITERS) else Direction.READ


@dataclass(frozen=True)
class Stage(Generic[P, R]):
    """A step of a pipeline: its name, its sentence, its ports and the function that does it."""

    name: str
    sentence: str
    ports: tuple[Port, ...]
    function: Callable[P, R]
    inputs: frozenset[str]
    phase: str = ""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)


def stage(sentence: str, *, phase: str = "") -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Declare a stage from a function's signature. A handle parameter that names no store raises `TypeError` at import."""

    def declare(function: Callable[P, R]) -> Stage[P, R]:
        hints = get_type_hints(function, include_extras=True)
        ports, inputs = [], set()
        for name in inspect.signature(function).parameters:
            hint = hints[name]
            kind, store = _annotated(hint)
            if isinstance(kind, type) and issubclass(kind, (*_READERS, *_WRITERS)):
                if store is None:
                    raise TypeError(f"{function.__name__}({name}) is a handle but names no store of the catalog")
                ports.append(Port(name, store, kind))
            else:
                inputs.add(name)
        return Stage(function.__name__, sentence, tuple(ports), function, frozenset(inputs), phase)

    return declare


def _annotated(hint: Any) -> tuple[Any, Store | None]:
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, Store)), None)


@dataclass(frozen=True)
class Trigger:
    """What starts a stage besides the stage before it: a store that changed, and in words when."""

    store: Store
    stage: str
    when: str


@dataclass(frozen=True)
class Pipeline:
    """Stages and the stores between them."""

    name: str
    sentence: str
    stages: tuple[Stage[Any, Any], ...]
    triggers: tuple[Trigger, ...] = ()


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
