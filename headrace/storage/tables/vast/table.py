"""The VAST DB table backend: rows, properties and version in one transaction.

A store has four tables: `interactions` holds the rows, each with the version of its commit; `interactions_pieces` the oversized
cells (`oversized.py`); `interactions_commits` a row per commit with its id, time and properties; `interactions_head` a single
row, the newest commit. A table only grows, so the rows up to a version are the table at that version.

A commit updates the head row first, which locks it: of two transactions that update one row, VAST DB lets one go on and gives the
other a conflict. Its documentation does not say whether it also rejects an update that began before another one was committed, so
a commit, once it holds the lock, checks in a second transaction that the head is unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import operator
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression

from headrace.catalog import Store
from headrace.errors import BadSettings, LostRace
from headrace.retry import backoff
from headrace.settings import Maintenance
from headrace.storage.endpoints import Endpoints, VastEndpoint
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.tables.maintenance import REMOVALS, MaintenanceReport, Purged, RetainedSnapshots
from headrace.storage.tables.predicate import split
from headrace.storage.tables.vast import oversized as wide
from headrace.storage.tables.vast.columns import askable, filtered, naive, requests_of, same, sdk_condition, stored
from headrace.storage.tables.vast.errors import fault, passing, sdk

if TYPE_CHECKING:
    from vastdb.session import Session
    from vastdb.table_metadata import TableMetadata
    from vastdb.transaction import Transaction

_VERSION = "headrace_version"
_HEAD = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("wide", pa.int64()),  # number of oversized cells; if zero, queries can ignore the pieces
        pa.field("properties", pa.string()),
    ]
)
_COMMITS = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("commit", pa.string()),
        pa.field("at", pa.timestamp("us")),  # by the writer's clock, in UTC
        pa.field("properties", pa.string()),
    ]
)
_ROW_ID = "$row_id"
_PIECES = wide.PIECES.append(pa.field(_VERSION, pa.int64()))
_TRIES = 12
_UNSURE = 4
"""Attempts while the server cannot be reached."""
_SPLIT = 4_000_000
"""Rows per split of a query, as in the SDK."""
_NARROW, _WIDE = 64 * 1024, 1024
"""Rows per response, without and with oversized cells."""
_CELLS = 200
"""Oversized cells per request."""
_LOOKED_BACK = 4096
"""Commits searched at first for one before a time; doubled until one is found."""

logging.getLogger("vastdb").addHandler(logging.NullHandler())  # it logs the errors it raises, with tracebacks


@dataclass(frozen=True)
class _Head:
    """The single row of the head table."""

    row: int
    version: int
    rows: int
    wide: int
    properties: dict[str, Any]

    def after(self, rows: int, wide: int, properties: Mapping[str, Any]) -> _Head:
        return _Head(self.row, self.version + 1, self.rows + rows, self.wide + wide, {**self.properties, **properties})

    def as_batch(self) -> pa.RecordBatch:
        values = {"version": self.version, "rows": self.rows, "wide": self.wide, "properties": _json(self.properties)}
        return pa.RecordBatch.from_pylist([values], schema=_HEAD)

    def as_commit(self, commit: str) -> pa.RecordBatch:
        values = {"version": self.version, "commit": commit, "at": naive(datetime.now(UTC)), "properties": _json(self.properties)}
        return pa.RecordBatch.from_pylist([values], schema=_COMMITS)


@dataclass(frozen=True)
class VastState:
    """The version of a table that was the newest; see `FormatState`. `revision` has its name and number of removals too."""

    table: VastTable
    snapshot: int | None
    revision: str | None
    properties: Mapping[str, Any]

    def scan(self, columns: tuple[str, ...], where: BooleanExpression, since: str | None) -> Iterator[pa.RecordBatch]:
        """Stream the rows in their stored types; none if there were none."""
        if self.snapshot is not None:
            yield from self.table.scan(columns, where, self.snapshot, since)


class VastTable:
    """One store of the table tier in VAST DB; connects on first use.

    The SDK does its own HTTP, so the ledger counts the Arrow bytes passed to and from it, as `estimated`.
    """

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        if endpoints.vast is None:
            raise TypeError("these endpoints name no VAST DB")
        self.store = store
        self._endpoint: VastEndpoint = endpoints.vast
        self._meter = meter
        self._session: Session | None = None
        self._metadata: dict[str, TableMetadata] = {}
        self._made = False

    def state(self) -> VastState:
        """The table as it is now."""
        head = self._newest()
        if head is None:
            return VastState(self, None, None, {})
        version = head.version or None
        return VastState(self, version, f"{self._identity(head)}/{version}" if version else None, head.properties)

    def scan(
        self, columns: tuple[str, ...], where: BooleanExpression, snapshot: int, since: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows up to a version in their stored types; none if there is no table."""
        names = tuple(self.store.columns.names) if columns == ("*",) else columns
        with self._faults(), self._transaction() as transaction:
            tables = self._tables(transaction)
            if tables is None:
                return
            head = self._head(tables["head"])
            rows = tables["rows"]
            rows.reload_schema()  # another writer may have added columns
            stored = rows.arrow_schema
            wanted = split(where, self.store.columns, functools.partial(askable, stored=stored, wide=head.wide > 0))
            read = dict.fromkeys(name for name in (*names, *wanted.columns) if name in stored.names)
            conditions = [rows[_VERSION] <= snapshot]
            if since is not None and (number := self._number(head, since)):
                conditions.append(rows[_VERSION] > number)
            for terms in wanted.pushed_down:
                conditions.append(functools.reduce(operator.or_, (sdk_condition(rows, term) for term in terms)))
            query = [*read, *([wide.WIDE] if head.wide else [])] or [_VERSION]
            for batch in self._select(rows, query, functools.reduce(operator.and_, conditions), head):
                if head.wide and read:
                    batch = wide.mend(batch, functools.partial(self._pieces, tables["pieces"]))
                if wanted.rest is not None:
                    batch = filtered(batch, wanted.rest, self.store.columns, wanted.columns)
                yield batch

    def _identity(self, head: _Head) -> str:
        where = self._endpoint
        return f"{where.bucket}/{where.db_schema}/{self.store.table}.{head.properties.get(REMOVALS, 0)}"

    def _number(self, head: _Head, since: str) -> int:
        """The version in a revision; 0 if it is not one of this table's past, so that all rows are newer."""
        identity, _, number = since.rpartition("/")
        return int(number) if identity == self._identity(head) and int(number) <= head.version else 0

    def count(self) -> int:
        """Number of rows, from the head alone."""
        head = self._newest()
        return head.rows if head else 0

    def properties_before(self, at: datetime) -> dict[str, Any]:
        """All properties of the newest version committed before then."""
        with self._faults(), self._transaction() as transaction:
            tables = self._tables(transaction)
            if tables is None:
                return {}
            commits, newest = tables["commits"], self._head(tables["head"]).version
            back = _LOOKED_BACK
            while True:
                within = (commits["version"] > newest - back) & (commits["version"] <= newest)
                older = self._rows(commits, ["version"], within & (commits["at"] <= naive(at)))
                if older:
                    version = max(row["version"] for row in older)
                    (commit,) = self._rows(commits, ["properties"], commits["version"] == version)
                    properties: dict[str, Any] = json.loads(commit["properties"])
                    return properties
                if back >= newest:
                    return {}
                back *= 2

    def begin(self) -> _Append:
        """Begin an append; its rows stay in memory, since an open VAST DB transaction times out."""
        return _Append(self)

    def append(self, data: pa.Table, properties: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
        """Commit rows and properties in one transaction and return its version; see `TableWriter.append`."""
        commit = uuid.uuid4().hex
        schema = pa.schema([stored(field) for field in data.schema])
        rows, pieces = wide.cut(data.cast(schema))
        return self._until_done(
            f"commit to {self.store.table}",
            lambda again: self._commit(rows, pieces, commit, properties, expected, again=again),
        )

    def due(self, rules: Maintenance) -> bool:
        """Never due: VAST DB maintains its own storage."""
        return False

    def maintain(self, rules: Maintenance, retained: RetainedSnapshots) -> MaintenanceReport | None:
        """Does nothing: VAST DB maintains its own storage."""
        return None

    def rewrite(
        self,
        columns: Sequence[str],
        hit: Callable[[pa.RecordBatch], pa.BooleanArray],
        change: Callable[[pa.RecordBatch], pa.RecordBatch] | None,
    ) -> int:
        """Delete or replace the rows that are hit, in one transaction; return how many.

        They disappear from every version. A replaced row keeps its version.
        """

        def attempt(_: bool) -> int:  # if an earlier one succeeded after all, nothing is hit any more
            with self._transaction() as transaction:
                return self._rewrite(transaction, columns, hit, change)

        return self._until_done(f"delete rows from {self.store.table}", attempt)

    def purge(self) -> Purged:
        """Does nothing: there are no older snapshots, and deleted rows are in no version."""
        return Purged()

    def _rewrite(
        self,
        transaction: Transaction,
        columns: Sequence[str],
        hit: Callable[[pa.RecordBatch], pa.BooleanArray],
        change: Callable[[pa.RecordBatch], pa.RecordBatch] | None,
    ) -> int:
        tables = self._tables(transaction)
        if tables is None:
            return 0
        head = self._head(tables["head"])
        rows = tables["rows"]
        rows.reload_schema()
        stored = rows.arrow_schema
        read = [name for name in (self.store.columns.names if change else columns) if name in stored.names]
        meant: list[pa.RecordBatch] = []
        cells: list[str] = []
        for batch in self._select(rows, [*read, wide.WIDE, _VERSION], None, head, row_id=True):
            hidden = batch.column(wide.WIDE).to_pylist()
            whole = wide.mend(batch, functools.partial(self._pieces, tables["pieces"]))
            mask = pc.fill_null(hit(whole.select([name for name in columns if name in stored.names])), False)
            meant.append(whole.filter(mask))
            for text, is_meant in zip(hidden, mask.to_pylist(), strict=True):
                cells += json.loads(text).values() if text and is_meant else ()
        count = int(sum(batch.num_rows for batch in meant))
        if not count:
            return 0
        new, pieces = wide.cut(self._changed(meant, change, stored)) if change else (None, None)
        brought = pc.count_distinct(pieces["cell"]).as_py() if pieces is not None else 0
        removals = {REMOVALS: head.properties.get(REMOVALS, 0) + 1}
        lock = head.after(0 if change else -count, brought - len(cells), removals).as_batch()
        with self._counted(Direction.WRITE, lock.nbytes):
            tables["head"].update(lock.add_column(0, pa.field(_ROW_ID, pa.uint64()), pa.array([head.row], pa.uint64())))
        current = self._committed_head()
        if current is None or current.version != head.version:
            raise _Uncertain(None)
        self._delete(rows, [row for batch in meant for row in batch.column(_ROW_ID).to_pylist()])
        if cells:
            old_pieces = self._rows(tables["pieces"], ["cell"], tables["pieces"]["cell"].isin(cells), row_id=True)
            self._delete(tables["pieces"], [row[_ROW_ID] for row in old_pieces])
        after = {"rows": new, "pieces": pieces and _with_version(pieces, head.version + 1)}
        for role, data in {**after, "commits": _Head.as_commit(head.after(0, 0, removals), uuid.uuid4().hex)}.items():
            for request in requests_of(data) if data is not None else ():
                with self._counted(Direction.WRITE, request.nbytes):
                    tables[role].insert(request)
        return count

    def _changed(
        self, meant: Sequence[pa.RecordBatch], change: Callable[[pa.RecordBatch], pa.RecordBatch], stored: pa.Schema
    ) -> pa.Table:
        """The replacement rows in stored types, each with its original version."""
        done = []
        for rows in meant:
            changed = change(rows)
            columns = {name: changed.column(name) for name in changed.schema.names if name in stored.names}
            columns[_VERSION] = rows.column(_VERSION)
            arrays = [columns[name].cast(stored.field(name).type) for name in stored.names if name in columns]
            done.append(pa.RecordBatch.from_arrays(arrays, names=[name for name in stored.names if name in columns]))
        return pa.Table.from_batches(done)

    def _delete(self, table: Any, rows: list[int]) -> None:
        with self._counted(Direction.WRITE, 8 * len(rows)):
            table.delete(pa.RecordBatch.from_arrays([pa.array(sorted(rows), pa.uint64())], names=[_ROW_ID]))

    def _commit(
        self,
        rows: pa.Table,
        pieces: pa.Table,
        commit: str,
        properties: Mapping[str, Any],
        expected: Mapping[str, Any],
        *,
        again: bool,
    ) -> int:
        if not self._made:
            try:
                with self._transaction() as transaction:
                    self._make(transaction)
            except sdk().errors.BadRequest:
                if self._committed_head() is None:  # otherwise another writer created it at the same time
                    raise
            self._made = True
        with self._transaction() as transaction:
            tables = self._tables(transaction)
            if tables is None:
                self._made = False
                raise _Uncertain(None)
            if again:
                landed = self._rows(tables["commits"], ["version"], tables["commits"]["commit"] == commit)
                if landed:
                    return int(landed[0]["version"])
            head = self._head(tables["head"])
            self._require(head, expected)
            after = head.after(rows.num_rows, pc.count_distinct(pieces["cell"]).as_py(), properties)
            batch = after.as_batch()
            with self._counted(Direction.WRITE, batch.nbytes):
                # First of all: from here on, no other commit can succeed.
                tables["head"].update(batch.add_column(0, pa.field(_ROW_ID, pa.uint64()), pa.array([head.row], pa.uint64())))
            head_rows = self._committed_head()
            if head_rows is None or head_rows.version != head.version:
                raise _Uncertain(None)
            version = functools.partial(_with_version, version=after.version)
            brought = {"rows": version(rows), "pieces": version(pieces), "commits": after.as_commit(commit)}
            for role, data in brought.items():
                for request in requests_of(data):
                    with self._counted(Direction.WRITE, request.nbytes):
                        tables[role].insert(request)
        return after.version

    def _require(self, head: _Head, expected: Mapping[str, Any]) -> None:
        for name, value in expected.items():
            if head.properties.get(name) != value:
                raise LostRace(
                    f"Another writer changed property {name!r} of {self.store.table} from {value!r} to"
                    f" {head.properties.get(name)!r}.",
                    hint="Run the command again; it continues from there.",
                )

    def _newest(self) -> _Head | None:
        with self._faults():
            return self._committed_head()

    def _committed_head(self) -> _Head | None:
        """The committed head, or `None` if the table does not exist yet."""
        with self._transaction() as transaction:
            tables = self._tables(transaction)
            return self._head(tables["head"]) if tables else None

    def _head(self, table: Any) -> _Head:
        rows = self._rows(table, _HEAD.names, None, row_id=True)
        if len(rows) != 1:
            raise BadSettings(
                f"Table {table.name} of VAST DB has {len(rows)} rows instead of one.",
                hint="Another program wrote to it. Name another db_schema under [tables].",
            )
        row = rows[0]
        return _Head(row[_ROW_ID], row["version"], row["rows"], row["wide"], json.loads(row["properties"]))

    def _rows(self, table: Any, columns: list[str], predicate: Any, *, row_id: bool = False) -> list[dict[str, Any]]:
        batches = self._select(table, columns, predicate, None, row_id=row_id)
        return [row for batch in batches for row in batch.to_pylist()]

    def _pieces(self, table: Any, cells: list[str]) -> pa.Table:
        batches: list[pa.RecordBatch] = []
        for start in range(0, len(cells), _CELLS):
            batches += self._select(table, wide.PIECES.names, table["cell"].isin(cells[start : start + _CELLS]), None)
        return pa.Table.from_batches(batches, wide.PIECES)

    def _select(
        self, table: Any, columns: list[str], predicate: Any, head: _Head | None, *, row_id: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Stream one query, counting each batch."""
        vastdb = sdk()
        # A small table needs one split with one part; the head has the number of rows.
        config = vastdb.QueryConfig(
            num_splits=max(1, head.rows // _SPLIT) if head else 1,
            num_sub_splits=4 if head and head.rows > _NARROW else 1,
            limit_rows_per_sub_split=_WIDE if head and head.wide else _NARROW,
            data_endpoints=list(self._endpoint.data_endpoints) or [self._endpoint.endpoint],
        )
        batches = iter(table.select(columns=list(columns), predicate=predicate, config=config, internal_row_id=row_id))
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            size = batch.nbytes if batch is not None else 0
            seconds = time.perf_counter() - started
            self._meter.count(self.store, Direction.READ, bytes=size, seconds=seconds, estimated=True)
            if batch is None:
                return
            yield batch

    def _tables(self, transaction: Transaction) -> dict[str, Any] | None:
        """The tables of this store by role, or `None` if they do not exist yet."""
        if not self._metadata:
            metadata = sdk().table_metadata
            schema = transaction.bucket(self._endpoint.bucket).schema(self._endpoint.db_schema, fail_if_missing=False)
            if schema is None or not set(self._names().values()) <= set(schema.tablenames()):
                return None
            tables = {}
            for role, name in self._names().items():
                ref = metadata.TableRef(self._endpoint.bucket, self._endpoint.db_schema, name)
                tables[role] = metadata.TableMetadata(ref)
                tables[role].load(transaction)
            self._metadata = tables
        return {role: transaction.table_from_metadata(known) for role, known in self._metadata.items()}

    def _names(self) -> dict[str, str]:
        name = self.store.table
        return {"rows": name, "pieces": f"{name}_pieces", "commits": f"{name}_commits", "head": f"{name}_head"}

    def _make(self, transaction: Transaction) -> None:
        """Create missing tables, or add columns that are new in the catalog."""
        wanted = pa.schema([*(stored(field) for field in self.store.columns), (wide.WIDE, pa.string()), (_VERSION, pa.int64())])
        bucket = transaction.bucket(self._endpoint.bucket)
        schema = bucket.create_schema(self._endpoint.db_schema, fail_if_exists=False)
        names = self._names()
        if not set(names.values()) <= set(schema.tablenames()):
            schemas = {"rows": wanted, "pieces": _PIECES, "commits": _COMMITS, "head": _HEAD}
            made = {role: schema.create_table(name, schemas[role]) for role, name in names.items()}
            made["head"].insert(_Head(0, 0, 0, 0, {}).as_batch())
            return
        table = schema.table(names["rows"])
        existing = table.arrow_schema
        for field in wanted:
            if field.name in existing.names and not same(existing.field(field.name).type, field.type):
                raise BadSettings(
                    f"Column {field.name} of {self.store.table} is {existing.field(field.name).type} in VAST DB and"
                    f" {field.type} in this version, and VAST DB cannot change it.",
                    hint="Name another db_schema under [tables].",
                )
        if gained := [field for field in wanted if field.name not in existing.names]:
            table.add_column(pa.schema(gained))

    def _connect(self) -> Session:
        if self._session is None:
            vastdb = sdk()
            self._session = vastdb.connect(
                endpoint=self._endpoint.endpoint,
                access=self._endpoint.access_key,
                secret=self._endpoint.secret_key,
                ssl_verify=self._endpoint.ssl_verify,
                timeout=self._endpoint.timeout_s,
                backoff_config=vastdb.BackoffConfig(max_tries=3, max_time=5.0, max_value=1.0),
            )
        return self._session

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """A transaction, committed unless the block raises. If the answer to the commit is lost, it is rolled back: if the commit
        succeeded, the server rejects the rollback; if not, nobody has to wait for the transaction to time out."""
        session = self._connect()
        committing = False
        transaction = session.transaction()
        try:
            with transaction:
                txid = transaction.txid
                yield transaction
                committing = True
        except Exception as error:
            if committing:
                with contextlib.suppress(Exception):
                    session.api.rollback_transaction(txid)
            if isinstance(error, sdk().errors.NotFound):
                self._metadata = {}  # the tables may have been dropped
            raise

    @contextlib.contextmanager
    def _counted(self, direction: Direction, size: int) -> Iterator[None]:
        with self._meter.operation(self.store, direction, estimated=True) as operation:
            operation.bytes = size
            yield

    def _until_done(self, what: str, attempt: Callable[[bool], int]) -> int:
        """The result of `attempt`, repeated until no other writer interferes. Raises `LostRace`.

        Its argument says whether an earlier attempt may have succeeded although no response came.
        """
        unsure = 0
        for number in range(1, _TRIES + 1):
            try:
                with self._faults_of_commit():
                    return attempt(unsure > 0)
            except _Uncertain as uncertain:
                if uncertain.cause is not None:
                    unsure += 1
                    if unsure == _UNSURE:
                        with self._faults():
                            raise uncertain.cause from None
                time.sleep(backoff(number, first_s=0.05, longest_s=2.0))
        raise LostRace(
            f"All {_TRIES} attempts to {what} lost to other writers, or to the lock of a dead one.",
            hint="Run the command again; VAST DB releases a dead writer's lock when its transaction times out.",
        )

    @contextlib.contextmanager
    def _faults_of_commit(self) -> Iterator[None]:
        """Translate errors that a retry may fix to `_Uncertain`."""
        errors = sdk().errors
        try:
            yield
        except (errors.Conflict, errors.Exists):
            raise _Uncertain(None) from None
        except Exception as error:
            if passing(error):
                raise _Uncertain(error) from None
            with self._faults():
                raise

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Translate errors of the SDK."""
        try:
            yield
        except Exception as error:
            translated = fault(error, self.store.table, self._endpoint)
            if translated is None:
                raise
            raise translated from error


class _Append:
    """Rows gathered for one transaction; see `tables.Append`."""

    def __init__(self, table: VastTable) -> None:
        self._table = table
        self._rows: list[pa.RecordBatch] = []

    def write(self, rows: pa.RecordBatch) -> None:
        self._rows.append(rows)

    def commit(self, properties: Mapping[str, Any], expected: Mapping[str, Any]) -> int:
        rows = pa.Table.from_batches(self._rows, self._table.store.columns)
        return self._table.append(rows, properties, expected)

    def discard(self) -> None:
        self._rows = []


class _Uncertain(Exception):
    """A commit that failed or whose answer was lost: only the head shows which."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__()
        self.cause = cause


def _with_version(data: pa.Table, version: int) -> pa.Table:
    return data.append_column(pa.field(_VERSION, pa.int64()), pa.array([version] * data.num_rows, pa.int64()))


def _json(properties: Mapping[str, Any]) -> str:
    return json.dumps(properties, sort_keys=True)
