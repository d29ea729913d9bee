"""The table tier: Iceberg tables, every byte of their files metered, every commit compare-and-swap.

A commit can carry *marks*: small JSON values kept in the snapshot itself, hence atomic with its rows (the offsets landed so
far, for one). Every commit repeats the marks of the snapshot it builds on, so the newest snapshot always has them all.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
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
from pyiceberg.io import FileIO, InputStream, OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.table import Table
from requests.exceptions import RequestException

from headrace.catalog import Store
from headrace.errors import LostRace, StorageFull, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Direction
from headrace.storage.meter import Meter
from headrace.storage.reason import reason

NAMESPACE = "headrace"
_MARK = "headrace.mark."
_COMMIT = "headrace.commit"
_TRIES = 12
_EVERYTHING: BooleanExpression = AlwaysTrue()


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

    def new_input(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_input(location), self._store, self._meter)

    def new_output(self, location: str) -> PyArrowFile:
        return _MeteredFile(super().new_output(location), self._store, self._meter)


class _MeteredCatalog(RestCatalog):
    """A REST catalog whose tables read and write through one store's meter."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self._metered = (store, meter)
        super().__init__(
            "headrace",
            uri=endpoints.catalog_uri,
            warehouse=endpoints.warehouse,
            **endpoints.catalog_properties,
        )

    def _load_file_io(self, properties: Mapping[str, Any] | None = None, location: str | None = None) -> FileIO:
        # What is in self.properties are the user's own endpoint and keys; they win over what the server suggests.
        return _MeteredFileIO({**(properties or {}), **self.properties}, *self._metered)


class TableReader:
    """Reads one store of the table tier."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._endpoints = endpoints
        self._meter = meter
        self._catalog: _MeteredCatalog | None = None
        self._table: Table | None = None

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
        table = self._load()
        if table is None:
            return
        with self._faults():
            reader = table.scan(row_filter=where, selected_fields=columns, snapshot_id=snapshot).to_arrow_batch_reader()
            wanted = self.store.columns if columns == ("*",) else pa.schema([self.store.columns.field(c) for c in columns])
            for batch in reader:
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
        wanted = self.store.columns if columns == ("*",) else pa.schema([self.store.columns.field(c) for c in columns])
        return pa.Table.from_batches(list(self.scan(columns, where, snapshot=snapshot)), wanted)

    def snapshot(self) -> int | None:
        """Id of the newest snapshot, or `None` while there is none."""
        table = self._load()
        current = table.current_snapshot() if table else None
        return current.snapshot_id if current else None

    def count(self) -> int:
        """Number of rows, from metadata alone."""
        table = self._load()
        if table is None:
            return 0
        with self._faults():
            return int(table.scan().count())

    def mark(self, name: str) -> Any:
        """The mark the newest snapshot carries under this name, or `None`."""
        table = self._load()
        return _marks(table).get(name) if table else None

    def _load(self) -> Table | None:
        with self._faults():
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
        return self._catalog

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
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


class TableWriter(TableReader):
    """Appends to one store of the table tier; it may read it too."""

    def append(
        self,
        rows: pa.Table | pa.RecordBatch,
        *,
        marks: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any] | None = None,
    ) -> int:
        """Commit rows and marks in one snapshot and return its id.

        `expected` names marks and the values they must still have; if somebody moved one meanwhile, nothing is written and
        `LostRace` is raised. A commit whose answer was lost is recognised and not made twice.
        """
        table = self._table_or_new()
        data = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        data = data.cast(self.store.columns)
        commit = uuid.uuid4().hex
        for attempt in range(_TRIES):
            standing = _marks(table)
            for name, value in (expected or {}).items():
                if standing.get(name) != value:
                    raise LostRace(
                        f"Somebody else moved {self.store.table}'s mark {name!r} from {value!r} to {standing.get(name)!r}.",
                        hint="Run the command again; it goes on from there.",
                    )
            merged = {**standing, **(marks or {})}
            properties = {_MARK + name: json.dumps(value, sort_keys=True) for name, value in merged.items()}
            try:
                with self._faults_of_commit():
                    table.append(data, snapshot_properties={**properties, _COMMIT: commit})
            except _Uncertain as uncertain:
                table = self._reload()
                if (landed := _committed(table, commit)) is not None:
                    return landed
                if uncertain.cause is not None and attempt == _TRIES - 1:
                    raise Unavailable(
                        f"A commit to {self.store.table} was not taken: {reason(uncertain.cause)}.",
                        hint="Check the catalog and run the command again; nothing was half-written.",
                    ) from uncertain.cause
                time.sleep(min(2.0, 0.05 * 2**attempt) * (0.5 + random.random()))
                continue
            landed = _committed(table, commit)
            if landed is None:
                table = self._reload()
                landed = _committed(table, commit)
            if landed is not None:
                return landed
        raise LostRace(
            f"{_TRIES} tries to commit to {self.store.table} were overtaken by other writers.",
            hint="Run the command again when fewer writers run.",
        )

    def _reload(self) -> Table:
        with self._faults():
            self._table = self._connect().load_table((NAMESPACE, self.store.table))
        return self._table

    def _table_or_new(self) -> Table:
        table = self._load()
        if table is not None:
            return table
        with self._faults():
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
                    },
                )
            self._table = catalog.load_table((NAMESPACE, self.store.table))
        return self._table

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


def quoted(text: str) -> str:
    """A string as an SQL literal for `where`."""
    return "'" + text.replace("'", "''") + "'"


class _Uncertain(Exception):
    """A commit that was refused, or whose answer was lost: only the table can tell."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__()
        self.cause = cause


def _marks(table: Table) -> dict[str, Any]:
    snapshot = table.current_snapshot()
    if snapshot is None or snapshot.summary is None:
        return {}
    properties = snapshot.summary.additional_properties
    return {name[len(_MARK) :]: json.loads(value) for name, value in properties.items() if name.startswith(_MARK)}


def _committed(table: Table, commit: str) -> int | None:
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot.summary is not None and snapshot.summary.additional_properties.get(_COMMIT) == commit:
            return snapshot.snapshot_id
    return None


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the store's own types: Iceberg hands out large strings and forgets what is required."""
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(batch.num_rows, field.type) if index < 0 else batch.column(index).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
