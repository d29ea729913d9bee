"""The Iceberg table backend: `TableFormat`, with one module per operation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.table import DataScan, Table

from headrace.catalog import Store
from headrace.errors import NotFound
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.append import IcebergAppend
from headrace.storage.tables.iceberg.core import IcebergCore, properties_in
from headrace.storage.tables.iceberg.maintenance import IcebergMaintenance
from headrace.storage.tables.iceberg.rewrite import Change, Hit, IcebergRewrite
from headrace.storage.tables.iceberg.scan import RecentFiles, files_since, scan_files
from headrace.storage.tables.maintenance import REMOVALS, MaintenanceReport, Purged, RetainedSnapshots


class IcebergTable(IcebergCore):
    """One store of the table tier as an Iceberg table; connects on first use."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._recent = RecentFiles()

    def state(self) -> IcebergState:
        """The table as it is now."""
        table = self.load()
        # A copy, because `load` brings the handle's own up to date.
        return IcebergState(self, copy.copy(table), self._recent)

    def scan(self, columns: tuple[str, ...], where: BooleanExpression, snapshot: int) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a snapshot in Iceberg's own Arrow types. Raises `NotFound` where it is gone."""
        table = self.load()
        if table is None:
            return
        with self.faults():
            if table.snapshot_by_id(snapshot) is None:
                raise NotFound(
                    f"Table {self.store.table} no longer has snapshot {snapshot}: maintenance has expired it.",
                    hint="Read the newest, or raise maintenance.keep_s; snapshots that a round names are never expired.",
                )
            wanted = _existing(table.scan(snapshot_id=snapshot), columns)
            if snapshot == table.metadata.current_snapshot_id and where == AlwaysTrue():
                rows = self._recent.scan(table, wanted)
                if rows is not None:
                    yield from rows
                    return
            yield from table.scan(row_filter=where, selected_fields=wanted, snapshot_id=snapshot).to_arrow_batch_reader()

    def count(self) -> int:
        """Number of rows, from metadata alone."""
        table = self.load()
        if table is None:
            return 0
        with self.faults():
            return int(table.scan().count())

    def properties_before(self, time: datetime) -> dict[str, Any]:
        """All properties of the newest snapshot committed before a time."""
        table = self.load()
        return properties_in(table, time) if table else {}

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


class IcebergState:
    """A loaded table, which does not change; see `FormatState`."""

    def __init__(self, core: IcebergCore, table: Table | None, recent: RecentFiles) -> None:
        self._core, self._table, self._recent = core, table, recent
        current = table.current_snapshot() if table else None
        self.snapshot = current.snapshot_id if current else None
        self.properties = properties_in(table) if table else {}
        self.revision: str | None = None
        """The table's id and number of removals, and the sequence number of its newest snapshot."""
        if table and current:
            removals = self.properties.get(REMOVALS, 0)
            self.revision = f"{table.metadata.table_uuid}.{removals}/{current.sequence_number or 0}"

    def scan(self, columns: tuple[str, ...], where: BooleanExpression, since: str | None) -> Iterator[pa.RecordBatch]:
        """Stream the rows in Iceberg's own Arrow types; none if there is no table."""
        table = self._table
        if table is None:
            return
        with self._core.faults():
            wanted = _existing(table.scan(), columns)
            number = _number(self.revision, since)
            if number and (added := files_since(table, number)) is not None:
                yield from scan_files(table, wanted, where, added)
            elif where == AlwaysTrue() and (rows := self._recent.scan(table, wanted)) is not None:
                yield from rows
            else:
                yield from table.scan(row_filter=where, selected_fields=wanted).to_arrow_batch_reader()


def _existing(scan: DataScan, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns without those that the table does not have yet."""
    known = {field.name for field in scan.projection().fields}
    return columns if columns == ("*",) else tuple(name for name in columns if name in known)


def _number(current: str | None, since: str | None) -> int:
    """The sequence number in a revision; 0 if it is not one of this table's past, so that all rows are newer."""
    if current is None or since is None:
        return 0
    (identity, _, newest), (known, _, number) = current.rpartition("/"), since.rpartition("/")
    return int(number) if identity == known and int(number) <= int(newest) else 0
