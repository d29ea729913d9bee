"""The surface of the vastdb SDK that Headrace uses, in memory: sessions, transactions, buckets, schemas and tables.

It takes the SDK's own ibis predicates and evaluates them on the Arrow it stores; those the SDK could not send it refuses too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from types import SimpleNamespace
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import requests
from ibis.expr import operations as ops
from vast_engine import ROW_ID, AnswerLost, Engine, Path, Refused
from vastdb import errors
from vastdb._internal import TableStats
from vastdb.features import Features
from vastdb.table_metadata import TableMetadata

_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ops.Equals: pc.equal,
    ops.NotEquals: pc.not_equal,
    ops.Less: pc.less,
    ops.LessEqual: pc.less_equal,
    ops.Greater: pc.greater,
    ops.GreaterEqual: pc.greater_equal,
}


def connect(engine: Engine) -> Callable[..., Session]:
    """What stands in for `vastdb.connect`."""
    return lambda **words: Session(engine, **words)


@contextmanager
def _answered() -> Iterator[None]:
    """The engine's refusals as the SDK would raise them."""
    try:
        yield
    except AnswerLost as lost:
        raise errors.ConnectionError(cause=lost, may_retry=False) from None
    except Refused as refused:
        kind = errors.HTTP_ERROR_TYPES_MAP[errors.HttpStatus(refused.status)]
        headers = requests.structures.CaseInsensitiveDict()
        raise kind(code=refused.code, message="", method="", url="", status=refused.status, headers=headers) from None


class Session:
    def __init__(self, engine: Engine, *, endpoint: str, access: str, secret: str, **_: Any) -> None:
        self.engine = engine
        self.features = Features((5, 3, 0, 0))
        self.api = SimpleNamespace(
            rollback_transaction=self._rollback,
            list_all_columns=self._columns,
            get_table_stats=self._stats,
        )

    def transaction(self) -> Transaction:
        return Transaction(self)

    def _rollback(self, txid: int) -> None:
        with _answered():
            self.engine.rollback(txid)

    def _columns(self, bucket: str, schema: str, table: str, *, sorted_columns: bool, txid: int, **_: Any) -> pa.Schema:
        if sorted_columns:
            return pa.schema([], metadata={})
        with _answered():
            return self.engine.columns(txid, (bucket, schema, table)).with_metadata({})

    def _stats(self, *, bucket: str, schema: str, name: str, txid: int, **_: Any) -> TableStats:
        with _answered():
            rows = self.engine.rows(txid, (bucket, schema, name))
        return TableStats(rows.num_rows, rows.nbytes, 0, 0, 0, [])


class Transaction:
    def __init__(self, session: Session) -> None:
        self._rpc = session
        self.engine = session.engine
        self.txid: int | None = None

    @property
    def active_txid(self) -> int:
        assert self.txid is not None
        return self.txid

    def __enter__(self) -> Transaction:
        with _answered():
            self.txid = self.engine.begin()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        txid, self.txid = self.active_txid, None
        with _answered():
            if kind is None:
                self.engine.commit(txid)
            else:
                self.engine.rollback(txid)

    def bucket(self, name: str) -> Bucket:
        if name not in self.engine.buckets:
            raise errors.MissingBucket(name)
        return Bucket(name, self)

    def table_from_metadata(self, metadata: TableMetadata) -> Table:
        ref = metadata.ref
        return Table((ref.bucket, ref.schema, ref.table), self, metadata.arrow_schema)


class Bucket:
    def __init__(self, name: str, transaction: Transaction) -> None:
        self.name, self.transaction = name, transaction

    def schema(self, name: str, fail_if_missing: bool = True) -> Schema | None:
        with _answered():
            if self.transaction.engine.has_schema(self.transaction.active_txid, (self.name, name)):
                return Schema((self.name, name), self.transaction)
        if fail_if_missing:
            raise errors.MissingSchema(self.name, name)
        return None

    def create_schema(self, name: str, fail_if_exists: bool = True) -> Schema:
        if (found := self.schema(name, fail_if_missing=False)) is not None:
            if fail_if_exists:
                raise errors.SchemaExists(self.name, name)
            return found
        with _answered():
            self.transaction.engine.create_schema(self.transaction.active_txid, (self.name, name))
        return Schema((self.name, name), self.transaction)


class Schema:
    def __init__(self, path: Path, transaction: Transaction) -> None:
        self.path, self.transaction = path, transaction

    def tablenames(self) -> list[str]:
        with _answered():
            return self.transaction.engine.tables(self.transaction.active_txid, self.path)

    def table(self, name: str) -> Table:
        if name not in self.tablenames():
            raise errors.MissingTable(*self.path, name)
        with _answered():
            columns = self.transaction.engine.columns(self.transaction.active_txid, (*self.path, name))
        return Table((*self.path, name), self.transaction, columns)

    def create_table(self, name: str, columns: pa.Schema) -> Table:
        if name in self.tablenames():
            raise errors.TableExists(*self.path, name)
        with _answered():
            self.transaction.engine.create_table(self.transaction.active_txid, (*self.path, name), columns)
        return self.table(name)


class Table:
    def __init__(self, path: Path, transaction: Transaction, columns: pa.Schema) -> None:
        self.path, self.transaction, self.arrow_schema = path, transaction, columns
        self.name = path[-1]

    def __getitem__(self, name: str) -> ibis.Column:
        return ibis.table(ibis.Schema.from_pyarrow(self.arrow_schema), "/".join(self.path))[name]

    def reload_schema(self) -> None:
        with _answered():
            self.arrow_schema = self.transaction.engine.columns(self.transaction.active_txid, self.path)

    def add_column(self, columns: pa.Schema) -> None:
        with _answered():
            self.transaction.engine.add_columns(self.transaction.active_txid, self.path, columns)

    def insert(self, rows: pa.RecordBatch) -> None:
        with _answered():
            self.transaction.engine.insert(self.transaction.active_txid, self.path, pa.Table.from_batches([rows]))

    def update(self, rows: pa.RecordBatch) -> None:
        with _answered():
            self.transaction.engine.update(self.transaction.active_txid, self.path, rows)

    def delete(self, rows: pa.RecordBatch) -> None:
        with _answered():
            self.transaction.engine.delete(self.transaction.active_txid, self.path, rows)

    def select(
        self, columns: list[str], predicate: Any = None, config: Any = None, *, internal_row_id: bool = False
    ) -> pa.RecordBatchReader:
        with _answered():
            rows = self.transaction.engine.rows(self.transaction.active_txid, self.path)
        if predicate is not None:
            rows = rows.filter(_conjunction(predicate.op(), rows))
        names = [ROW_ID, *columns] if internal_row_id else columns
        found = rows.select(names)
        most = config.limit_rows_per_sub_split
        return pa.RecordBatchReader.from_batches(found.schema, found.to_batches(max_chunksize=most))


def _conjunction(op: Any, rows: pa.Table) -> pa.ChunkedArray:
    """The shape the SDK can send: ands of ors, each or over one column."""
    if isinstance(op, ops.And):
        return pc.and_kleene(_conjunction(op.left, rows), _conjunction(op.right, rows))
    terms = list(_flat(op))
    if len({_column(term) for term in terms}) != 1:
        raise NotImplementedError(op)
    return reduce(pc.or_kleene, [_term(term, rows) for term in terms])


def _flat(op: Any) -> Iterator[Any]:
    if isinstance(op, ops.Or):
        yield from _flat(op.left)
        yield from _flat(op.right)
    else:
        yield op


def _column(op: Any) -> str:
    field = op.args[0].args[0] if isinstance(op, ops.Not) else op.args[0]
    if not isinstance(field, ops.Field):
        raise NotImplementedError(op)
    name: str = field.name
    return name


def _term(op: Any, rows: pa.Table) -> pa.ChunkedArray:
    column = rows.column(_column(op))
    if isinstance(op, ops.IsNull):
        return column.is_null()
    if isinstance(op, ops.Not) and isinstance(op.args[0], ops.IsNull):
        return column.is_valid()
    if isinstance(op, ops.InValues):
        return reduce(pc.or_kleene, [pc.equal(column, _scalar(value, column)) for value in op.options])
    if isinstance(op, ops.StartsWith):
        return pc.starts_with(column, op.end.value if hasattr(op, "end") else op.args[1].value)
    if type(op) in _COMPARED:
        return _COMPARED[type(op)](column, _scalar(op.right, column))
    raise NotImplementedError(op)


def _scalar(literal: Any, column: pa.ChunkedArray) -> pa.Scalar:
    if not isinstance(literal, ops.Literal):
        raise NotImplementedError(literal)
    return pa.scalar(literal.value, column.type)
