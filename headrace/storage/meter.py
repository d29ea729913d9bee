"""Meter: one stage's view of the ledger, with which a handle counts its operations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction, Ledger


@dataclass
class Operation:
    """An operation in progress; the code inside sets how many bytes it moved."""

    bytes: int = 0
    ops: int = 1


@dataclass(frozen=True)
class Meter:
    """Counts into `ledger` under one stage and tenant."""

    ledger: Ledger
    stage: str
    tenant: str = ""

    @contextmanager
    def operation(self, store: Store, direction: Direction, *, estimated: bool = False) -> Iterator[Operation]:
        """Time the block and count it, even if it raises, because the storage did the work."""
        operation = Operation()
        started = time.perf_counter()
        try:
            yield operation
        finally:
            self.count(
                store,
                direction,
                bytes=operation.bytes,
                seconds=time.perf_counter() - started,
                ops=operation.ops,
                estimated=estimated,
            )

    def count(
        self,
        store: Store,
        direction: Direction,
        *,
        bytes: int,
        seconds: float,
        ops: int = 1,
        estimated: bool = False,
    ) -> None:
        """Count operations that were timed elsewhere."""
        self.ledger.count(
            self.stage,
            store,
            direction,
            bytes=bytes,
            seconds=seconds,
            ops=ops,
            tenant=self.tenant,
            estimated=estimated,
        )


class Metered:
    """A handle on one store, whose operations a meter counts."""

    meter: Meter

    def with_meter(self, meter: Meter) -> Self:
        """The same handle with another meter. Connections and caches are shared, so a handle per tenant is cheap.

        A handle that opens something lazily must keep it in an object that its copies share.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, meter=meter)
        return view


class ReportedReader(Metered):
    """A store that the model server reads for this stage, e.g. the champion's weights."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.meter = meter

    def take(self, entries: Iterable[dict[str, Any]]) -> None:
        """Fold the entries of `Ledger.export` that concern this store into the stage's ledger."""
        mine = [e for e in entries if (e["store"], e["tier"]) == (self.store.name, str(self.store.tier))]
        self.meter.ledger.fold(mine, stage=self.meter.stage, tenant=self.meter.tenant)


class ReportedWriter(ReportedReader):
    """A store that the model server reads and writes for this stage, e.g. the KV cache."""
