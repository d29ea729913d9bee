"""SQL over the tables: what there is, what is not allowed, and what of a table is read."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from headrace.catalog import INTERACTION_ROWS, LEDGER, RUNS, Store, Tier, stores
from headrace.errors import Unavailable, WrongUsage
from headrace.storage.ledger import Ledger
from headrace.storage.sql import select


def rows(query: str) -> list[dict[str, Any]]:
    return select(query, None, Ledger())  # type: ignore[arg-type]  # no table is opened


@pytest.mark.parametrize("query", ["show tables", "SHOW TABLES;", "  show\n tables "])
def test_the_tables_are_listed(query: str) -> None:
    assert [row["table"] for row in rows(query)] == sorted(store.table for store in stores(Tier.TABLE))
    assert all(row["columns"] for row in rows(query))


@pytest.mark.parametrize("query", ["describe interactions", "DESC interactions", 'show "interactions"'])
def test_the_columns_of_one_are_listed(query: str) -> None:
    assert [row["column"] for row in rows(query)] == [column.name for column in INTERACTION_ROWS.columns]


def test_a_table_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(WrongUsage, match="There is no table nosuch") as found:
        rows("describe nosuch")
    assert "interactions" in found.value.hint


@pytest.mark.parametrize("query", ["drop table documents", "select 1; select 2", "copy (select 1) to 'x'", ""])
def test_only_one_select_is_allowed(query: str) -> None:
    with pytest.raises(WrongUsage, match=r"Only a single SELECT|syntax"):
        rows(query)


@pytest.mark.parametrize(
    ("query", "hint"),
    [("SELECT FROM WHERE", "DuckDB"), ("SELECT min(at) FROM runs", "keywords"), ('SELECT "at" x y FROM runs', "DuckDB")],
)
def test_a_syntax_error_names_keywords_only_where_there_are_some(query: str, hint: str) -> None:
    with pytest.raises(WrongUsage) as found:
        rows(query)
    assert hint in found.value.hint


def test_a_query_without_tables_reads_none() -> None:
    assert rows("select 1 as one, 2.5 as more") == [{"one": 1, "more": 2.5}]


def test_columns_of_one_name_are_numbered() -> None:
    (row,) = rows("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS b")
    assert row == {"a": 1, "a_3": 2, "a_2": 3, "b": 4}


class InMemory:
    """A table of runs in three batches, which notes each scan and its columns."""

    scanned: ClassVar[list[tuple[str, ...]]] = []
    fails = False

    def __init__(self, store: Store, *_: object) -> None:
        assert store == RUNS
        self.store = store

    def scan(self, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        self.scanned.append(columns)
        for number in range(3):
            row = {"run": f"r{number}", "command": "ask", "state": "done", "detail": "{}", "started": None, "ended": None}
            schema = pa.schema([RUNS.columns.field(name) for name in columns])
            yield pa.RecordBatch.from_pylist([{name: row[name] for name in columns}] * (number + 1), schema)
            if self.fails:
                raise Unavailable("The object store does not answer.")


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    monkeypatch.setattr("headrace.storage.tables.handles.TableReader", InMemory)
    monkeypatch.setattr(InMemory, "scanned", [])
    return InMemory.scanned


@pytest.mark.parametrize(
    ("query", "columns", "found"),
    [
        ("select count(*) as n from runs", ("run",), [{"n": 6}]),
        ("SELECT RUN FROM RUNS WHERE STATE = 'done' AND RUN <> 'r2' ORDER BY 1 LIMIT 1", ("run", "state"), [{"run": "r0"}]),
        ("select count(*) as n from runs a join runs b using (run)", ("run",), [{"n": 1 + 4 + 9}]),
        ("with a as (select * from runs) select count(*) as n from a x, a y", ("run",), [{"n": 36}]),
        ("select count(*) as n from (select run, detail from runs) where run = 'r1'", ("run",), [{"n": 2}]),
        ("select run from runs where 1 = 0", ("run",), []),
    ],
)
def test_a_query_reads_the_columns_it_needs_once(
    query: str, columns: tuple[str, ...], found: list[dict[str, Any]], scanned: list[tuple[str, ...]]
) -> None:
    assert rows(query) == found
    assert [set(one) for one in scanned] == [set(columns)]


def test_a_whole_row_has_all_columns(scanned: list[tuple[str, ...]]) -> None:
    (row,) = rows("select r from runs r where run = 'r0'")
    assert row["r"]["detail"] == "{}"
    assert len(scanned[0]) == len(RUNS.columns)


@pytest.mark.parametrize("query", ["select count(*) from runs", "select count(*) from runs a, runs b"])
def test_storage_that_fails_while_a_query_reads_is_named(
    query: str, scanned: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InMemory, "fails", True)
    with pytest.raises(Unavailable, match="object store does not answer"):
        rows(query)


STAGES = ("put", "land", "parse", "chunk")
LEDGER_ROWS: list[dict[str, Any]] = [
    {
        **{"run": f"r{n % 3}", "stage": STAGES[n % 4], "store": f"s{n % 2}", "tier": "object" if n % 3 else "table"},
        **{"direction": "read" if n % 2 else "write", "tenant": f"t{n % 4}", "ops": n, "bytes": n * n, "p50_ms": n / 4},
        **{"p95_ms": n / 2, "max_ms": float(n), "estimated": n % 5 == 0},
    }
    for n in range(1, 24)
]
RUN_ROWS: list[dict[str, Any]] = [
    {
        "run": f"r{n}",
        "command": ("ask", "index")[n % 2],
        "state": "done",
        "detail": f'{{"n": {n}}}',
        "started": None,
        "ended": None,
    }
    for n in range(4)
]
TABLES = {LEDGER: pa.Table.from_pylist(LEDGER_ROWS, LEDGER.columns), RUNS: pa.Table.from_pylist(RUN_ROWS, RUNS.columns)}


def _plain(value: Any) -> Any:
    """Sums of integers are decimals in Arrow; `select` gives an int."""
    return int(value) if isinstance(value, Decimal) else value


class Pruned:
    """One of these tables, of which a scan has the columns that are asked for."""

    def __init__(self, store: Store, *_: object) -> None:
        self.store = store

    def scan(self, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        yield from TABLES[self.store].select(list(columns)).to_batches(max_chunksize=5)


TEXTS = st.sampled_from(["run", "stage", "store", "tier", "direction", "tenant"])
NUMBERS = st.sampled_from(["ops", "bytes", "p50_ms", "p95_ms", "max_ms"])
CONDITIONS = st.one_of(
    st.builds("{} > {}".format, NUMBERS, st.integers(0, 20)),
    st.builds("{} <> '{}'".format, TEXTS, st.sampled_from(["r1", "put", "s0", "object", "read", "t2"])),
    st.builds("{} between {} and max_ms".format, NUMBERS, st.integers(0, 5)),
    st.just("estimated"),
    st.builds("run in (select run from runs where command = '{}')".format, st.sampled_from(["ask", "index"])),
    st.builds("exists (select 1 from ledger b where b.{0} = a.{0} and b.ops > a.ops)".format, TEXTS),
    st.builds("{0} = (select max({0}) from ledger)".format, NUMBERS),
)
SHAPES = [
    "select {t} from ledger a where {c}",
    "select a.{t}, {n} + 1 as m from ledger a where {c} or not ({d})",
    "select * from ledger a where {c}",
    "select * exclude ({t}, {n}) from ledger a where {c} and {d}",
    "select columns('.*s$') from ledger a where {c}",
    "select a from ledger a where {c}",
    "select count(*) as n from ledger a where {c}",
    "select {t}, sum({n}) as s, count(distinct {u}) as k from ledger a where {c} group by {t}",
    "select {t}, max({n}) filter (where {c}) as m from ledger a group by all having count({u}) > 1",
    "select distinct on ({t}) {t}, {n} from ledger a where {c} order by {t}, ops",
    "select {t}, {n}, row_number() over (partition by {u} order by ops) as r from ledger a where {c}",
    "select {t} from ledger a where {c} qualify rank() over (partition by {u} order by {n}, ops) = 1",
    "select {u} from ledger a where {c} order by ops desc limit 3",
    "with w as (select * from ledger a where {c}) select {t}, avg({n}) as m from w group by 1",
    "with w as (select {t} as x, {n} as y from ledger a where {c}) select x, sum(y) as s from w group by x",
    "with w as (select * from ledger a where {c}) select x.{t}, y.{n} from w x join w y using (ops)",
    "select {t} from ledger a where {c} union select command from runs",
    "select {t}, {n} from ledger a except select {t}, {n} from ledger a where {c}",
    "select command, sum({n}) as s from ledger a join runs using (run) where {c} group by 1",
    "select r.detail, a.{t} from runs r left join ledger a on a.run = r.run and {n} > 3",
    "select r.run, x.m from runs r, lateral (select max({n}) as m from ledger a where a.run = r.run) x",
    "select case when {c} then {t} else {u} end as x, {n} from ledger a",
    "select {t}, list({n} order by ops) as l from ledger a where {c} group by {t}",
    "select (select count(*) from runs r where r.run = a.run) as n, {t} from ledger a where {c}",
    "select {n} as {t} from ledger a where {c}",
    "from ledger a select {t}, {u} where {c}",
    "select x from (select {t} as x, {n} as y, {u} as z from ledger a) where z is not null and y > 2",
    "unpivot (select ops, bytes, {t} as word from ledger) on ops, bytes",
    "select struct_pack(a := {t}, b := {n}).b as b from ledger a where {c}",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(SHAPES), t=TEXTS, u=TEXTS, n=NUMBERS, c=CONDITIONS, d=CONDITIONS)
def test_what_is_read_of_a_table_answers_as_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, shape: str, t: str, u: str, n: str, c: str, d: str
) -> None:
    query = shape.format(t=t, u=u, n=n, c=c, d=d)
    with duckdb.connect(":memory:") as database:
        for store, table in TABLES.items():
            database.register(store.table, table)
        try:
            expected = database.query(query).to_arrow_table()
        except duckdb.Error:  # e.g. one column twice in what is packed
            reject()
    monkeypatch.setattr("headrace.storage.tables.handles.TableReader", Pruned)
    found = rows(query)
    whole = [tuple(row) for row in zip(*(column.to_pylist() for column in expected.columns), strict=True)]
    assert sorted(map(str, (tuple(row.values()) for row in found))) == sorted(
        map(str, (tuple(map(_plain, row)) for row in whole))
    )
