"""SQL over the tables: what there is, what is not allowed, and what of a table is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from headrace.catalog import INTERACTION_ROWS, RUNS, Store, Tier, stores
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
