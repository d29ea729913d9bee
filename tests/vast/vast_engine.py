"""A small transactional table store in memory, for the two fakes of VAST DB to stand on.

What VAST DB promises about transactions that meet is not written down, so the engine can be either of two kinds: under *snapshot*
a transaction sees what was committed when it began, and may not change what somebody changed since; under *read committed* it
sees, and may change, whatever is committed by now. In both the first to change a thing holds it until its transaction ends, and
the next is refused with a conflict.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

ROW_ID = "$row_id"
CELL = 126 * 1024
"""Bytes that VAST DB takes in a cell."""

Isolation = Literal["snapshot", "read committed"]
Path = tuple[str, ...]  # (bucket, schema) or (bucket, schema, table)


class Refused(Exception):
    """A refusal: its HTTP status and the code VAST's errors carry."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class AnswerLost(Exception):
    """The connection broke while a transaction was committed: before the commit, or after it."""


@dataclass
class _Table:
    """Rows with their ids, in order; never changed in place."""

    rows: pa.Table

    def columns(self) -> pa.Schema:
        return pa.schema([field for field in self.rows.schema if field.name != ROW_ID])


@dataclass
class _Transaction:
    seen: dict[Path, _Table | None]
    began: int
    schemas: set[Path] = field(default_factory=set)
    tables: dict[Path, pa.Schema] = field(default_factory=dict)
    columns: dict[Path, list[pa.Field]] = field(default_factory=dict)
    inserted: dict[Path, list[pa.Table]] = field(default_factory=dict)
    updated: dict[Path, dict[int, pa.RecordBatch]] = field(default_factory=dict)
    deleted: dict[Path, set[int]] = field(default_factory=dict)
    held: set[tuple[object, ...]] = field(default_factory=set)

    def wrote(self) -> bool:
        return bool(self.held or self.inserted)


class Engine:
    """Buckets, schemas and tables of one cluster. Safe to share between threads."""

    def __init__(self, *buckets: str, isolation: Isolation = "snapshot") -> None:
        self.buckets = set(buckets)
        self.isolation = isolation
        self.lose: list[Literal["before", "after"]] = []
        """The answers to the next commits that wrote are lost, before or after the commit is done."""
        self.refuse: dict[str, Refused] = {}
        """By operation (`insert`, `select`, …): what it is refused with."""
        self.meanwhile: dict[str, Callable[[], object]] = {}
        """By operation: what somebody else does, once, before it."""
        self._committed: dict[Path, _Table | None] = {}
        self._changed: dict[tuple[object, ...], int] = {}
        self._commits = 0
        self._holders: dict[tuple[object, ...], int] = {}
        self._open: dict[int, _Transaction] = {}
        self._ids = itertools.count(1)
        self._row_ids = itertools.count()
        self._lock = threading.RLock()

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        if name in self.meanwhile:
            self.meanwhile.pop(name)()  # without the lock: it asks the engine itself, maybe by way of a server's other thread
        with self._lock:
            if name in self.refuse:
                raise self.refuse[name]
            yield

    def begin(self) -> int:
        with self._operation("begin"):
            txid = next(self._ids)
            self._open[txid] = _Transaction(dict(self._committed), self._commits)
            return txid

    def open_transactions(self) -> list[int]:
        return list(self._open)

    def commit(self, txid: int) -> None:
        with self._operation("commit"):
            transaction = self._transaction(txid)
            lost = self.lose.pop(0) if self.lose and transaction.wrote() else None
            if lost == "before":
                raise AnswerLost
            self._commits += 1
            own = (transaction.schemas, transaction.tables, transaction.columns, transaction.inserted, transaction.updated)
            for path in set().union(*own, transaction.deleted):
                self._committed[path] = self._with_own(transaction, path)
            self._changed |= dict.fromkeys(transaction.held, self._commits)
            self._end(txid)
            if lost == "after":
                raise AnswerLost

    def rollback(self, txid: int) -> None:
        with self._operation("rollback"):
            self._transaction(txid)
            self._end(txid)

    def _end(self, txid: int) -> None:
        for thing in self._open.pop(txid).held:
            del self._holders[thing]

    def has_schema(self, txid: int, path: Path) -> bool:
        with self._operation("list"):
            return path in self._transaction(txid).schemas or path in self._view(txid)

    def tables(self, txid: int, schema: Path) -> list[str]:
        with self._operation("list"):
            paths = {**self._view(txid), **self._transaction(txid).tables}
            return sorted(path[-1] for path in paths if len(path) == 3 and path[:2] == schema)

    def create_schema(self, txid: int, path: Path) -> None:
        with self._operation("create"):
            if self.has_schema(txid, path):
                raise Refused(409, "TabularSchemaAlreadyExists")
            self._hold(txid, path)
            self._transaction(txid).schemas.add(path)

    def create_table(self, txid: int, path: Path, columns: pa.Schema) -> None:
        with self._operation("create"):
            if not self.has_schema(txid, path[:2]):
                raise Refused(404, "NoSuchKey")
            if path[-1] in self.tables(txid, path[:2]):
                raise Refused(409, "TabularTableAlreadyExists")
            self._hold(txid, path)
            self._transaction(txid).tables[path] = columns

    def add_columns(self, txid: int, path: Path, columns: pa.Schema) -> None:
        with self._operation("alter"):
            held = self.columns(txid, path)
            if set(held.names) & set(columns.names):
                raise Refused(409, "TabularColumnAlreadyExists")
            self._hold(txid, (*path, "columns"))
            self._transaction(txid).columns.setdefault(path, []).extend(columns)

    def columns(self, txid: int, path: Path) -> pa.Schema:
        with self._operation("list"):
            return self._table(txid, path).columns()

    def insert(self, txid: int, path: Path, rows: pa.Table) -> pa.Array:
        """Add rows, nulls in the columns they lack; return their ids."""
        with self._operation("insert"):
            columns = self._table(txid, path).columns()
            if unknown := set(rows.column_names) - set(columns.names):
                raise Refused(400, f"TabularUnknownColumn {sorted(unknown)}")
            for name in rows.column_names:
                column = rows.column(name).combine_chunks()
                if not column.type.equals(columns.field(name).type):
                    raise Refused(400, f"TabularMismatchColumnType {name}: {column.type}")
                if column.nbytes > CELL and any(column.slice(row, 1).nbytes > CELL + 64 for row in range(len(column))):
                    raise Refused(400, f"TabularCellTooLarge {name}")
            ids = pa.array([next(self._row_ids) for _ in range(rows.num_rows)], pa.uint64())
            filled = [rows.column(f.name) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in columns]
            added = pa.table([ids, *filled], schema=pa.schema([pa.field(ROW_ID, pa.uint64()), *columns]))
            self._transaction(txid).inserted.setdefault(path, []).append(added)
            return ids

    def update(self, txid: int, path: Path, rows: pa.RecordBatch) -> None:
        """Replace the cells of rows, which are named by the first column."""
        with self._operation("update"):
            present = set(self._table(txid, path).rows.column(ROW_ID).to_pylist())
            for place, row in enumerate(rows.column(ROW_ID).to_pylist()):
                if row not in present:
                    continue
                self._hold(txid, (*path, "row", row))
                self._transaction(txid).updated.setdefault(path, {})[row] = rows.slice(place, 1)

    def delete(self, txid: int, path: Path, rows: pa.RecordBatch) -> None:
        """Take out rows, which are named by their only column."""
        with self._operation("delete"):
            for row in rows.column(ROW_ID).to_pylist():
                self._hold(txid, (*path, "row", row))
                self._transaction(txid).deleted.setdefault(path, set()).add(row)

    def rows(self, txid: int, path: Path) -> pa.Table:
        """What a transaction sees of a table, row ids first."""
        with self._operation("select"):
            return self._table(txid, path).rows

    def _hold(self, txid: int, thing: tuple[object, ...]) -> None:
        transaction = self._transaction(txid)
        if self._holders.get(thing, txid) != txid:
            raise Refused(409, "TabularConflict")
        if self.isolation == "snapshot" and self._changed.get(thing, 0) > transaction.began:
            raise Refused(409, "TabularConflict")
        self._holders[thing] = txid
        transaction.held.add(thing)

    def _transaction(self, txid: int) -> _Transaction:
        if txid not in self._open:
            raise Refused(404, "TabularNoSuchTransaction")
        return self._open[txid]

    def _view(self, txid: int) -> dict[Path, _Table | None]:
        return self._transaction(txid).seen if self.isolation == "snapshot" else self._committed

    def _table(self, txid: int, path: Path) -> _Table:
        found = self._with_own(self._transaction(txid), path, self._view(txid))
        if found is None:
            raise Refused(404, "NoSuchKey")
        return found

    def _with_own(self, transaction: _Transaction, path: Path, view: dict[Path, _Table | None] | None = None) -> _Table | None:
        """A table with what a transaction did to it."""
        table = (self._committed if view is None else view).get(path)
        if path in transaction.tables:
            columns = pa.schema([pa.field(ROW_ID, pa.uint64()), *transaction.tables[path]])
            table = _Table(columns.empty_table())
        if table is None:
            return None
        rows = table.rows
        for added in transaction.columns.get(path, []):
            rows = rows.append_column(added, pa.nulls(rows.num_rows, added.type))
        for inserted in transaction.inserted.get(path, []):
            for gained in rows.schema.names[inserted.num_columns :]:
                kind = rows.schema.field(gained)
                inserted = inserted.append_column(kind, pa.nulls(inserted.num_rows, kind.type))
            rows = pa.concat_tables([rows, inserted])
        if changed := transaction.updated.get(path):
            written = rows.to_pylist()
            for row in written:
                if row[ROW_ID] in changed:
                    row.update(changed[row[ROW_ID]].to_pylist()[0])
            rows = pa.Table.from_pylist(written, rows.schema)
        if gone := transaction.deleted.get(path):
            rows = rows.filter(pa.array([row not in gone for row in rows.column(ROW_ID).to_pylist()], pa.bool_()))
        return _Table(rows)
