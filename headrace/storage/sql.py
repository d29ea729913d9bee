"""Read-only SQL over the table tier, with DuckDB on Arrow: only the tables that a query names are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from headrace.catalog import Store, Tier, stores
from headrace.errors import WrongUsage
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

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
            names = _apart(table.column_names)
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        except duckdb.ParserException as error:
            hint = 'Put "at" and "offset" in double quotes: they are SQL keywords.'
            raise WrongUsage(str(error).splitlines()[0], hint=hint) from None
        except duckdb.Error as error:
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
