"""Loads, creates and commits to one Iceberg table behind a catalog. Every commit is a compare-and-swap.

Properties are stored in the snapshot's summary. Every commit repeats those of its parent, so the newest snapshot has all of them,
whichever older ones maintenance has expired.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
    TableAlreadyExistsError,
)
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AddSnapshotUpdate, AssertTableUUID, TableUpdate, update_table_metadata
from requests.exceptions import RequestException

from headrace.catalog import Store
from headrace.errors import LostRace, StorageFull, Unavailable
from headrace.retry import backoff
from headrace.storage.endpoints import Endpoints
from headrace.storage.meter import Meter
from headrace.storage.reason import is_full, reason
from headrace.storage.tables.iceberg.avro_readers import resolve_once
from headrace.storage.tables.iceberg.catalog import connect, note_metadata
from headrace.storage.tables.iceberg.metered_io import MeteredCatalog
from headrace.storage.tables.iceberg.orphans import ReachableFiles


class QuickTransaction(Transaction):
    """A transaction on a loaded table that computes the staged metadata only once per change."""

    _seen: tuple[tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with the updates staged so far; do not modify."""
        if not self._updates:
            return self._table.metadata
        if self._seen is None or self._seen[0] is not self._updates:
            self._seen = (self._updates, update_table_metadata(self._table.metadata, self._updates))
        return self._seen[1]

    def commit_transaction(self) -> Table:
        """Commit what is staged, if anything. Raises `CommitFailedException` if the catalog rejects it."""
        if self._updates:
            identity = AssertTableUUID(uuid=self._table.metadata.table_uuid)
            try:
                updates = tuple(_no_earlier(update, self._table.metadata) for update in self._updates)
                self._table._do_commit(updates, (*self._requirements, identity))
            except CommitFailedException:
                for producer in self._snapshot_producers:
                    producer._clean_all_uncommitted()  # no snapshot names what it wrote
                raise
            note_metadata(self._table.metadata_location, self._table.metadata)
        self._updates, self._requirements, self._snapshot_producers, self._seen = (), (), [], None
        return self._table


def _no_earlier(update: TableUpdate, metadata: TableMetadata) -> TableUpdate:
    """The update, its snapshot no earlier than the table's last change.

    Catalogs reject any other: once a clock was hours ahead, of this machine or of one writer, nobody could commit for hours.
    """
    if not isinstance(update, AddSnapshotUpdate):
        return update
    at = max(update.snapshot.timestamp_ms, metadata.last_updated_ms)
    return update.model_copy(update={"snapshot": update.snapshot.model_copy(update={"timestamp_ms": at})})


Stage = Callable[[Table, Transaction, dict[str, str]], None]
"""Puts a snapshot with these properties into a transaction on a table."""
NewProperties = Callable[[Table, Mapping[str, Any]], Mapping[str, Any]]
"""The properties to set, given the table and its current properties."""
NAMESPACE = "headrace"
_OURS = "headrace."
_PROPERTY = "headrace.property."
_COMMIT = "headrace.commit"
_TRIES = 12
_JUST_S = 0.25
resolve_once()
PROPERTIES = {
    # The catalog writes a new metadata file at every commit and, with these settings, deletes old ones.
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    # A dictionary of unique ids saves nothing: with a small limit, files are half as large (docs/reference/benchmarks.md).
    "write.parquet.dict-size-bytes": "65536",
}


class IcebergCore:
    """What appends, rewrites and maintenance share; connects on first use."""

    def __init__(self, store: Store, endpoints: Endpoints, meter: Meter) -> None:
        self.store = store
        self._endpoints = endpoints
        self.meter = meter
        self._catalog: MeteredCatalog | None = None
        self._table: Table | None = None
        self._loaded = -math.inf
        self._whole = False
        self.reach = ReachableFiles(_ours)

    def commit(
        self, table: Table, stage: Stage, new_properties: NewProperties, expected: Mapping[str, Any], *, tries: int = _TRIES
    ) -> int:
        """Commit a snapshot and return its id. `stage` puts it into a transaction on the current table, once per attempt.

        All properties of the parent snapshot are repeated, updated by `new_properties`. Raises `LostRace` if certainly nothing
        was committed, `Unavailable` if that is unknown.
        """
        commit = uuid.uuid4().hex
        known = properties_in(table)
        if any(known.get(name) != value for name, value in expected.items()):
            table = self.reload()  # it was loaded a moment ago, and `expected` may be of a later one
        for attempt in range(tries):
            self._require(table, expected)
            current = properties_in(table)
            carried = {**current, **new_properties(table, current)}
            properties = {_PROPERTY + name: json.dumps(value, sort_keys=True) for name, value in carried.items()}
            base = table.last_sequence_number
            try:
                with self._faults_of_commit(), QuickTransaction(table) as transaction:
                    stage(table, transaction, {**properties, _COMMIT: commit})
            except _Uncertain as uncertain:
                table = self.reload()
                if (landed := _committed(table, commit)) is not None:
                    return landed
                sequences = {snapshot.sequence_number for snapshot in table.metadata.snapshots}
                if not sequences.issuperset(range(base + 1, table.last_sequence_number + 1)):
                    raise Unavailable(
                        f"A commit to {self.store.table} took so long that the table no longer shows whether it succeeded.",
                        hint="Run the command again: it continues from what the table holds.",
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
            f"All {tries} attempts to commit to {self.store.table} lost to other writers.",
            hint="Run the command again when fewer writers run.",
        )

    def change(self, stage: Callable[[Table, Transaction], None]) -> Table:
        """Commit an idempotent change other than a snapshot (properties, expiry); returns the new table."""
        for attempt in range(_TRIES):
            table = self.reload()
            try:
                with self._faults_of_commit(), QuickTransaction(table) as transaction:
                    stage(table, transaction)
                return self.reload()
            except _Uncertain as uncertain:
                self._wait(uncertain, attempt, _TRIES)
        raise LostRace(
            f"All {_TRIES} attempts to change {self.store.table} lost to other writers.",
            hint="Run the command again when fewer writers run.",
        )

    def properties_of(self, table: Table) -> dict[str, Any]:
        """All properties of the newest snapshot of a loaded table."""
        return properties_in(table)

    def _wait(self, uncertain: _Uncertain, attempt: int, tries: int) -> None:
        if uncertain.cause is not None and attempt >= _TRIES - 1:
            raise Unavailable(
                f"A commit to {self.store.table} failed: {reason(uncertain.cause)}.",
                hint="Check the catalog and run the command again; nothing was partly written.",
            ) from uncertain.cause
        # With many attempts, do not wait: against a writer that never pauses, each attempt has the same chance.
        if uncertain.cause is not None or tries == _TRIES:
            time.sleep(backoff(attempt + 1, first_s=0.05, longest_s=2.0))

    def _require(self, table: Table, expected: Mapping[str, Any]) -> None:
        current = properties_in(table)
        for name, value in expected.items():
            if current.get(name) != value:
                raise LostRace(
                    f"Another writer changed property {name!r} of {self.store.table} from {value!r} to {current.get(name)!r}.",
                    hint="Run the command again; it continues from there.",
                )

    def discard(self, table: Table, paths: Iterable[str]) -> None:
        """Delete files that no snapshot names; maintenance removes those that cannot be deleted now."""
        for path in paths:
            with contextlib.suppress(Exception):
                table.io.delete(path)

    def load(self) -> Table | None:
        """The current table, or `None` if it does not exist yet."""
        with self.faults():
            if self._table is not None:
                try:
                    self._table.refresh()
                except ValueError:  # another table by now: SeaweedFS lets two processes create it at once, and keeps one
                    return self.reload()
                self._loaded = time.monotonic()
                return self._table
            try:
                self._table = self._connect().load_table((NAMESPACE, self.store.table))
            except (NoSuchTableError, NoSuchNamespaceError):
                return None
            self._loaded = time.monotonic()
        return self._table

    def recent(self) -> Table | None:
        """The table to commit to: as just loaded, otherwise as it is now.

        Where another writer has committed since, the commit is rejected and made again, which costs more than loading the table.
        """
        return self._table if time.monotonic() - self._loaded < _JUST_S else self.load()

    def _connect(self) -> MeteredCatalog:
        if self._catalog is None:
            self._catalog = connect(self.store, self._endpoints, self.meter)
            # A catalog in SQL would keep its connections open until the next garbage collection.
            weakref.finalize(self, self._catalog.close)
        return self._catalog

    def reload(self) -> Table:
        """Load the current table, which must exist."""
        with self.faults():
            self._table = self._connect().load_table((NAMESPACE, self.store.table))
        self._loaded = time.monotonic()
        return self._table

    def writable(self) -> Table:
        """The table as last loaded, created if missing, with all columns of the catalog."""
        if self._table is None or not self._whole:
            self._table, self._whole = self._table_or_new(), True
        return self._table

    def _table_or_new(self) -> Table:
        table = self._table or self.load()
        if table is not None:
            return self._widened(table)
        with self.faults():
            catalog = self._connect()
            with contextlib.suppress(NamespaceAlreadyExistsError):
                catalog.create_namespace(NAMESPACE)
            # Our own loop retries: pyiceberg's would append even if an expected property has changed.
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
        """The table with all columns of the catalog, nullable where the catalog says so; older rows have null in new ones."""
        for _ in range(_TRIES):
            columns = set(table.schema().column_names)
            tops = {field.name: field.required for field in table.schema().fields}
            known = all(name in columns for field in self.store.columns for name in _names(field))
            if known and not any(field.nullable and tops[field.name] for field in self.store.columns):
                return table
            wanted = pa.schema([field if field.name in tops else field.with_nullable(True) for field in self.store.columns])
            with self.faults(), contextlib.suppress(CommitFailedException), table.update_schema() as update:
                update.union_by_name(wanted)
            table = self.reload()  # another writer may have added them, or rows, meanwhile
        raise LostRace(f"The new columns of {self.store.table} could not be added.", hint="Run the command again.")

    @contextlib.contextmanager
    def _faults_of_commit(self) -> Iterator[None]:
        try:
            yield
        except (CommitFailedException, CommitStateUnknownException):
            raise _Uncertain(None) from None
        except (RequestException, RESTError, OSError) as error:
            if is_full(error):
                raise StorageFull(
                    f"No space left for table {self.store.table}.", hint="Free some space and run again."
                ) from error
            raise _Uncertain(error) from error

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Translate errors of pyiceberg and the catalog."""
        try:
            yield
        except (RequestException, RESTError, OSError) as error:
            if is_full(error):
                raise StorageFull(
                    f"No space left for table {self.store.table}.", hint="Free some space and run again."
                ) from error
            raise Unavailable(
                f"Table {self.store.table} cannot be reached through {self._endpoints.catalog_uri}: {reason(error)}.",
                hint="Check that the catalog and the object store are running, and run the command again.",
            ) from error


class _Uncertain(Exception):
    """A commit that failed or whose answer was lost: only the table shows which."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__()
        self.cause = cause


def properties_in(table: Table, before: datetime | None = None) -> dict[str, Any]:
    """The properties of the newest snapshot of ours. Snapshots of another tool (e.g. a compaction) carry none."""
    latest_ms = before.timestamp() * 1000 if before else math.inf
    # Do not follow parents: maintenance expires most snapshots between those it keeps.
    for snapshot in sorted(table.metadata.snapshots, key=lambda one: one.sequence_number or 0, reverse=True):
        if snapshot.timestamp_ms <= latest_ms and _ours(snapshot):
            properties = snapshot.summary.additional_properties if snapshot.summary else {}
            return {name[len(_PROPERTY) :]: json.loads(value) for name, value in properties.items() if name.startswith(_PROPERTY)}
    return {}


def _ours(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and any(name.startswith(_OURS) for name in snapshot.summary.additional_properties)


def _names(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """Iceberg's names of a field and those nested in it."""
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
