"""The table tier: rows in named columns, read at a snapshot, appended by compare-and-swap.

A commit can carry *properties*: small JSON values kept in the snapshot itself, hence atomic with its rows (the offsets landed so
far, for one). The newest snapshot always has them all.

How a table is kept is its format's business: Iceberg (`iceberg/table.py`) or VAST DB (`vast/table.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, Self

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue, BooleanExpression

from headrace.catalog import Store
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.tables.iceberg.table import IcebergTable
from headrace.storage.tables.maintenance import MaintenanceReport, Purged, RetainedSnapshots
from headrace.storage.tables.predicate import parsed
from headrace.storage.tables.vast.table import VastTable

_EVERYTHING: BooleanExpression = AlwaysTrue()


class Append(Protocol):
    """Rows on their way into a table: nobody sees them before `commit`, and none is left over where that is refused."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Take some rows of the store's schema."""

    def commit(self, properties: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
        """Commit them and properties in one snapshot and return its id; see `TableWriter.append`. This ends the append."""

    def discard(self) -> None:
        """Give up what was not committed."""


class TableFormat(Protocol):
    """What a table format does for one store; the handles below add the schema and the defaults."""

    def scan(
        self, columns: tuple[str, ...], where: str | BooleanExpression, snapshot: int | None
    ) -> Iterator[pa.RecordBatch]: ...

    def snapshot(self) -> int | None: ...

    def count(self) -> int: ...

    def snapshot_properties(self, before: datetime | None = None) -> dict[str, Any]: ...

    def begin(self) -> Append: ...

    def due(self, rules: Maintenance) -> bool: ...

    def maintain(self, rules: Maintenance, retained: RetainedSnapshots) -> MaintenanceReport | None: ...

    def rewrite(
        self,
        columns: Sequence[str],
        hit: Callable[[pa.RecordBatch], pa.BooleanArray],
        change: Callable[[pa.RecordBatch], pa.RecordBatch] | None,
    ) -> int: ...

    def purge(self) -> Purged: ...


FORMATS: dict[str, Callable[[Store, Endpoints, Meter], TableFormat]] = {"iceberg": IcebergTable, "vast": VastTable}
"""What keeps the tables, by the name in `Endpoints.table_format`."""


class TableReader:
    """Reads one store of the table tier."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._endpoints = endpoints
        self.format = FORMATS[endpoints.table_format](store, endpoints, meter)

    def with_meter(self, meter: Meter) -> Self:
        """A handle like this one, counted by another meter; its connections are its own, for they count what they carry."""
        return type(self)(self.store, self._endpoints, meter)

    def scan(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        snapshot: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows as record batches in the store's schema; a table nobody wrote yet has none.

        `snapshot` reads the table as it stood then. Memory stays bounded by a few batches.
        """
        wanted = self._schema(columns)
        for batch in self.format.scan(columns, parsed(where), snapshot):
            if batch.num_rows:
                yield _as(batch, wanted)

    def read(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        snapshot: int | None = None,
    ) -> pa.Table:
        """The rows of `scan` as one table in memory."""
        return pa.Table.from_batches(list(self.scan(columns, where, snapshot=snapshot)), self._schema(columns))

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` while there is none."""
        return self.format.snapshot()

    def count(self) -> int:
        """Number of rows, from metadata alone."""
        return self.format.count()

    def snapshot_property(self, name: str) -> Any:
        """The property the newest snapshot carries under this name, or `None`."""
        return self.format.snapshot_properties().get(name)

    def snapshot_properties(self, before: datetime | None = None) -> dict[str, Any]:
        """Every property of the newest snapshot, or of the newest one committed before a time (none where none is kept)."""
        return self.format.snapshot_properties(before)

    def _schema(self, columns: tuple[str, ...]) -> pa.Schema:
        return self.store.columns if columns == ("*",) else pa.schema([self.store.columns.field(c) for c in columns])


class TableWriter(TableReader):
    """Appends to one store of the table tier; it may read it too."""

    def append(
        self,
        rows: pa.Table | pa.RecordBatch,
        *,
        properties: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> int:
        """Commit rows and properties in one snapshot and return its id.

        `expected` names properties and the values they must still have; if somebody moved one meanwhile, nothing is committed and
        `LostRace` is raised. A commit whose answer was lost is recognised and not made twice. Columns that the catalog gained
        since the table was made are added to it, and are null in its older rows.
        """
        append = self.format.begin()
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        try:
            for batch in table.cast(self.store.columns).to_batches():
                append.write(batch)
        except BaseException:
            append.discard()
            raise
        return append.commit(properties or {}, expected or {})

    def begin(self) -> Append:
        """An append whose rows are given bit by bit, each batch in the store's schema: for more than should be in memory."""
        return self.format.begin()

    def due(self, rules: Maintenance) -> bool:
        """Whether so many commits were made since the last maintenance that the next is due: one request, no file is read."""
        return self.format.due(rules)

    def maintain(self, rules: Maintenance, retained: RetainedSnapshots = frozenset) -> MaintenanceReport | None:
        """Keep the table small and quick (few files, few snapshots, nothing left over); `None` if there is none yet.

        Rows and properties stay what they are. Snapshots that `retained` names when asked are never expired.
        """
        return self.format.maintain(rules, retained)

    def rewrite(
        self,
        columns: Sequence[str],
        hit: Callable[[pa.RecordBatch], pa.BooleanArray],
        change: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
    ) -> int:
        """Take out the rows for which `hit` says so, given these columns, and return how many there were.

        With `change` they are not taken out: each becomes the row that `change`, given whole rows, makes of it, which must not
        be hit again. It is done until no row is hit, also of those that others add meanwhile; properties stay. What was there is
        in older snapshots until `purge`.
        """
        wanted, whole = self._schema(tuple(columns)), self.store.columns
        return self.format.rewrite(
            columns,
            lambda rows: hit(_as(rows, wanted)),
            None if change is None else lambda rows: change(_as(rows, whole)),
        )

    def purge(self) -> Purged:
        """Remove every snapshot but the newest, also those that rounds name, and every byte that only they hold; return how many.

        Whoever reads an older snapshot just then fails and has to begin again.
        """
        return self.format.purge()


def quoted(text: str) -> str:
    """A string as an SQL literal for `where`."""
    return "'" + text.replace("'", "''") + "'"


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the store's own types: Iceberg hands out large strings and forgets what is required."""
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(batch.num_rows, field.type) if index < 0 else batch.column(index).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
