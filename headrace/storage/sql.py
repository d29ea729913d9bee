"""Read-only SQL over the table tier, by DuckDB on Arrow: what a query names is scanned, nothing else is reachable."""

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
    """The rows of one SELECT. Raises `WrongUsage` for anything else, or where DuckDB refuses it.

    The connection can neither open files nor reach the network, so that a query from a stranger reads the tables and no more.
    """
    tables = {store.table: store for store in stores(Tier.TABLE)}
    with duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "temp_directory": "",  # else it may read and write `.tmp` of the current directory, whosever that is
        },
    ) as database:
        try:
            statements = database.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise WrongUsage("Only one SELECT is taken.", hint=f"Tables: {', '.join(sorted(tables))}.")
            for name in _named(database, query) & set(tables):
                from headrace.storage.tables.handles import TableReader  # a query of no table does without Iceberg

                reader = TableReader(tables[name], endpoints, Meter(ledger, "sql"))
                database.register(name, reader.read())
            database.execute("SET lock_configuration = true")
            # By way of Arrow: DuckDB's own rows want pytz for a time with a zone.
            table: pa.Table = database.query(query).to_arrow_table()
            columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
            return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
        except duckdb.ParserException as error:
            hint = 'Put "at" and "offset" in double quotes: they are words of SQL.'
            raise WrongUsage(str(error).splitlines()[0], hint=hint) from None
        except duckdb.Error as error:
            raise WrongUsage(str(error).splitlines()[0], hint=f"Tables: {', '.join(sorted(tables))}.") from None


def _named(database: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """The tables a query names, in lower case; all its words where DuckDB cannot tell before the tables are there."""
    try:
        return {name.lower() for name in database.get_table_names(query)}
    except duckdb.BinderException:  # JOIN … USING, for one
        return set(re.findall(r"\w+", query.lower()))


def _plain(value: Any) -> Any:
    """A decimal, which is what DuckDB sums whole numbers into, as the number it is."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
