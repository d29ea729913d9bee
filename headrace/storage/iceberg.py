"""One Iceberg table behind a REST catalog: every byte of its files metered, every commit compare-and-swap.

Marks are kept in the snapshot's summary. Every commit repeats those of the snapshot it builds on, so the newest snapshot has
them all, whichever older ones upkeep has expired.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyarrow.fs import S3FileSystem
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot
from requests.exceptions import RequestException

from headrace.catalog import Store
from headrace.errors import LostRace, NotFound, StorageFull, Unavailable
from headrace.settings import Upkeep
from headrace.storage.endpoints import Endpoints
from headrace.storage.iceberg_append import IcebergAppend
from headrace.storage.iceberg_reach import Reach
from headrace.storage.iceberg_rewrite import Change, Hit, IcebergRewrite
from headrace.storage.iceberg_scan import RecentFiles
from headrace.storage.iceberg_transaction import QuickTransaction
from headrace.storage.iceberg_upkeep import PROPERTIES, IcebergUpkeep
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.reason import reason
from headrace.storage.upkept import Pinned, Purged, Upkept

Stage = Callable[[Table, Transaction, dict[str, str]], None]
"""Puts a snapshot with these properties into a transaction on a table."""
Marks = Callable[[Table, Mapping[str, Any]], Mapping[str, Any]]
"""The marks to set, given the table and the marks that stand."""

NAMESPACE = "headrace"
_OURS = "headrace."
_MARK = "headrace.mark."
_COMMIT = "headrace.commit"
_TRIES = 12


class _MeteredInput(io.RawIOBase):
    """A pyarrow input file that counts each range it is asked for."""

    def __init__(self, file: Any, store: Store, meter: Meter) -> None:
        self._file, self._store, self._meter = file, store, meter

    def read(self, size: int = -1) -> bytes:
        with self._meter.operation(self._store, Direction.READ) as operation:
            data: bytes = self._file.read(size if size >= 0 else None)
            operation.bytes = len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def size(self) -> int:
        return int(self._file.size())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _MeteredOutput(io.RawIOBase):
    """A pyarrow output stream counted as one operation when it closes: only then is the object there."""

    def __init__(self, stream: Any, store: Store, meter: Meter) -> None:
        self._stream, self._store, self._meter = stream, store, meter
        self._bytes, self._seconds = 0, 0.0

    def write(self, data: Any) -> int:
        started = time.perf_counter()
        self._stream.write(data)
        self._seconds += time.perf_counter() - started
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def close(self) -> None:
        if self.closed:
            return
        started = time.perf_counter()
        try:
            self._stream.close()
        finally:
            super().close()
            seconds = self._seconds + time.perf_counter() - started
            self._meter.count(self._store, Direction.WRITE, bytes=self._bytes, seconds=seconds)


class _MeteredFile(PyArrowFile):
    """An Iceberg file whose streams are metered."""

    def __init__(self, inner: PyArrowFile, store: Store, meter: Meter) -> None:
        super().__init__(inner.location, inner._path, inner._filesystem, inner._buffer_size)
        self._store, self._meter = store, meter

    def open(self, seekable: bool = True) -> InputStream:
        # Seekable always: the wrapper then serves Parquet's range reads and Avro's sequential ones alike.
        return pa.PythonFile(_MeteredInput(super().open(seekable=True), self._store, self._meter), mode="r")  # type: ignore[no-any-return]

    def create(self, overwrite: bool = False) -> OutputStream:
        # Iceberg gives each file a name of its own, so asking the store whether it exists would only cost a request.
        return pa.PythonFile(_MeteredOutput(super().create(overwrite=True), self._store, self._meter), mode="w")  # type: ignore[no-any-return]

    def to_input_file(self) -> PyArrowFile:
        return self


class _MeteredFileIO(PyArrowFileIO):
    """pyiceberg's own file access, metered."""

    def __init__(self, properties: Mapping[str, Any], store: Store, meter: Meter) -> None:
        super().__init__(dict(properties))
        self._store, self._meter = store, meter

    def _initialize_s3_fs(self, netloc: str | None) -> S3FileSystem:
        made = super()._initialize_s3_fs(netloc)
        # A small file is then put by one request instead of three.
        return S3FileSystem(**{**made.__reduce__()[1][0], "allow_delayed_open": True})

    def new_input(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_input(location), self._store, self._meter)

    def new_output(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_output(location), self._store, self._meter)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        # pyiceberg deletes old metadata after a commit, as another writer may just have done: what is gone is deleted.
        with self._meter.operation(self._store, Direction.WRITE), contextlib.suppress(FileNotFoundError):
            super().delete(location)


class _MeteredCatalog(RestCatalog):
    """A REST catalog whose tables read and write through one store's meter."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self._metered = (store, meter)
        self._io: _MeteredFileIO | None = None
        super().__init__(
            "headrace",
            uri=endpoints.catalog_uri,
            warehouse=endpoints.warehouse,
            **endpoints.catalog_properties,
        )

    def _load_file_io(self, properties: Mapping[str, Any] | None = None, location: str | None = None) -> FileIO:
        # What is in self.properties are the user's own endpoint and keys; they win over what the server suggests.
        wanted = {**(properties or {}), **self.properties}
        # A table is loaded anew before each commit; connecting anew to its files each time would take longer than that.
        if self._io is None or self._io.properties != wanted:
            self._io = _MeteredFileIO(wanted, *self._metered)
        return self._io


class IcebergTable:
    """One store of the table tier as an Iceberg table; nothing is sent until it is used."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._endpoints = endpoints
        self._meter = meter
        self._catalog: _MeteredCatalog | None = None
        self._table: Table | None = None
        self._whole = False
        self._reach = Reach(_ours)
        self._recent = RecentFiles()

    def scan(self, columns: tuple[str, ...], where: str | BooleanExpression, snapshot: int | None) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a snapshot (the newest if `None`) in Iceberg's own Arrow types; none if there is no table."""
        table = self.load()
        if table is None:
            return
        with self.faults():
            # A column that the table was made without, and no writer had added by then, is left out.
            if snapshot is not None and table.snapshot_by_id(snapshot) is None:
                raise NotFound(
                    f"Table {self.store.table} has no snapshot {snapshot} any more: upkeep has expired it.",
                    hint="Read the newest, or raise upkeep.keep_s; what a turn names is never expired.",
                )
            held = {field.name for field in table.scan(snapshot_id=snapshot).projection().fields}
            wanted = columns if columns == ("*",) else tuple(name for name in columns if name in held)
            current = table.metadata.current_snapshot_id
            if where == AlwaysTrue() and snapshot in (None, current) and (rows := self._recent.scan(table, wanted)) is not None:
                yield from rows
                return
            yield from table.scan(row_filter=where, selected_fields=wanted, snapshot_id=snapshot).to_arrow_batch_reader()

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` while there is none."""
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

    def marks(self, before: datetime | None = None) -> dict[str, Any]:
        """Every mark of the newest snapshot (committed before a time)."""
        table = self.load()
        return _marks(table, before) if table else {}

    def begin(self) -> IcebergAppend:
        """An append in the making; see `iceberg_append.py`."""
        return IcebergAppend(self, self._meter)

    def commit(self, table: Table, stage: Stage, marks: Marks, expected: Mapping[str, Any], *, tries: int = _TRIES) -> int:
        """Commit a snapshot and return its id: `stage` puts it into a transaction, once per try, on the table as it then stands.

        Every mark of the snapshot it builds on is repeated, and those that `marks` says are new. Raises `LostRace` if it is
        known that nothing was committed, `Unavailable` if it is not.
        """
        commit = uuid.uuid4().hex
        for attempt in range(tries):
            self._require(table, expected)
            standing = _marks(table)
            carried = {**standing, **marks(table, standing)}
            properties = {_MARK + name: json.dumps(value, sort_keys=True) for name, value in carried.items()}
            base = table.last_sequence_number
            try:
                with self._faults_of_commit(), QuickTransaction(table) as transaction:
                    stage(table, transaction, {**properties, _COMMIT: commit})
            except _Uncertain as uncertain:
                table = self.reload()
                if (landed := _committed(table, commit)) is not None:
                    return landed
                held = {snapshot.sequence_number for snapshot in table.metadata.snapshots}
                if not held.issuperset(range(base + 1, table.last_sequence_number + 1)):
                    raise Unavailable(
                        f"A commit to {self.store.table} took so long that the table does not say any more whether it was taken.",
                        hint="Run the command again: it goes on from what the table holds.",
                    ) from None
                self._wait(uncertain, attempt, tries)
                continue
            landed = _committed(table, commit)
            if landed is None:
                table = self.reload()
                landed = _committed(table, commit)
            if landed is not None:
                return landed
        raise LostRace(
            f"{tries} tries to commit to {self.store.table} were overtaken by other writers.",
            hint="Run the command again when fewer writers run.",
        )

    def change(self, stage: Callable[[Table, Transaction], None]) -> Table:
        """Commit what is no snapshot and may be done twice (properties, expired snapshots); return the table after it."""
        for attempt in range(_TRIES):
            table = self.reload()
            try:
                with self._faults_of_commit(), QuickTransaction(table) as transaction:
                    stage(table, transaction)
                return self.reload()
            except _Uncertain as uncertain:
                self._wait(uncertain, attempt, _TRIES)
        raise LostRace(
            f"{_TRIES} tries to change {self.store.table} were overtaken by other writers.",
            hint="Run the command again when fewer writers run.",
        )

    def due(self, rules: Upkeep) -> bool:
        """Whether upkeep is due: one request to the catalog."""
        return IcebergUpkeep(self, self._meter, self._reach).due(rules)

    def upkeep(self, rules: Upkeep, pinned: Pinned) -> Upkept | None:
        """Merge small files, expire snapshots and remove what none names; see `iceberg_upkeep.py`."""
        return IcebergUpkeep(self, self._meter, self._reach).run(rules, pinned)

    def rewrite(self, columns: Sequence[str], hit: Hit, change: Change | None) -> int:
        """Take out the rows that are hit, or put changed ones in their place; see `iceberg_rewrite.py`."""
        return IcebergRewrite(self, self._meter).run(columns, hit, change)

    def purge(self) -> Purged:
        """Remove every snapshot but the newest, and what only they name; see `iceberg_rewrite.py`."""
        return IcebergRewrite(self, self._meter).purge()

    def marks_of(self, table: Table) -> dict[str, Any]:
        """Every mark of the newest snapshot of a table that was loaded."""
        return _marks(table)

    def _wait(self, uncertain: _Uncertain, attempt: int, tries: int) -> None:
        if uncertain.cause is not None and attempt >= _TRIES - 1:
            raise Unavailable(
                f"A commit to {self.store.table} was not taken: {reason(uncertain.cause)}.",
                hint="Check the catalog and run the command again; nothing was half-written.",
            ) from uncertain.cause
        # Whoever has many tries waits for no one: beside a writer that never pauses, each is as good as the next.
        if uncertain.cause is not None or tries == _TRIES:
            time.sleep(min(2.0, 0.05 * 2**attempt) * (0.5 + random.random()))

    def _require(self, table: Table, expected: Mapping[str, Any]) -> None:
        standing = _marks(table)
        for name, value in expected.items():
            if standing.get(name) != value:
                raise LostRace(
                    f"Somebody else moved {self.store.table}'s mark {name!r} from {value!r} to {standing.get(name)!r}.",
                    hint="Run the command again; it goes on from there.",
                )

    def discard(self, table: Table, paths: Iterable[str]) -> None:
        """Delete files that no snapshot names; what cannot be deleted now is left to upkeep."""
        for path in paths:
            with contextlib.suppress(Exception):
                table.io.delete(path)

    def load(self) -> Table | None:
        """The table as it stands now, or `None` where nobody made it yet."""
        with self.faults():
            if self._table is not None:
                self._table.refresh()
                return self._table
            try:
                self._table = self._connect().load_table((NAMESPACE, self.store.table))
            except (NoSuchTableError, NoSuchNamespaceError):
                return None
        return self._table

    def _connect(self) -> _MeteredCatalog:
        if self._catalog is None:
            self._catalog = _MeteredCatalog(self.store, self._endpoints, self._meter)
            # Its session and the session's adapters refer to one another: left alone, its connections would stay open until
            # the collector comes by.
            weakref.finalize(self, self._catalog.close)
        return self._catalog

    def reload(self) -> Table:
        """The table as it stands now, anew; it must exist."""
        with self.faults():
            self._table = self._connect().load_table((NAMESPACE, self.store.table))
        return self._table

    def writable(self) -> Table:
        """The table, made where it is missing and with every column of the catalog, as it was when last looked at."""
        if self._table is None or not self._whole:
            self._table, self._whole = self._table_or_new(), True
        return self._table

    def _table_or_new(self) -> Table:
        table = self.load()
        if table is not None:
            return self._widened(table)
        with self.faults():
            catalog = self._connect()
            with contextlib.suppress(NamespaceAlreadyExistsError):
                catalog.create_namespace(NAMESPACE)
            # Our own loop decides what may be retried: pyiceberg's would append behind a mark that has moved.
            with contextlib.suppress(TableAlreadyExistsError):
                catalog.create_table(
                    (NAMESPACE, self.store.table),
                    schema=self.store.columns,
                    properties={
                        "commit.retry.num-retries": "0",
                        "write.parquet.compression-codec": "zstd",
                        "format-version": "2",
                        **PROPERTIES,
                    },
                )
            self._table = catalog.load_table((NAMESPACE, self.store.table))
        return self._widened(self._table)

    def _widened(self, table: Table) -> Table:
        """The table with every column the catalog has, and null where the catalog allows it; older rows have null there."""
        for _ in range(_TRIES):
            held = set(table.schema().column_names)
            tops = {field.name: field.required for field in table.schema().fields}
            known = all(name in held for field in self.store.columns for name in _names(field))
            if known and not any(field.nullable and tops[field.name] for field in self.store.columns):
                return table
            wanted = pa.schema([field if field.name in tops else field.with_nullable(True) for field in self.store.columns])
            with self.faults(), contextlib.suppress(CommitFailedException), table.update_schema() as update:
                update.union_by_name(wanted)
            table = self.reload()  # somebody else may have added them, or rows, meanwhile
        raise LostRace(f"The new columns of {self.store.table} could not be added.", hint="Run the command again.")

    @contextlib.contextmanager
    def _faults_of_commit(self) -> Iterator[None]:
        try:
            yield
        except (CommitFailedException, CommitStateUnknownException):
            raise _Uncertain(None) from None
        except (RequestException, RESTError, OSError) as error:
            if "no space" in str(error).lower() or "no free volumes" in str(error).lower():
                raise StorageFull(
                    f"No space left for table {self.store.table}.", hint="Free some space and run again."
                ) from error
            raise _Uncertain(error) from error

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """What goes wrong below, in words of ours."""
        try:
            yield
        except (RequestException, RESTError, OSError) as error:
            text = str(error)
            if "no space" in text.lower() or "no free volumes" in text.lower():
                raise StorageFull(
                    f"No space left for table {self.store.table}.", hint="Free some space and run again."
                ) from error
            raise Unavailable(
                f"Table {self.store.table} cannot be reached through {self._endpoints.catalog_uri}: {reason(error)}.",
                hint="Check that the catalog and the object store run and run the command again.",
            ) from error


class _Uncertain(Exception):
    """A commit that was refused, or whose answer was lost: only the table can tell."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__()
        self.cause = cause


def _marks(table: Table, before: datetime | None = None) -> dict[str, Any]:
    """The marks of the newest snapshot that is ours: another tool's (a compaction, say) stands on it and carries none."""
    latest_ms = before.timestamp() * 1000 if before else math.inf
    # Not from parent to parent: upkeep expires most snapshots between those it keeps of the last days.
    for snapshot in sorted(table.metadata.snapshots, key=lambda one: one.sequence_number or 0, reverse=True):
        if snapshot.timestamp_ms <= latest_ms and _ours(snapshot):
            properties = snapshot.summary.additional_properties if snapshot.summary else {}
            return {name[len(_MARK) :]: json.loads(value) for name, value in properties.items() if name.startswith(_MARK)}
    return {}


def _ours(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and any(name.startswith(_OURS) for name in snapshot.summary.additional_properties)


def _names(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """A field and those nested in it, as Iceberg names them."""
    name = f"{prefix}{field.name}"
    yield name
    kind = field.type
    if pa.types.is_list(kind):
        yield from _names(kind.value_field.with_name("element"), f"{name}.")
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _names(kind.field(index), f"{name}.")


def _committed(table: Table, commit: str) -> int | None:
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot.summary is not None and snapshot.summary.additional_properties.get(_COMMIT) == commit:
            return snapshot.snapshot_id
    return None
