"""A server on 127.0.0.1 that speaks VAST DB's tabular API as the vastdb SDK speaks it.

Requests are decoded with the flatbuffers the SDK ships, predicates and projections are evaluated on stored Arrow, and answers are
framed as the SDK parses them: one Arrow stream per leaf column, cut into messages that each carry a sub-split's number and the
row it goes on from.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import flatbuffers
import pyarrow as pa
import pyarrow.compute as pc
from vast_engine import ROW_ID, AnswerLost, Engine, Path, Refused
from vastdb.vast_flatbuf.org.apache.arrow.computeir.flatbuf import (
    BinaryLiteral,
    BooleanLiteral,
    Call,
    FieldIndex,
    FieldRef,
    Float32Literal,
    Float64Literal,
    Int8Literal,
    Int16Literal,
    Int32Literal,
    Int64Literal,
    Literal,
    Relation,
    Source,
    StringLiteral,
    TimestampLiteral,
)
from vastdb.vast_flatbuf.org.apache.arrow.computeir.flatbuf.ExpressionImpl import ExpressionImpl
from vastdb.vast_flatbuf.org.apache.arrow.computeir.flatbuf.LiteralImpl import LiteralImpl
from vastdb.vast_flatbuf.tabular import GetTableStatsResponse, ListSchemasResponse, ListTablesResponse, ObjectDetails

ACCESS_KEY, SECRET_KEY = "VASTACCESS", "vast-secret"
_DONE = 0xFFFFFFFF - 1
_NO_ROW = 0xFFFFFFFFFFFF
_BLOCK = 64
"""Rows that stay in one sub-split together. VAST DB's are larger; small ones make small tests use several."""
_LARGEST_REQUEST = 5 << 20

_CALLS: dict[str, Callable[..., Any]] = {
    "equal": pc.equal,
    "not_equal": pc.not_equal,
    "less": pc.less,
    "less_equal": pc.less_equal,
    "greater": pc.greater,
    "greater_equal": pc.greater_equal,
    "is_null": pc.is_null,
    "is_valid": pc.is_valid,
}
_LITERALS = {
    LiteralImpl.BooleanLiteral: BooleanLiteral.BooleanLiteral,
    LiteralImpl.Int8Literal: Int8Literal.Int8Literal,
    LiteralImpl.Int16Literal: Int16Literal.Int16Literal,
    LiteralImpl.Int32Literal: Int32Literal.Int32Literal,
    LiteralImpl.Int64Literal: Int64Literal.Int64Literal,
    LiteralImpl.Float32Literal: Float32Literal.Float32Literal,
    LiteralImpl.Float64Literal: Float64Literal.Float64Literal,
    LiteralImpl.StringLiteral: StringLiteral.StringLiteral,
    LiteralImpl.TimestampLiteral: TimestampLiteral.TimestampLiteral,
}


@contextmanager
def serve(engine: Engine, release: str = "5.3.0.0") -> Iterator[str]:
    """The server's URL while it runs. Releases from 5.5 on tell a column's sorting in its metadata."""

    class Handler(_Handler):
        pass

    Handler.engine, Handler.server_version, Handler.sys_version = engine, f"vast {release}", ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20  # an answer in one piece: two small ones wait for each other's acknowledgement

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        try:
            if f"Credential={ACCESS_KEY}/" not in self.headers.get("authorization", ""):
                raise Refused(403, "InvalidAccessKeyId")
            if length > _LARGEST_REQUEST:
                raise Refused(400, "EntityTooLarge")
            headers, answer = self._do(body)
        except AnswerLost:
            self.close_connection = True
            return
        except Refused as refused:
            code = refused.code
            answer = f"<Error><Code>{code}</Code><Message>{code} was refused</Message></Error>".encode()
            self.send_response(refused.status)
            headers = {}
        else:
            self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _do(self, body: bytes) -> tuple[dict[str, str], bytes]:
        url = urlsplit(self.path)
        path: Path = tuple(unquote(part) for part in url.path.split("/") if part)
        command = url.query.split("&")[0]
        txid = int(self.headers.get("tabular-txid", 0))
        engine, method = self.engine, self.command
        if path and path[0] not in engine.buckets:
            raise Refused(404, "NoSuchBucket")
        match method, command, len(path):
            case "HEAD", "", 1:
                return {}, b""
            case "GET", "transaction", 0:  # how the SDK asks for the release
                return {}, b""
            case "POST", "transaction", 0:
                return {"tabular-txid": str(engine.begin())}, b""
            case "PUT", "transaction", 0:
                engine.commit(txid)
            case "DELETE", "transaction", 0:
                engine.rollback(txid)
            case "GET", "schema", 1:
                return self._schemas(txid, path[0])
            case "POST", "schema", 2:
                engine.create_schema(txid, path)
            case "GET", "table", 2:
                return self._tables(txid, path)
            case "POST", "table", 3:
                engine.create_table(txid, path, pa.ipc.read_schema(pa.py_buffer(body)))
            case "GET", "column", 3:
                return _page(), self._columns(engine.columns(txid, path))
            case "GET", "sorted-columns", 3:
                raise Refused(400, "TabularNotSorted")
            case "POST", "column", 3:
                engine.add_columns(txid, path, pa.ipc.read_schema(pa.py_buffer(body)))
            case "GET", "stats", 3:
                return {}, _stats(engine.rows(txid, path))
            case "POST", "rows", 3:
                with pa.ipc.open_stream(body) as reader:
                    ids = engine.insert(txid, path, reader.read_all())
                return {}, _stream(pa.table({ROW_ID: ids}))
            case "PUT", "rows", 3:
                with pa.ipc.open_stream(body) as reader:
                    engine.update(txid, path, reader.read_next_batch())
            case "DELETE", "rows", 3:
                with pa.ipc.open_stream(body) as reader:
                    engine.delete(txid, path, reader.read_next_batch())
            case "GET", "data", 3:
                return {}, b"".join(self._query(engine.rows(txid, path), body))
            case _:
                raise Refused(501, f"NotImplemented {method} {command}")
        return {}, b""

    def _schemas(self, txid: int, bucket: str) -> tuple[dict[str, str], bytes]:
        name = self.headers["tabular-name-exact-match"]
        names = [name] if self.engine.has_schema(txid, (bucket, name)) else []
        return _page(), _listing(ListSchemasResponse, "Schemas", bucket, names)

    def _tables(self, txid: int, schema: Path) -> tuple[dict[str, str], bytes]:
        exact = self.headers.get("tabular-name-exact-match")
        names = [name for name in self.engine.tables(txid, schema) if exact in (None, name)]
        return _page(), _listing(ListTablesResponse, "Tables", schema[0], names, schema[1])

    def _columns(self, columns: pa.Schema) -> bytes:
        if self.server_version >= "vast 5.5":
            columns = pa.schema([field.with_metadata({"VAST:sort_type": "None"}) for field in columns])
        return _stream(columns.empty_table())

    def _query(self, rows: pa.Table, body: bytes) -> Iterator[bytes]:
        relation = Relation.Relation.GetRootAs(body)
        source = Source.Source()
        source.Init(relation.Impl().Bytes, relation.Impl().Pos)
        schema = source.Schema()
        names = [schema.Fields(index).Name().decode() for index in range(schema.FieldsLength())]
        leaves = [(name, steps) for name in names for steps in _leaves(rows.schema.field(name).type)]
        positions = _positions(rows.schema, names)
        matching = _evaluate(source.Filter(), rows, positions)
        projected = [positions[source.Projection(index).Position()] for index in range(source.ProjectionLength())]
        if any(leaf not in leaves for leaf in projected):
            raise Refused(400, "TabularBadProjection")
        split, splits, _ = map(int, self.headers["tabular-split"].split(","))
        parts = int(self.headers["tabular-num-of-subsplits"])
        most = int(self.headers["tabular-limit-rows"])
        ids = rows.column(ROW_ID).combine_chunks().cast(pa.int64())
        block = pc.divide(ids, _BLOCK).to_numpy(zero_copy_only=False) % (splits * parts)
        for part in range(parts):
            start = int(self.headers[f"tabular-start-row-id-{part}"].split(",")[1])
            if start == _NO_ROW:
                continue
            own = pa.array(block == split * parts + part)
            found = rows.filter(pc.and_(pc.and_(own, pc.greater_equal(ids, start)), pc.fill_null(matching, False)))
            more = found.num_rows > most
            following = found.column(ROW_ID)[most].as_py() if more else _NO_ROW
            found = found.slice(0, most)
            for name, steps in projected:
                leaf = _only(found.column(name).combine_chunks(), steps)
                for message in _messages(pa.table([leaf], names=[name])):
                    yield struct.pack("<LQ", part, following) + message
        yield struct.pack("<L", _DONE)


def _page() -> dict[str, str]:
    return {"tabular-next-key": "0", "tabular-is-truncated": "false"}


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _messages(table: pa.Table) -> Iterator[bytes]:
    """An Arrow stream in its messages: the schema, a batch, the end."""
    batch = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    yield table.schema.serialize().to_pybytes()
    yield batch[0].serialize().to_pybytes()
    yield b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _leaves(kind: pa.DataType) -> Iterator[tuple[int, ...]]:
    """The ways down to the scalars of a type; VAST DB sends each by itself, with the levels above it."""
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            for rest in _leaves(kind.field(index).type):
                yield (index, *rest)
    elif pa.types.is_list(kind):
        for rest in _leaves(kind.value_type):
            yield (0, *rest)
    else:
        yield ()


def _positions(schema: pa.Schema, names: list[str]) -> dict[int, tuple[str, tuple[int, ...]]]:
    """By its number in a request, each leaf: every level of every column is numbered, depth first."""
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    number = 0

    def walk(name: str, kind: pa.DataType, steps: tuple[int, ...]) -> None:
        nonlocal number
        own, number = number, number + 1
        if pa.types.is_struct(kind):
            for index in range(kind.num_fields):
                walk(name, kind.field(index).type, (*steps, index))
        elif pa.types.is_list(kind):
            walk(name, kind.value_type, (*steps, 0))
        else:
            found[own] = (name, steps)

    for name in names:
        walk(name, schema.field(name).type, ())
    return found


def _only(column: pa.Array, steps: tuple[int, ...]) -> pa.Array:
    """A column with one of its leaves and the levels above it."""
    if not steps:
        return column
    column = pa.concat_arrays([column])  # without an offset
    if pa.types.is_struct(column.type):
        child = column.type.field(steps[0])
        inner = _only(column.field(steps[0]), steps[1:])
        return pa.StructArray.from_arrays([inner], fields=[child.with_type(inner.type)], mask=column.is_null())
    inner = _only(column.values, steps[1:])
    kind = pa.list_(column.type.value_field.with_type(inner.type))
    return pa.ListArray.from_arrays(column.offsets, inner, type=kind, mask=column.is_null())


def _evaluate(expression: Any, rows: pa.Table, positions: dict[int, tuple[str, tuple[int, ...]]]) -> Any:
    """A decoded expression on stored rows: an array of truths, a column or a scalar."""
    impl, kind = expression.Impl(), expression.ImplType()
    if kind == ExpressionImpl.Call:
        call = Call.Call()
        call.Init(impl.Bytes, impl.Pos)
        name = call.Name().decode()
        arguments = [_evaluate(call.Arguments(index), rows, positions) for index in range(call.ArgumentsLength())]
        if name in ("and", "or"):
            empty = pa.chunked_array([pa.array([name == "and"] * rows.num_rows, pa.bool_())])
            return reduce(pc.and_kleene if name == "and" else pc.or_kleene, arguments, empty)
        if name not in _CALLS:
            raise Refused(501, f"NotImplemented {name}")
        if len(arguments) == 2:
            column, value = arguments
            return _CALLS[name](column, pa.scalar(value, column.type))
        return _CALLS[name](*arguments)
    if kind == ExpressionImpl.FieldRef:
        reference, index = FieldRef.FieldRef(), FieldIndex.FieldIndex()
        reference.Init(impl.Bytes, impl.Pos)
        index.Init(reference.Ref().Bytes, reference.Ref().Pos)
        name, steps = positions[index.Position()]
        if steps:
            raise Refused(501, "NotImplemented nested predicate")
        return rows.column(name)
    literal = Literal.Literal()
    literal.Init(impl.Bytes, impl.Pos)
    if literal.ImplType() == LiteralImpl.BinaryLiteral:
        value = BinaryLiteral.BinaryLiteral()
        value.Init(literal.Impl().Bytes, literal.Impl().Pos)
        return bytes(value.Value(index) for index in range(value.ValueLength()))
    held = _LITERALS[literal.ImplType()]()
    held.Init(literal.Impl().Bytes, literal.Impl().Pos)
    found = held.Value()
    return found.decode() if isinstance(found, bytes) else found


def _listing(response: Any, kind: str, bucket: str, names: list[str], schema: str = "") -> bytes:
    builder = flatbuffers.Builder(256)
    details = []
    for name in names:
        texts = [builder.CreateString(text) for text in (name, "", "1")]
        ObjectDetails.Start(builder)
        ObjectDetails.AddName(builder, texts[0])
        ObjectDetails.AddProperties(builder, texts[1])
        ObjectDetails.AddHandle(builder, texts[2])
        details.append(ObjectDetails.End(builder))
    getattr(response, f"Start{kind}Vector")(builder, len(details))
    for offset in reversed(details):
        builder.PrependUOffsetTRelative(offset)
    vector = builder.EndVector()
    own, above = builder.CreateString(bucket), builder.CreateString(schema)
    response.Start(builder)
    response.AddBucketName(builder, own)
    if kind == "Tables":
        response.AddSchemaName(builder, above)
    getattr(response, f"Add{kind}")(builder, vector)
    builder.Finish(response.End(builder))
    return bytes(builder.Output())


def _stats(rows: pa.Table) -> bytes:
    builder = flatbuffers.Builder(64)
    GetTableStatsResponse.Start(builder)
    GetTableStatsResponse.AddNumRows(builder, rows.num_rows)
    GetTableStatsResponse.AddSizeInBytes(builder, rows.nbytes)
    builder.Finish(GetTableStatsResponse.End(builder))
    return bytes(builder.Output())
