"""The Iceberg table backend: `TableFormat`, with one module per operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.table import Table

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
from headrace.storage.tables.predicate import parsed


class IcebergTable(IcebergCore):
    """One store of the table tier as an Iceberg table; connects on first use."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        super().__init__(store, endpoints, meter)
        self._recent = RecentFiles()

    def scan(
        self, columns: tuple[str, ...], where: str | BooleanExpression, snapshot: int | None, since: str | None
    ) -> Iterator[pa.RecordBatch]:
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
            number = _number(self._revision(table), since) if snapshot is None else 0
            if number and (added := files_since(table, number)) is not None:
                yield from scan_files(table, wanted, parsed(where), added)
                return
            if where == AlwaysTrue() and snapshot in (None, current) and (rows := self._recent.scan(table, wanted)) is not None:
                yield from rows
                return
            yield from table.scan(row_filter=where, selected_fields=wanted, snapshot_id=snapshot).to_arrow_batch_reader()

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` if there is none."""
        table = self.load()
        current = table.current_snapshot() if table else None
        return current.snapshot_id if current else None

    def revision(self) -> str | None:
        """The table's id and number of removals, and the sequence number of its newest snapshot."""
        return self._revision(self.load())

    def _revision(self, table: Table | None) -> str | None:
        snapshot = table.current_snapshot() if table else None
        if table is None or snapshot is None:
            return None
        removals = properties_in(table).get(REMOVALS, 0)
        return f"{table.metadata.table_uuid}.{removals}/{snapshot.sequence_number or 0}"

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


def _number(current: str | None, since: str | None) -> int:
    """The sequence number in a revision; 0 if it is not one of this table's past, so that all rows are newer."""
    if current is None or since is None:
        return 0
    (identity, _, newest), (known, _, number) = current.rpartition("/"), since.rpartition("/")
    return int(number) if identity == known and int(number) <= int(newest) else 0
