"""The Iceberg table backend: `TableFormat`, with one module per operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression

from headrace.catalog import Store
from headrace.errors import NotFound
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.append import IcebergAppend
from headrace.storage.tables.iceberg.core import IcebergCore, properties_in
from headrace.storage.tables.iceberg.maintenance import IcebergMaintenance
from headrace.storage.tables.iceberg.rewrite import Change, Hit, IcebergRewrite
from headrace.storage.tables.iceberg.scan import RecentFiles
from headrace.storage.tables.maintenance import MaintenanceReport, Purged, RetainedSnapshots


class IcebergTable(IcebergCore):
    """One store of the table tier as an Iceberg table; connects on first use."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._recent = RecentFiles()

    def scan(self, columns: tuple[str, ...], where: str | BooleanExpression, snapshot: int | None) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a snapshot (the newest if `None`) in Iceberg's own Arrow types; none if there is no table."""
        table = self.load()
        if table is None:
            return
        with self.faults():
            # A column that the table does not have yet is left out.
            if snapshot is not None and table.snapshot_by_id(snapshot) is None:
                raise NotFound(
                    f"Table {self.store.table} no longer has snapshot {snapshot}: maintenance has expired it.",
                    hint="Read the newest, or raise maintenance.keep_s; snapshots that a round names are never expired.",
                )
            projected = {field.name for field in table.scan(snapshot_id=snapshot).projection().fields}
            wanted = columns if columns == ("*",) else tuple(name for name in columns if name in projected)
            current = table.metadata.current_snapshot_id
            if where == AlwaysTrue() and snapshot in (None, current) and (rows := self._recent.scan(table, wanted)) is not None:
                yield from rows
                return
            yield from table.scan(row_filter=where, selected_fields=wanted, snapshot_id=snapshot).to_arrow_batch_reader()

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` if there is none."""
        table = self.load()
        current = table.current_snapshot() if table else None
        return current.snapshot_id if current else None

    def count(self) -> int:
        """Number of rows, from metadata alone."""
        table = self.load()
        if table is None:
            return 0
        with self.faults():
            return int(table.scan().count())

    def snapshot_properties(self, before: datetime | None = None) -> dict[str, Any]:
        """All properties of the newest snapshot (committed before a time)."""
        table = self.load()
        return properties_in(table, before) if table else {}

    def begin(self) -> IcebergAppend:
        """Begin an append; see `append.py`."""
        return IcebergAppend(self)

    def due(self, rules: Maintenance) -> bool:
        """Whether maintenance is due: one request to the catalog."""
        return IcebergMaintenance(self).due(rules)

    def maintain(self, rules: Maintenance, retained: RetainedSnapshots) -> MaintenanceReport | None:
        """Merge small files, expire snapshots and remove orphans; see `maintenance.py`."""
        return IcebergMaintenance(self).run(rules, retained)

    def rewrite(self, columns: Sequence[str], hit: Hit, change: Change | None) -> int:
        """Delete or replace the rows that are hit; see `rewrite.py`."""
        return IcebergRewrite(self).run(columns, hit, change)

    def purge(self) -> Purged:
        """Remove all snapshots but the newest, and files only they name; see `rewrite.py`."""
        return IcebergRewrite(self).purge()
