"""What Headrace relies on an Iceberg REST catalog for. Everything happens in one namespace of the check's own."""

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
from headrace.check.promise import Broken, Measured, Promise, Promises, TimeBudget, Unknown, latency, promise
from headrace.errors import Unavailable
from headrace.settings import Settings, Vast
from headrace.storage.endpoints import Endpoints

_SCHEMA = pa.schema([pa.field("writer", pa.string()), pa.field("number", pa.int64())])
_PROPERTIES = {"commit.retry.num-retries": "0", "format-version": "2", "write.parquet.compression-codec": "zstd"}
_WRITER = "headrace.check.writer"
_ANSWER_S = 90.0
# How a catalog says that a table has moved on: 409 as the protocol wants, or a fault that it found by itself.
_REFUSED = (CommitFailedException, RESTError)


class CatalogSandbox:
    """A namespace of the check's own, seen through two catalog clients."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.namespace = f"headrace_check_{secrets.token_hex(6)}"
        self.writer = connect(endpoints)
        self.reader = connect(endpoints)
        self._tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """Make a table, which is dropped with its files at the end."""
        table: Table = self.writer.create_table((self.namespace, name), schema=_SCHEMA, properties=_PROPERTIES)
        self._tables[name] = table
        return table

    def seen(self, name: str) -> Table:
        """A table as another client finds it now."""
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
                    except (BadRequestError, NotImplementedError):  # it leaves the files to us
                        self.writer.drop_table((self.namespace, name))
                    _delete_files(table, self.namespace)
            self.writer.drop_namespace(self.namespace)


def connect(endpoints: Endpoints) -> RestCatalog:
    """A client of the catalog with nothing of Headrace's own on top."""
    return RestCatalog("check", uri=endpoints.catalog_uri, warehouse=endpoints.warehouse, **endpoints.catalog_properties)


@promise(
    "answers, and makes a table",
    loses="everything: nothing could land",
)
def answers(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    began = time.perf_counter()
    room.writer.create_namespace(room.namespace)
    room.table("answers")
    took = (time.perf_counter() - began) * 1e3
    if room.seen("answers").schema().column_names != _SCHEMA.names:
        raise Broken(f"a table was made, and another client finds columns {room.seen('answers').schema().column_names}")
    return Measured(f"namespace and table made in {took:.0f} ms", make_ms=took)


@promise(
    "a reader sees a commit at once",
    loses="what was landed would not be in the next round, and a lander started again would land it twice",
)
def seen_at_once(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table, reader = room.table("seen"), room.seen("seen")
    seconds = []
    for number in effort.rounds(6, 60):
        began = time.perf_counter()
        _append(table, "one", number)
        seconds.append(time.perf_counter() - began)
        for loaded in (reader.refresh(), room.seen("seen")):
            current = loaded.current_snapshot()
            if current is None or current.snapshot_id != _newest(table):
                raise Broken(f"after commit {number + 1} another client still found the snapshot before")
        if (rows := reader.scan().to_arrow().num_rows) != number + 1:
            raise Broken(f"after {number + 1} commits of a row each there were {rows} rows")
    words, figures = latency("commit", seconds)
    return Measured(f"{len(seconds)} commits, {words}", commits=len(seconds), **figures)


@promise(
    "a commit that builds on an old snapshot is refused",
    loses="two landers could land the same events: every row twice",
)
def stale(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table = room.table("stale")
    _append(table, "first", 0)
    rounds = 0
    for rounds in effort.rounds(3, 20):
        one, other = room.writer.load_table((room.namespace, "stale")), room.seen("stale")
        _append(one, "in time", rounds)
        try:
            _append(other, "too late", rounds)
        except _REFUSED:
            continue
        raise Broken("a commit was taken though the table had moved on since it was read")
    if "too late" in (rows := room.seen("stale").scan().to_arrow()["writer"].to_pylist()) or len(rows) != rounds + 2:
        raise Broken(f"refused commits left rows: {len(rows)} instead of {rounds + 2}")
    return Measured(f"{rounds + 1} of {rounds + 1} refused", refused=rounds + 1)


@promise(
    "no commit is lost when many commit at once",
    loses="landed events, examples and promotions: rows that a commit said are there",
)
def concurrent(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    room.table("concurrent")
    steps = 3 if effort.seconds < 1 else 8
    with PeerProcess() as second, ThreadPoolExecutor(2) as threads:
        begin = begin_at(second, "catalog")
        place = {"namespace": room.namespace, "steps": steps, "begin": begin}
        theirs = second.ask("catalog.commits", endpoints=room.endpoints.model_dump(mode="json"), who="second", **place)
        ours = [
            threads.submit(_commits, connect(room.endpoints), room.namespace, steps, f"thread {number}", begin)
            for number in range(2)
        ]
        results = [each.result() for each in ours] + [theirs.get(_ANSWER_S)]
    done = {name for names, _ in results for name in names}
    refused = sum(count for _, count in results)
    table = room.seen("concurrent")
    chain = set(_chain(table))
    if lost := done - chain:
        raise Broken(f"{len(lost)} of {len(done)} acknowledged commits are not in the table's history")
    rows = [f"{row['writer']} {row['number']}" for row in table.scan().to_arrow().to_pylist()]
    if sorted(rows) != sorted(chain):
        raise Broken(f"the table's history names {len(chain)} commits, and it has {len(rows)} rows of theirs")
    return Measured(f"{len(done)} commits by 2 processes, {refused} refused and tried again", commits=len(done), refused=refused)


def commits(endpoints: dict[str, Any], namespace: str, steps: int, who: str, begin: float) -> tuple[list[str], int]:
    """In a second process: what `_commits` does, on a client of its own."""
    return _commits(connect(Endpoints.model_validate(endpoints)), namespace, steps, who, begin)


@promise(
    "what a commit says of itself comes back unchanged",
    loses="the offsets landed so far: a lander started again would not know where to go on",
)
def properties(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table = room.table("properties")
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
    for snapshot in room.seen("properties").metadata.snapshots:
        if snapshot.snapshot_id == first and snapshot.summary is not None:
            stored = snapshot.summary.additional_properties
            for name, value in written.items():
                if stored.get(name) != value:
                    raise Broken(f"{name} was given {value[:40]!r} and came back as {str(stored.get(name))[:40]!r}")
            size = sum(len(value.encode()) for value in written.values())
            return Measured(f"{size:,} bytes in a snapshot's summary", bytes=size)
    raise Broken("the snapshot is not in the table's history")


@promise(
    "an older snapshot stays readable",
    loses="a dataset could not be made again from the snapshots that its manifest names",
)
def older(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table = room.table("older")
    snapshots = []
    for number in range(3):
        _append(table, "one", number)
        snapshots.append(_newest(table))
    counts = [room.seen("older").scan(snapshot_id=snapshot).to_arrow().num_rows for snapshot in snapshots]
    if counts != [1, 2, 3]:
        raise Broken(f"snapshots of 1, 2 and 3 rows were read with {counts}")
    return Measured("3 snapshots")


@promise(
    "a column can be added",
    loses="tables could not take what a later version of Headrace records",
)
def widened(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table = room.table("widened")
    _append(table, "one", 0)
    began = time.perf_counter()
    with table.update_schema() as update:
        update.add_column("more", StringType())
    took = (time.perf_counter() - began) * 1e3
    later = room.seen("widened")
    later.append(
        pa.table({"writer": ["two"], "number": [1], "more": ["x"]}, schema=_SCHEMA.append(pa.field("more", pa.string())))
    )
    values = room.seen("widened").scan().to_arrow().sort_by("number")["more"].to_pylist()
    if values != [None, "x"]:
        raise Broken(f"a column added between two rows reads {values} instead of [None, 'x']")
    return Measured(f"added in {took:.0f} ms", add_ms=took)


@promise(
    "an old snapshot can be expired",
    loses="maintenance: every commit would make every later one slower, and nothing could ever be deleted",
)
def expired(room: CatalogSandbox, effort: TimeBudget) -> Measured:
    table = room.table("expired")
    snapshots = []
    for number in range(3):
        _append(table, "one", number)
        snapshots.append(_newest(table))
    began = time.perf_counter()
    table.maintenance.expire_snapshots().by_id(snapshots[0]).commit()
    took = (time.perf_counter() - began) * 1e3
    later = room.seen("expired")
    left = sorted(snapshot.snapshot_id for snapshot in later.metadata.snapshots)
    if left != sorted(snapshots[1:]):
        raise Broken(f"one of 3 snapshots was expired, and {len(left)} are left")
    if (rows := later.scan().to_arrow().num_rows) != 3:
        raise Broken(f"a snapshot was expired, and of the 3 rows that later ones hold {rows} came back")
    return Measured(f"expired in {took:.0f} ms", expire_ms=took)


def _append(table: Table, who: str, number: int, **properties: str) -> None:
    """Commit a row, once; the row and the commit bear the same name."""
    row = pa.table({"writer": [who], "number": [number]}, schema=_SCHEMA)
    table.append(row, snapshot_properties={_WRITER: f"{who} {number}", **properties})


def _commits(catalog: RestCatalog, namespace: str, steps: int, who: str, begin: float) -> tuple[list[str], int]:
    """Commit `steps` rows; return the names of acknowledged commits and how many were refused."""
    done: list[str] = []
    refused = 0
    wait_until(begin)
    end = time.monotonic() + _ANSWER_S / 2
    while len(done) < steps and time.monotonic() < end:
        table = catalog.load_table((namespace, "concurrent"))
        name = f"{who} {len(done)}"
        try:
            if name not in _chain(table):  # one whose answer was lost may have been taken
                _append(table, who, len(done))
            done.append(name)
        except _REFUSED:
            refused += 1
    return done, refused


def _chain(table: Table) -> list[str]:
    """The names of the commits that the newest snapshot builds on, newest first."""
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
        raise Broken("a commit was taken, and the table has no snapshot")
    return current.snapshot_id


def _delete_files(table: Table, namespace: str) -> None:
    """Delete what a catalog's purge leaves behind, if the table lies where nothing else can."""
    location = table.location()
    if namespace not in location or not isinstance(table.io, PyArrowFileIO):
        return
    scheme, netloc, path = PyArrowFileIO.parse_location(location, table.io.properties)
    with suppress(OSError):
        table.io.fs_by_scheme(scheme, netloc).delete_dir(path)


@contextmanager
def opened(settings: Settings, endpoints: Endpoints) -> Iterator[CatalogSandbox]:
    """A room in the catalog."""
    if isinstance(settings.tables, Vast):
        raise Unknown("the tables are in VAST DB, which this check cannot ask")
    room = CatalogSandbox(endpoints)
    try:
        yield room
    finally:
        room.clear()


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
