"""Read-only SQL over the table tier, with DuckDB on Arrow: only the tables and columns that a query needs are read.

A table that it scans once is streamed; one that it scans again, as a join with itself does, is read into memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from headrace.catalog import Store, Tier, stores
from headrace.errors import HeadraceError, WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

if TYPE_CHECKING:
    from headrace.storage.tables.handles import TableReader

_LISTING = re.compile(r"\s*(?:show\s+tables|(?:describe|desc|show)\s+(\w+|\"\w+\"))\s*;?\s*", re.IGNORECASE)
"""What people type to find their way; the tables of a query are only read once it names them, so DuckDB knows none."""


def select(query: str, endpoints: Endpoints, ledger: Ledger) -> list[dict[str, Any]]:
    """The rows of one SELECT, of `SHOW TABLES` or of `DESCRIBE table`.

    Raises `WrongUsage` for any other statement, or if DuckDB rejects it.

    The connection can neither open files nor reach the network, so an untrusted query can only read the tables.
    """
    tables = {store.table: store for store in stores(Tier.TABLE)}
    if (found := _LISTING.fullmatch(query)) is not None:
        return _listing(tables, (found[1] or "").strip('"').lower())
    failed: list[HeadraceError] = []  # while DuckDB reads, which would report it as the query's fault
    with duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "temp_directory": "",  # otherwise DuckDB uses `.tmp` in the current directory
        },
    ) as database:
        try:
            statements = database.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise WrongUsage("Only a single SELECT is allowed.", hint=f"Tables: {', '.join(sorted(tables))}.")
            named = {name: tables[name] for name in _named(database, query) & set(tables)}
            wanted, once = _scanned(database, query, named)
            for name, store in named.items():
                from headrace.storage.tables.handles import TableReader  # a query without tables need not import Iceberg

                reader = TableReader(store, endpoints, Meter(ledger, "sql"))
                rows = pa.RecordBatchReader.from_batches(store.columns, _read(reader, wanted, failed))
                database.register(name, rows if once else rows.read_all())
            database.execute("SET lock_configuration = true")
            # Through Arrow: DuckDB's own rows need pytz for a time with a zone.
            table: pa.Table = database.query(query).to_arrow_table()
            columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
            names = _apart(table.column_names)
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        except pa.ArrowException as error:
            raise (failed or [error])[0] from None
        except duckdb.ParserException as error:
            keyword = re.search(r'(?<!")\b(?:at|offset)\b(?!")', query, re.IGNORECASE)
            hint = 'Put "at" and "offset" in double quotes: they are SQL keywords.' if keyword else "Queries are DuckDB's SQL."
            raise WrongUsage(str(error).splitlines()[0], hint=hint) from None
        except duckdb.Error as error:
            if failed:
                raise failed[0] from None
            raise WrongUsage(str(error).splitlines()[0], hint=f"Tables: {', '.join(sorted(tables))}.") from None


def _listing(tables: Mapping[str, Store], name: str) -> list[dict[str, Any]]:
    """The tables there are, or the columns of one."""
    if not name:
        return [{"table": table, "columns": len(tables[table].columns)} for table in sorted(tables)]
    if name not in tables:
        raise WrongUsage(f"There is no table {name}.", hint=f"Tables: {', '.join(sorted(tables))}.")
    return [{"column": column.name, "type": str(column.type)} for column in tables[name].columns]


def _named(database: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """The tables that a query names, in lower case; all of its words if DuckDB needs the tables to tell."""
    try:
        return {name.lower() for name in database.get_table_names(query)}
    except duckdb.BinderException:  # e.g. for JOIN … USING
        return set(re.findall(r"\w+", query.lower()))


def _scanned(database: duckdb.DuckDBPyConnection, query: str, named: Mapping[str, Store]) -> tuple[set[str], bool]:
    """The columns that a query reads, of all tables together, and whether it scans one table once and no other.

    By DuckDB's own plan, over tables of one empty row.
    """
    if not named:
        return set(), False
    for name, store in named.items():
        database.register(name, pa.table([pa.nulls(1, field.type) for field in store.columns], store.columns.names))
    usual = _scans(database, query)
    # Otherwise columns that only a filter reads would not be among those of the scan.
    database.execute("SET disabled_optimizers = 'filter_pushdown,statistics_propagation'")
    scans = _scans(database, query)
    database.execute("RESET disabled_optimizers")
    return set().union(*scans), len(usual) == len(scans) == 1


def _scans(database: duckdb.DuckDBPyConnection, query: str) -> list[set[str]]:
    """The columns of each scan of a table in the plan of a query."""

    def below(nodes: Sequence[dict[str, Any]]) -> Iterator[set[str]]:
        for node in nodes:
            if node["name"].strip() == "PYTHON_ARROW_SCAN":
                columns = node["extra_info"].get("Projections", [])
                yield {columns} if isinstance(columns, str) else set(columns)
            yield from below(node["children"])

    return list(below(json.loads(database.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchall()[0][1])))


def _read(table: TableReader, wanted: set[str], failed: list[HeadraceError]) -> Iterator[pa.RecordBatch]:
    """All rows of a table, in its schema; null in the columns that are not wanted. An error is also added to `failed`."""
    try:
        yield from _filled(table, wanted)
    except HeadraceError as error:
        failed.append(error)
        raise


def _filled(table: TableReader, wanted: set[str]) -> Iterator[pa.RecordBatch]:
    columns = tuple(name for name in table.store.columns.names if name in wanted) or (table.store.columns.names[0],)
    nulls: dict[str, pa.Array] = {}  # shared by the batches
    for rows in table.scan(columns):
        arrays = []
        for field in table.store.columns:
            if field.name in columns:
                arrays.append(rows.column(field.name))
                continue
            if len(nulls.get(field.name, ())) < rows.num_rows:
                nulls[field.name] = pa.nulls(rows.num_rows, field.type)
            arrays.append(nulls[field.name].slice(0, rows.num_rows))
        yield pa.RecordBatch.from_arrays(arrays, schema=table.store.columns)


def _apart(names: Sequence[str]) -> list[str]:
    """The names of columns, each once: the second `uri` of a join is `uri_2`."""
    taken: list[str] = []
    for name in names:
        number, one = 2, name
        while one in taken or (one != name and one in names):
            one, number = f"{name}_{number}", number + 1
        taken.append(one)
    return taken


def _plain(value: Any) -> Any:
    """A decimal (DuckDB's sum of integers) as int or float; other values unchanged."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
