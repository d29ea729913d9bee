"""The parts of the VAST DB store that need no server: conditions split in two, wide cells, requests, settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysFalse, AlwaysTrue, EqualTo, NotNaN, Or

from headrace.errors import BadSettings
from headrace.platform.address import brought, overlay
from headrace.settings import Settings
from headrace.storage.endpoints import Endpoints, ModelEndpoint
from headrace.storage.tables.handles import quoted
from headrace.storage.tables.predicate import Term, split
from headrace.storage.tables.vast import oversized as wide
from headrace.storage.tables.vast.columns import _REQUEST, requests_of, same, stored

COLUMNS = pa.schema(
    [
        pa.field("a", pa.int32(), nullable=False),
        pa.field("b", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("f", pa.float64()),
        pa.field("s", pa.struct([pa.field("a", pa.int32())])),
    ]
)


def test_what_can_be_asked_is_asked_and_the_rest_is_left() -> None:
    found = split("a = 1 and (b = 'x' or b = 'y') and (a = 2 or b = 'z') and f > 0.5", COLUMNS, lambda term: term.column != "f")
    assert found.pushed_down == ((Term("a", "==", (1,)),), (Term("b", "==", ("x",)), Term("b", "==", ("y",))))
    assert set(found.columns) == {"a", "b", "f"}
    rows = pa.table({"a": [2, 3, 3, 2], "b": ["q", "z", "q", "q"], "f": [1.0, 1.0, 1.0, None]}).cast(
        pa.schema([COLUMNS.field(name) for name in ("a", "b", "f")])
    )
    assert rows.filter(found.rest).to_pydict() == {"a": [2, 3], "b": ["q", "z"], "f": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("where", "term"),
    [
        ("a != 3", Term("a", "!=", (3,))),
        ("not a < 3", Term("a", ">=", (3,))),
        ("b in ('q', 'p')", Term("b", "in", ("p", "q"))),
        ("b is null", Term("b", "is null")),
        ("not b is null", Term("b", "not null")),
        ("b like 'p%'", Term("b", "starts with", ("p",))),
        ("at < '2026-01-01T01:00:00+01:00'", Term("at", "<", (datetime(2026, 1, 1, tzinfo=UTC),))),
        ("a is null", Term("a", "is null")),  # required today, null in rows of before it was there
    ],
)
def test_terms(where: str, term: Term) -> None:
    found = split(where, COLUMNS, lambda term: True)
    assert (found.pushed_down, found.rest, found.columns) == (((term,),), None, ())


@pytest.mark.parametrize(
    "name",
    ["a\\", "CORP\\xavier", "a\nb\r", "o'brien", "'", "''", "\\'", "x' OR b = 'y", "%", "like 'a", "\0", "\0001", "", "日本"],
)
def test_any_name_can_be_asked_for(name: str) -> None:
    for where, found in (
        (f"b = {quoted(name)}", (name,)),
        (f"a = 1 AND (b in ({quoted(name)}, 'z', {quoted(name + '!')}))", (name, f"{name}!", "z")),
        (f"not (b != {quoted(name)})", (name,)),
    ):
        asked = split(where, COLUMNS, lambda term: True).pushed_down
        assert sorted(asked[-1][0].values) == sorted(found), where
        assert len(asked) == 1 + where.count("AND"), "nothing of a name is a condition"


def test_what_is_no_term_is_left() -> None:
    for where in (NotNaN("f"), AlwaysFalse(), EqualTo("s.a", 1), Or(EqualTo("a", 1), NotNaN("f")), "b not in ('x', 'y')"):
        found = split(where, COLUMNS, lambda term: True)
        assert found.pushed_down == ()
        assert found.rest is not None, where
    assert split(EqualTo("s.a", 1), COLUMNS, lambda term: True).columns == ("s",)
    assert split(AlwaysTrue(), COLUMNS, lambda term: True).rest is None


def test_a_column_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        split("nowhere = 1", COLUMNS, lambda term: True)


def test_wide_cells_are_cut_and_mended() -> None:
    rows = pa.table(
        {
            "n": [0, 1, 2],
            "text": ["short", "w" * (2 * wide.LIMIT + 1), None],
            "list": [[1, 2], None, list(range(wide.LIMIT))],
            "blob": pa.array([b"", b"\x00" * wide.LIMIT, b"\x01" * (wide.LIMIT + 1)], pa.binary()),
        }
    )
    narrow, pieces = wide.cut(rows)
    assert narrow.column("text").to_pylist() == ["short", None, None]
    assert narrow.column("list").to_pylist() == [[1, 2], None, None]
    assert narrow.column("blob").to_pylist() == [b"", b"\x00" * wide.LIMIT, None]
    assert [text is None for text in narrow.column(wide.WIDE).to_pylist()] == [True, False, False]
    assert max(len(piece) for piece in pieces.column("bytes").to_pylist()) <= wide.LIMIT
    backwards = pieces.take(list(range(pieces.num_rows))[::-1])
    asked: list[list[str]] = []

    def held(cells: list[str]) -> pa.Table:
        asked.append(cells)
        return backwards

    (batch,) = narrow.combine_chunks().to_batches()
    assert pa.Table.from_batches([wide.mend(batch, held)]).equals(rows)
    only = wide.mend(batch.select(["n", wide.WIDE]), held)
    assert only.to_pydict() == {"n": [0, 1, 2]}
    assert [len(cells) for cells in asked] == [3]  # nothing was asked for columns that nobody wants


def test_rows_that_are_not_wide_make_no_pieces() -> None:
    narrow, pieces = wide.cut(pa.table({"text": ["a" * 1000] * 1000}))
    assert (pieces.num_rows, narrow.column(wide.WIDE).null_count) == (0, 1000)


def test_requests_hold_every_row_once_and_none_too_many() -> None:
    batch = pa.record_batch({"n": list(range(1000)), "text": ["x" * 20_000] * 999 + ["y" * (_REQUEST + 1)]})
    requests = list(requests_of(batch))
    assert [n for request in requests for n in request.column("n").to_pylist()] == list(range(1000))
    assert all(request.num_rows == 1 or pa.ipc.get_record_batch_size(request) <= _REQUEST for request in requests)
    assert len(requests) < 40
    assert list(requests_of(batch.slice(0, 0))) == []


def test_times_are_kept_without_a_zone_and_everything_may_be_null() -> None:
    field = pa.field("x", pa.list_(pa.struct([pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False)])), nullable=False)
    kept = pa.list_(pa.field("item", pa.struct([pa.field("at", pa.timestamp("us"))])))
    assert stored(field).equals(pa.field("x", kept))
    assert same(pa.list_(pa.field("element", pa.int32(), nullable=False)), pa.list_(pa.int32()))
    assert not same(pa.list_(pa.int32()), pa.list_(pa.int64()))


def test_settings_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text('[tables]\ntype = "vast"\nendpoint = "https://vast.example.net"\naccess_key = "AK"\nbucket = "lake"\n')
    monkeypatch.setenv("HEADRACE_SETTINGS", str(path))
    with pytest.raises(BadSettings, match="secret_key"):
        Settings.load()
    monkeypatch.setenv("HEADRACE_TABLES__SECRET_KEY", "hidden")
    settings = Settings.load()
    assert "hidden" not in repr(settings)
    model = ModelEndpoint(url="", model="")
    unused = ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_region", "bucket", "warehouse", "vectors_uri")
    embedded = Endpoints(
        **dict.fromkeys(unused, ""),
        catalog_uri="http://127.0.0.1:1",
        kafka_bootstrap="",
        files_dir=tmp_path,
        kv_cache_bytes=0,
        embedder=model,
        reranker=model,
        generator=model,
    )
    assert embedded.vast is None
    found = overlay(embedded, brought(settings)).vast
    assert found is not None
    assert (found.endpoint, found.bucket, found.db_schema, found.secret_key) == (
        "https://vast.example.net",
        "lake",
        "headrace",
        "hidden",
    )
    path.write_text(path.read_text() + 'db_schema = "a b"\n')
    with pytest.raises(BadSettings, match="db_schema"):
        Settings.load()
