"""Read-only SQL over the table tier, with DuckDB on Arrow: only the tables that a query names are read."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from headrace.catalog import Tier, stores
from headrace.errors import WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter


def select(query: str, endpoints: Endpoints, ledger: Ledger) -> list[dict[str, Any]]:
    """The rows of one SELECT. Raises `WrongUsage` for any other statement, or if DuckDB rejects it.

    The connection can neither open files nor reach the network, so an untrusted query can only read the tables.
    """
    tables = {store.table: store for store in stores(Tier.TABLE)}
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
            for name in _named(database, query) & set(tables):
                from headrace.storage.tables.handles import TableReader  # a query without tables need not import Iceberg

                reader = TableReader(tables[name], endpoints, Meter(ledger, "sql"))
                database.register(name, reader.read())
            database.execute("SET lock_configuration = true")
            # Through Arrow: DuckDB's own rows need pytz for a time with a zone.
            table: pa.Table = database.query(query).to_arrow_table()
            columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
            return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
        except duckdb.ParserException as error:
            hint = 'Put "at" and "offset" in double quotes: they are SQL keywords.'
            raise WrongUsage(str(error).splitlines()[0], hint=hint) from None
        except duckdb.Error as error:
            raise WrongUsage(str(error).splitlines()[0], hint=f"Tables: {', '.join(sorted(tables))}.") from None


def _named(database: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """The tables that a query names, in lower case; all of its words if DuckDB needs the tables to tell."""
    try:
        return {name.lower() for name in database.get_table_names(query)}
    except duckdb.BinderException:  # e.g. for JOIN … USING
        return set(re.findall(r"\w+", query.lower()))


def _plain(value: Any) -> Any:
    """A decimal (DuckDB's sum of integers) as int or float; other values unchanged."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
