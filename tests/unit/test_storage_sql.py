"""SQL over the tables, where no table is read: what there is, and what is not allowed."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.catalog import INTERACTION_ROWS, Tier, stores
from headrace.errors import WrongUsage
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


def test_a_query_without_tables_reads_none() -> None:
    assert rows("select 1 as one, 2.5 as more") == [{"one": 1, "more": 2.5}]


def test_columns_of_one_name_are_numbered() -> None:
    (row,) = rows("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS b")
    assert row == {"a": 1, "a_3": 2, "a_2": 3, "b": 4}
