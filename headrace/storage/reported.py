"""Stores that a server touches on a stage's behalf: it reports what it moved and the stage's ledger takes that in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.catalog import Store
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter, Metered


class ReportedReader(Metered):
    """A store that the model server reads for this stage, e.g. the weights of the champion."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self.meter = meter

    def take(self, entries: Iterable[dict[str, Any]]) -> None:
        """Fold the entries of `Ledger.export` that concern this store into the stage's ledger."""
        mine = [e for e in entries if (e["store"], e["tier"]) == (self.store.name, str(self.store.tier))]
        self.meter.ledger.fold(mine, stage=self.meter.stage, tenant=self.meter.tenant)


class ReportedWriter(ReportedReader):
    """A store that the model server reads and writes for this stage, e.g. the KV cache."""
