"""Table tier: rows in named columns, read at a snapshot, appended by compare-and-swap.

A commit can carry *properties*: small JSON values stored in the snapshot, hence atomic with its rows (e.g. landed offsets). The
newest snapshot always has all of them.

The storage itself is a table format: Iceberg (`iceberg/table.py`) or VAST DB (`vast/table.py`).
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
from headrace.storage.tables.maintenance import MaintenanceReport, Purged, RetainedSnapshots
from headrace.storage.tables.predicate import parsed

_EVERYTHING: BooleanExpression = AlwaysTrue()


class Append(Protocol):
    """An append in progress: rows are invisible before `commit`, and none are left behind if that fails."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows of the store's schema."""

    def commit(self, properties: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
        """Commit the rows and properties in one snapshot and return its id; see `TableWriter.append`. Ends the append."""

    def discard(self) -> None:
        """Discard the rows."""


class FormatState(Protocol):
    """See `TableState`; the rows are in the backend's own types."""

    @property
    def snapshot(self) -> int | None: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def properties(self) -> Mapping[str, Any]: ...

    def scan(self, columns: tuple[str, ...], where: BooleanExpression, since: str | None) -> Iterator[pa.RecordBatch]: ...


class TableFormat(Protocol):
    """A table backend for one store; the handles below add schema and defaults."""

    def state(self) -> FormatState: ...

    def scan(self, columns: tuple[str, ...], where: BooleanExpression, snapshot: int) -> Iterator[pa.RecordBatch]: ...

    def count(self) -> int: ...

    def properties_before(self, time: datetime) -> dict[str, Any]: ...

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


def _iceberg(store: Store, endpoints: Endpoints, meter: Meter) -> TableFormat:
    # Not before a table is opened: its import takes longer than drawing a diagram.
    from headrace.storage.tables.iceberg.table import IcebergTable

    return IcebergTable(store, endpoints, meter)


def _vast(store: Store, endpoints: Endpoints, meter: Meter) -> TableFormat:
    from headrace.storage.tables.vast.table import VastTable

    return VastTable(store, endpoints, meter)


FORMATS: dict[str, Callable[[Store, Endpoints, Meter], TableFormat]] = {"iceberg": _iceberg, "vast": _vast}
"""Table backends by `Endpoints.table_format`."""


class TableState:
    """A table at one moment, empty if it did not exist. What it returns agrees; only `scan` and `read` take further requests.

    `snapshot` is the id of its newest snapshot, `None` if there was none. `properties` are all properties of that.

    `revision` is the state of its rows, `IDENTITY/NUMBER`, to pass as `since` later; `None` if there were none. The number grows
    with each commit. The identity is another one for a table that was made anew, or from which rows were removed.
    """

    def __init__(self, store: Store, state: FormatState) -> None:
        self._store, self._state = store, state
        self.snapshot, self.revision, self.properties = state.snapshot, state.revision, state.properties

    def scan(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        since: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """As `TableReader.scan`."""
        yield from _in_types(self._state.scan(columns, parsed(where), since), _schema(self._store, columns))

    def read(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        since: str | None = None,
    ) -> pa.Table:
        """The rows of `scan` as an in-memory table."""
        return pa.Table.from_batches(list(self.scan(columns, where, since=since)), _schema(self._store, columns))


class TableReader:
    """Reads one store of the table tier."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._endpoints, self._meter = endpoints, meter
        self.format = FORMATS[endpoints.table_format](store, endpoints, meter)

    def __reduce__(self) -> tuple[Any, ...]:
        """A handle reconnects when it is unpickled."""
        return type(self), (self.store, self._endpoints, self._meter)

    def with_meter(self, meter: Meter) -> Self:
        """The same handle with another meter, and with its own connections, because they do the counting."""
        return type(self)(self.store, self._endpoints, meter)

    def state(self) -> TableState:
        """The table as it is now: one request."""
        return TableState(self.store, self.format.state())

    def scan(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        snapshot: int | None = None,
        since: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows as record batches in the store's schema; none if the table does not exist yet.

        `snapshot` reads the whole table as of that snapshot. With `since`, a `revision` of the past, these are the rows committed
        after it, at the cost of those; rows committed before it are among them where maintenance has moved them since, and all
        rows are where some were removed. Memory use is a few batches.
        """
        if snapshot is None:
            yield from self.state().scan(columns, where, since=since)
        else:
            yield from _in_types(self.format.scan(columns, parsed(where), snapshot), _schema(self.store, columns))

    def read(
        self,
        columns: tuple[str, ...] = ("*",),
        where: str | BooleanExpression = _EVERYTHING,
        *,
        snapshot: int | None = None,
        since: str | None = None,
    ) -> pa.Table:
        """The rows of `scan` as an in-memory table."""
        batches = list(self.scan(columns, where, snapshot=snapshot, since=since))
        return pa.Table.from_batches(batches, _schema(self.store, columns))

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` if there is none."""
        return self.state().snapshot

    def revision(self) -> str | None:
        """See `TableState`."""
        return self.state().revision

    def count(self) -> int:
        """Number of rows, from metadata alone."""
        return self.format.count()

    def snapshot_property(self, name: str) -> Any:
        """A property of the newest snapshot, or `None`."""
        return self.state().properties.get(name)

    def snapshot_properties(self, before: datetime | None = None) -> Mapping[str, Any]:
        """All properties of the newest snapshot, or of the newest retained one committed before then."""
        return self.state().properties if before is None else self.format.properties_before(before)


class TableWriter(TableReader):
    """Appends to and reads one store of the table tier."""

    def append(
        self,
        rows: pa.Table | pa.RecordBatch,
        *,
        properties: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> int:
        """Commit rows and properties in one snapshot and return its id.

        `expected` names properties and the values they must still have; if another writer changed one, nothing is committed
        and `LostRace` is raised. A commit whose answer was lost is recognised and not repeated. Columns added to the catalog
        since the table was created are added to it, and are null in older rows.
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
        """Begin an append of more rows than should be in memory, in batches of the store's schema."""
        return self.format.begin()

    def due(self, rules: Maintenance) -> bool:
        """Whether enough commits were made since the last maintenance; takes one request and reads no file."""
        return self.format.due(rules)

    def maintain(self, rules: Maintenance, retained: RetainedSnapshots = frozenset) -> MaintenanceReport | None:
        """Maintain the table: few files, few snapshots, no orphans; `None` if it does not exist yet.

        Rows and properties do not change. Snapshots that `retained` returns are never expired.
        """
        return self.format.maintain(rules, retained)

    def rewrite(
        self,
        columns: Sequence[str],
        hit: Callable[[pa.RecordBatch], pa.BooleanArray],
        change: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
    ) -> int:
        """Delete the rows that `hit` selects, given these columns, and return their number.

        With `change`, each is replaced by the row that `change` returns for it, given whole rows; `hit` must not select that
        one again. Repeats until no row is hit, including those added meanwhile; properties stay. Older snapshots hold the old
        rows until `purge`.
        """
        wanted, whole = _schema(self.store, tuple(columns)), self.store.columns
        return self.format.rewrite(
            columns,
            lambda rows: hit(_as(rows, wanted)),
            None if change is None else lambda rows: change(_as(rows, whole)),
        )

    def purge(self) -> Purged:
        """Remove all snapshots but the newest, including those that rounds name, and all objects only they need.

        A concurrent reader of an older snapshot fails and has to start again.
        """
        return self.format.purge()


def quoted(text: str) -> str:
    """A string as an SQL literal for `where`."""
    return "'" + text.replace("'", "''") + "'"


def _schema(store: Store, columns: tuple[str, ...]) -> pa.Schema:
    """The schema of some columns of a store, `("*",)` for all."""
    return store.columns if columns == ("*",) else pa.schema([store.columns.field(name) for name in columns])


def _in_types(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Those batches that have rows, in the store's types."""
    return (_as(batch, schema) for batch in batches if batch.num_rows)


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the store's own types: Iceberg returns large strings and loses nullability."""
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(batch.num_rows, field.type) if index < 0 else batch.column(index).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
