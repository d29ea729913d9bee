"""Promises of an Iceberg catalog, tested in a namespace of the check's own."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    BadRequestError,
    CommitFailedException,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
)
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table
from pyiceberg.types import StringType
from requests.exceptions import RequestException

from headrace.catalog import Tier
from headrace.check.peer import PeerProcess, begin_at, wait_until
from headrace.check.promise import AMPLE_S, Broken, Measured, NotTested, Promise, Promises, TimeBudget, latency, promise
from headrace.errors import Unavailable
from headrace.settings import Settings, Vast
from headrace.storage.endpoints import Endpoints

_SCHEMA = pa.schema([pa.field("writer", pa.string()), pa.field("number", pa.int64())])
_PROPERTIES = {"commit.retry.num-retries": "0", "format-version": "2", "write.parquet.compression-codec": "zstd"}
_WRITER = "headrace.check.writer"
_ANSWER_S = 90.0
# A catalog's errors for a stale commit: 409 by the protocol, or another error of its own.
_REJECTED = (CommitFailedException, RESTError)


class CatalogSandbox:
    """A temporary namespace, seen through two catalog clients."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.namespace = f"headrace_check_{secrets.token_hex(6)}"
        self.writer = connect(endpoints)
        self.reader = connect(endpoints)
        self._tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """Create a table, to be dropped with its files at the end."""
        table: Table = self.writer.create_table((self.namespace, name), schema=_SCHEMA, properties=_PROPERTIES)
        self._tables[name] = table
        return table

    def seen(self, name: str) -> Table:
        """The current table, loaded by the other client."""
        table: Table = self.reader.load_table((self.namespace, name))
        return table

    def clear(self) -> None:
        """Drop the tables and delete their files, and drop the namespace."""
        with suppress(NoSuchNamespaceError):
            for name in {*self._tables, *(identifier[-1] for identifier in self.writer.list_tables(self.namespace))}:
                with suppress(NoSuchTableError):
                    table = self._tables.get(name) or self.writer.load_table((self.namespace, name))
                    try:
                        self.writer.purge_table((self.namespace, name))
                    except (BadRequestError, NotImplementedError):  # the catalog leaves the files to us
                        self.writer.drop_table((self.namespace, name))
                    _delete_files(table, self.namespace)
            self.writer.drop_namespace(self.namespace)


def connect(endpoints: Endpoints) -> Catalog:
    """A plain catalog client, without Headrace's handles."""
    if endpoints.catalog_in_sql:
        from headrace.storage.tables.iceberg.sql_catalog import DatabaseCatalog

        return DatabaseCatalog(endpoints)
    return RestCatalog("check", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)


@promise(
    "answers and creates a table",
    loses="everything: nothing could land",
)
def answers(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    began = time.perf_counter()
    sandbox.writer.create_namespace(sandbox.namespace)
    sandbox.table("answers")
    took = (time.perf_counter() - began) * 1e3
    if sandbox.seen("answers").schema().column_names != _SCHEMA.names:
        raise Broken(f"a table was created, but another client sees columns {sandbox.seen('answers').schema().column_names}")
    return Measured(f"namespace and table created in {took:.0f} ms", make_ms=took)


@promise(
    "a reader sees a commit at once",
    loses="landed events would be missing from the next round, and a restarted lander would land them twice",
)
def seen_at_once(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table, reader = sandbox.table("seen"), sandbox.seen("seen")
    seconds = []
    for number in budget.rounds(6, 60):
        began = time.perf_counter()
        _append(table, "one", number)
        seconds.append(time.perf_counter() - began)
        for loaded in (reader.refresh(), sandbox.seen("seen")):
            current = loaded.current_snapshot()
            if current is None or current.snapshot_id != _newest(table):
                raise Broken(f"after commit {number + 1}, another client still saw the previous snapshot")
        if (rows := reader.scan().to_arrow().num_rows) != number + 1:
            raise Broken(f"after {number + 1} commits of one row each, there were {rows} rows")
    words, figures = latency("commit", seconds)
    return Measured(f"{len(seconds)} commits, {words}", commits=len(seconds), **figures)


@promise(
    "a commit based on an old snapshot is rejected",
    loses="two landers could land the same events, duplicating every row",
)
def stale(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table = sandbox.table("stale")
    _append(table, "first", 0)
    rounds = 0
    for rounds in budget.rounds(3, 20):
        one, other = sandbox.writer.load_table((sandbox.namespace, "stale")), sandbox.seen("stale")
        _append(one, "in time", rounds)
        try:
            _append(other, "too late", rounds)
        except _REJECTED:
            continue
        raise Broken("a commit was accepted although the table had changed since it was read")
    if "too late" in (rows := sandbox.seen("stale").scan().to_arrow()["writer"].to_pylist()) or len(rows) != rounds + 2:
        raise Broken(f"rejected commits left rows: {len(rows)} instead of {rounds + 2}")
    return Measured(f"{rounds + 1} of {rounds + 1} rejected", rejected=rounds + 1)


@promise(
    "no commit is lost when several writers commit at once",
    loses="acknowledged rows: landed events, examples and promotions",
)
def concurrent(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    sandbox.table("concurrent")
    steps = 3 if budget.seconds < AMPLE_S else 8
    with PeerProcess() as second, ThreadPoolExecutor(2) as threads:
        begin = begin_at(second, "catalog")
        shared = {"namespace": sandbox.namespace, "steps": steps, "begin": begin}
        theirs = second.ask("catalog.commits", endpoints=sandbox.endpoints.model_dump(mode="json"), who="second", **shared)
        ours = [
            threads.submit(_commits, connect(sandbox.endpoints), sandbox.namespace, steps, f"thread {number}", begin)
            for number in range(2)
        ]
        results = [each.result() for each in ours] + [theirs.get(_ANSWER_S)]
    done = {name for names, _ in results for name in names}
    rejected = sum(count for _, count in results)
    table = sandbox.seen("concurrent")
    chain = set(_chain(table))
    if lost := done - chain:
        raise Broken(f"{len(lost)} of {len(done)} acknowledged commits are not in the table's history")
    rows = [f"{row['writer']} {row['number']}" for row in table.scan().to_arrow().to_pylist()]
    if sorted(rows) != sorted(chain):
        raise Broken(f"the table's history has {len(chain)} commits, but the table has {len(rows)} rows from them")
    return Measured(f"{len(done)} commits by 2 processes, {rejected} rejected and retried", commits=len(done), rejected=rejected)


def commits(endpoints: dict[str, Any], namespace: str, steps: int, who: str, begin: float) -> tuple[list[str], int]:
    """In a second process: `_commits` with its own client."""
    return _commits(connect(Endpoints.model_validate(endpoints)), namespace, steps, who, begin)


@promise(
    "snapshot properties come back unchanged",
    loses="the landed offsets: a restarted lander would not know where to continue",
)
def properties(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table = sandbox.table("properties")
    offsets = {"cluster": 'é-"quoted"-\'', "topic": "interactions", "next": {str(p): 2**53 + p for p in range(64)}}
    written = {
        "headrace.property.offsets": json.dumps(offsets, sort_keys=True),
        "headrace.property.empty": "",
        "headrace.property.spaces": "  two lines\nand a tab\t ",
        "headrace.property.long": "0123456789abcdef" * 512,
    }
    _append(table, "one", 0, **written)
    first = _newest(table)
    _append(table, "two", 1)
    for snapshot in sandbox.seen("properties").metadata.snapshots:
        if snapshot.snapshot_id == first and snapshot.summary is not None:
            stored = snapshot.summary.additional_properties
            for name, value in written.items():
                if stored.get(name) != value:
                    raise Broken(f"{name} was set to {value[:40]!r} and came back as {str(stored.get(name))[:40]!r}")
            size = sum(len(value.encode()) for value in written.values())
            return Measured(f"{size:,} bytes in a snapshot's summary", bytes=size)
    raise Broken("the snapshot is not in the table's history")


@promise(
    "an older snapshot stays readable",
    loses="a dataset could not be rebuilt from the snapshots that its manifest names",
)
def older(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table = sandbox.table("older")
    snapshots = []
    for number in range(3):
        _append(table, "one", number)
        snapshots.append(_newest(table))
    counts = [sandbox.seen("older").scan(snapshot_id=snapshot).to_arrow().num_rows for snapshot in snapshots]
    if counts != [1, 2, 3]:
        raise Broken(f"snapshots with 1, 2 and 3 rows returned {counts}")
    return Measured("3 snapshots")


@promise(
    "a column can be added",
    loses="tables could not store the new fields of later Headrace versions",
)
def widened(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table = sandbox.table("widened")
    _append(table, "one", 0)
    began = time.perf_counter()
    with table.update_schema() as update:
        update.add_column("more", StringType())
    took = (time.perf_counter() - began) * 1e3
    later = sandbox.seen("widened")
    later.append(
        pa.table({"writer": ["two"], "number": [1], "more": ["x"]}, schema=_SCHEMA.append(pa.field("more", pa.string())))
    )
    values = sandbox.seen("widened").scan().to_arrow().sort_by("number")["more"].to_pylist()
    if values != [None, "x"]:
        raise Broken(f"a column added between two rows reads {values} instead of [None, 'x']")
    return Measured(f"added in {took:.0f} ms", add_ms=took)


@promise(
    "an old snapshot can be expired",
    loses="maintenance: every commit would slow down all later ones, and nothing could ever be deleted",
)
def expired(sandbox: CatalogSandbox, budget: TimeBudget) -> Measured:
    table = sandbox.table("expired")
    snapshots = []
    for number in range(3):
        _append(table, "one", number)
        snapshots.append(_newest(table))
    began = time.perf_counter()
    table.maintenance.expire_snapshots().by_id(snapshots[0]).commit()
    took = (time.perf_counter() - began) * 1e3
    later = sandbox.seen("expired")
    left = sorted(snapshot.snapshot_id for snapshot in later.metadata.snapshots)
    if left != sorted(snapshots[1:]):
        raise Broken(f"one of 3 snapshots was expired, but {len(left)} are left")
    if (rows := later.scan().to_arrow().num_rows) != 3:
        raise Broken(f"after a snapshot was expired, {rows} of the 3 rows in later ones came back")
    return Measured(f"expired in {took:.0f} ms", expire_ms=took)


def _append(table: Table, who: str, number: int, **properties: str) -> None:
    """Commit a row once; row and commit have the same name."""
    row = pa.table({"writer": [who], "number": [number]}, schema=_SCHEMA)
    table.append(row, snapshot_properties={_WRITER: f"{who} {number}", **properties})


def _commits(catalog: Catalog, namespace: str, steps: int, who: str, begin: float) -> tuple[list[str], int]:
    """Commit `steps` rows; returns the names of acknowledged commits and the number of rejected ones."""
    done: list[str] = []
    rejected = 0
    wait_until(begin)
    end = time.monotonic() + _ANSWER_S / 2
    while len(done) < steps and time.monotonic() < end:
        table = catalog.load_table((namespace, "concurrent"))
        name = f"{who} {len(done)}"
        try:
            if name not in _chain(table):  # a commit whose answer was lost may have succeeded
                _append(table, who, len(done))
            done.append(name)
        except _REJECTED:
            rejected += 1
    return done, rejected


def _chain(table: Table) -> list[str]:
    """The names of the newest snapshot's commit and its ancestors, newest first."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    names, at = [], table.current_snapshot()
    while at is not None:
        if at.summary is not None:
            names.append(at.summary.additional_properties.get(_WRITER, ""))
        at = by_id.get(at.parent_snapshot_id) if at.parent_snapshot_id is not None else None
    return names


def _newest(table: Table) -> int:
    current = table.current_snapshot()
    if current is None:
        raise Broken("a commit was accepted, but the table has no snapshot")
    return current.snapshot_id


def _delete_files(table: Table, namespace: str) -> None:
    """Delete files left by the catalog's purge, if the table's location cannot contain anything else."""
    location = table.location()
    if namespace not in location or not isinstance(table.io, PyArrowFileIO):
        return
    scheme, netloc, path = PyArrowFileIO.parse_location(location, table.io.properties)
    with suppress(OSError):
        table.io.fs_by_scheme(scheme, netloc).delete_dir(path)


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[CatalogSandbox]:
    """A sandbox in the catalog, for a block."""
    if isinstance(settings.tables, Vast):
        raise NotTested("the tables are in VAST DB, which this check does not cover")
    sandbox = CatalogSandbox(endpoints)
    try:
        yield sandbox
    finally:
        sandbox.clear()


FAULTS: tuple[type[Exception], ...] = (
    RequestException,
    RESTError,
    CommitFailedException,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    ValidationError,
    OSError,
    pa.ArrowException,
    Unavailable,
)
PROMISES: Sequence[Promise[CatalogSandbox]] = (answers, seen_at_once, stale, concurrent, properties, older, widened, expired)
SUBJECT = Promises(Tier.TABLE, PROMISES, FAULTS, opened)
