"""Stages: plain functions whose first parameters name the stores they may use; `runner.py` gives them exactly those."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from headrace.catalog import Store
from headrace.core.launch import Batches
from headrace.core.progress import ProgressBars
from headrace.storage.files import FileReader, FileWriter
from headrace.storage.ledger import Direction
from headrace.storage.metadata import Metadata
from headrace.storage.meter import ReportedReader, ReportedWriter
from headrace.storage.objects import ObjectReader, ObjectWriter
from headrace.storage.stream.reader import TopicReader
from headrace.storage.stream.writer import TopicWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.storage.vectors.handles import VectorReader, VectorWriter

P = ParamSpec("P")
R = TypeVar("R")

Handle = FileReader | ObjectReader | ReportedReader | TableReader | TopicReader | TopicWriter | VectorReader
_READERS = (FileReader, ObjectReader, ReportedReader, TableReader, TopicReader, VectorReader)
_WRITERS = (FileWriter, ObjectWriter, ReportedWriter, TableWriter, TopicWriter, VectorWriter)


@dataclass(frozen=True)
class Each:
    """Stores for one parameter of a stage, which gets a mapping from store to handle, in this order."""

    stores: tuple[Store, ...]


def each(stores: Iterable[Store]) -> Each:
    """For annotations: `Annotated[Mapping[Store, TableReader], each(STORES)]`."""
    return Each(tuple(stores))


@dataclass(frozen=True)
class Port:
    """A store that a stage may use: the parameter, and the handle's type for reading or writing.

    `many`: the parameter is a mapping over several stores.
    """

    parameter: str
    store: Store
    handle: type[Handle]
    many: bool = False

    @property
    def direction(self) -> Direction:
        """The declared direction. A writer may also read its store; the ledger shows what it did."""
        return Direction.WRITE if issubclass(self.handle, _WRITERS) else Direction.READ


@dataclass(frozen=True)
class Stage(Generic[P, R]):
    """A step of a pipeline: name, description, ports and function.

    `P` are the function's parameters without those from the runner: the arguments of `Runner.run`, type-checked at every call.
    """

    name: str
    sentence: str
    ports: tuple[Port, ...]
    function: Callable[..., R]
    inputs: tuple[str, ...]
    phase: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the function with the caller's own handles, e.g. those of a calling stage or a test."""
        return self.function(*args, **kwargs)

    def over(self, **stores: Iterable[Store]) -> Self:
        """The same stage over other stores, for parameters that take many: `land.over(topics=[…], tables=[…])`."""
        kinds = {port.parameter: port.handle for port in self.ports if port.many}
        kept = [port for port in self.ports if port.parameter not in stores]
        ports = [Port(name, store, kinds[name], many=True) for name, own in stores.items() for store in own]
        return replace(self, ports=(*ports, *kept))


# Types of parameters that the runner supplies; they come first in a stage's signature.
_Given = Handle | Mapping[Store, Any] | Batches | ProgressBars | Metadata
A = TypeVar("A", bound=_Given)
B = TypeVar("B", bound=_Given)
C = TypeVar("C", bound=_Given)
D = TypeVar("D", bound=_Given)
E = TypeVar("E", bound=_Given)
F = TypeVar("F", bound=_Given)
G = TypeVar("G", bound=_Given)
I = TypeVar("I", bound=_Given)  # noqa: E741
J = TypeVar("J", bound=_Given)


class _Declare:
    """Makes a stage from a function. One overload per number of runner-supplied parameters; the longest match applies."""

    def __init__(self, sentence: str, phase: str, counted_as: str) -> None:
        self._sentence = sentence
        self._phase = phase
        self._counted_as = counted_as

    # fmt: off
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, E, F, G, I, J, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, E, F, G, I, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, E, F, G, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, E, F, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, E, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, D, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, C, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, B, P], R]) -> Stage[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, P], R]) -> Stage[P, R]: ...
    # fmt: on
    def __call__(self, function: Callable[..., R]) -> Stage[..., R]:
        hints = get_type_hints(function, include_extras=True)
        ports: list[Port] = []
        inputs: list[str] = []
        for name in inspect.signature(function).parameters:
            kind, note = _annotated(hints[name])
            handle = get_args(kind)[1] if isinstance(note, Each) else kind
            if not (isinstance(handle, type) and issubclass(handle, (*_READERS, *_WRITERS))):
                inputs.append(name)
            elif note is None:
                raise TypeError(f"{function.__name__}({name}) is a handle but names no store of the catalog")
            elif inputs:
                raise TypeError(f"{function.__name__}({name}) is a handle and must come before {inputs[0]!r}")
            elif isinstance(note, Each):
                ports += [Port(name, store, handle, many=True) for store in note.stores]
            else:
                ports.append(Port(name, note, handle))
        return Stage(self._counted_as or function.__name__, self._sentence, tuple(ports), function, tuple(inputs), self._phase)


def stage(sentence: str, *, phase: str = "", counted_as: str = "") -> _Declare:
    """Declare a stage from a function's signature: first its handles with their stores, and what the runner has; then its inputs.

    The runner has `batches`, `bars` and `metadata`, the metadata store, which is in no tier and not metered.

    A stage has its function's name. One that takes the same step of a pipeline in another way is `counted_as` the other: the
    ledger and the diagrams show both under one name.

    A handle parameter that names no store raises `TypeError` at import.
    """
    return _Declare(sentence, phase, counted_as)


def _annotated(hint: Any) -> tuple[Any, Store | Each | None]:
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, Store | Each)), None)


@dataclass(frozen=True)
class Trigger:
    """What starts a stage besides the previous one: a changed store, and in words when."""

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
