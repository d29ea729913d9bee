"""The SQL databases that the metadata store can be in: SQLite under the home, or a schema of the user's PostgreSQL.

Statements are written once: their parameters as `:name`, the order by bytes as `COLLATE BINARY`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headrace.errors import BadSettings, HomeRefused, MissingPart, StorageFull, Unavailable
from headrace.storage.endpoints import Endpoints
from headrace.storage.reason import reason

if TYPE_CHECKING:
    import psycopg

_WAIT_S = 10.0
"""Seconds to wait for a lock, or for PostgreSQL to answer."""
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
"""SQLite's names for a full disk. The second is said if even the index beside its log finds no room."""
_CREATING = threading.Lock()
_LOCK = 0x68656164  # PostgreSQL's advisory lock for transactions that run alone


class Statements(Protocol):
    """Runs statements with `:name` parameters, in one transaction."""

    def __call__(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        ...

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each of these values."""
        ...


class Database(Protocol):
    """The interface of the two databases."""

    def transaction(self, *, writing: bool = False, alone: bool = False) -> contextlib.AbstractContextManager[Statements]:
        """A transaction, committed unless the block raises. Transactions with `alone` run one at a time."""
        ...

    def close(self) -> None: ...


def database_of(endpoints: Endpoints) -> Database:
    """The database that the endpoints name; in memory where they name none."""
    endpoint = endpoints.metadata
    if endpoint is None:
        return SQLiteDatabase(None)
    return PostgreSQLDatabase(endpoint.url, endpoint.db_schema) if endpoint.url else SQLiteDatabase(endpoint.file)


class SQLiteDatabase:
    """An SQLite file in the home, mode 0600, or a database in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def transaction(self, *, writing: bool = False, alone: bool = False) -> Iterator[Statements]:
        with self._faults():
            connection = self._connect()
            # SQLite fails at once, without waiting, when a transaction that has read wants to write beside another writer.
            connection.execute("BEGIN IMMEDIATE" if writing or alone else "BEGIN")
        try:
            yield self
            with self._faults():
                connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __call__(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._faults():
            return self._connect().execute(statement, dict(values)).fetchall()

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._faults():
            self._connect().executemany(statement, rows)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._path is not None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with _CREATING:
                    # Closing a file releases the locks of all connections of this process: never open one that exists.
                    if not self._path.exists():
                        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path or ":memory:", timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                end = time.monotonic() + _WAIT_S
                while True:
                    try:
                        connection.execute("PRAGMA journal_mode = WAL")
                        break
                    except sqlite3.OperationalError as error:
                        # This statement alone does not wait while another process executes it.
                        if "locked" not in str(error) or time.monotonic() > end:
                            raise
                        time.sleep(0.02)
                connection.execute("PRAGMA synchronous = FULL")  # a key handed out must survive a power loss
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA secure_delete = ON")  # what was forgotten leaves no trace in the file
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = str(error)
            if "locked" in message or "busy" in message:
                raise Unavailable(
                    f"The metadata store {self._path} was locked for {_WAIT_S:g} s.",
                    hint="Another process is writing to it; run the command again when that has ended.",
                ) from error
            if getattr(error, "sqlite_errorname", "") in _FULL:
                raise StorageFull(f"No space left to write {self._path}.", hint="Free some space and run again.") from error
            raise HomeRefused(
                f"The metadata store {self._path} cannot be used: {message}.",
                hint="Check its owner and mode; if it is damaged, restore it from a backup.",
            ) from error
        except OSError as error:
            raise HomeRefused(
                f"{self._path} cannot be created: {error.strerror or error}.",
                hint="Name a directory of your own with --home DIR.",
            ) from error


class PostgreSQLDatabase:
    """A schema of a PostgreSQL database."""

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._schema = url, schema
        self._connection: psycopg.Connection | None = None

    @contextlib.contextmanager
    def transaction(self, *, writing: bool = False, alone: bool = False) -> Iterator[Statements]:
        with self._faults():
            self._begin()
        try:
            if alone:
                self(f"SELECT pg_advisory_xact_lock({_LOCK})", {})
                # A migration, or a copy that is made anew, takes as long as there is much; given up, it would be for ever.
                self("SET LOCAL statement_timeout = 0", {})
            yield self
            self("COMMIT", {})
        except BaseException:
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def _begin(self) -> None:
        known = self._connection is not None
        try:
            self._connect().execute("BEGIN")
        except _psycopg().OperationalError:
            if not known:
                raise
            self.close()  # e.g. the server was restarted since the last use
            self._connect().execute("BEGIN")

    def __call__(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._faults():
            cursor = self._connect().execute(_named(statement), values or None)
            return cursor.fetchall() if cursor.description else []

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._faults(), self._connect().cursor() as cursor:
            cursor.executemany(_named(statement), rows)

    def _connect(self) -> psycopg.Connection:
        if self._connection is None:
            module = _psycopg()
            connection = module.connect(self._url, autocommit=True, connect_timeout=int(_WAIT_S), application_name="headrace")
            try:
                for name in ("lock_timeout", "statement_timeout"):
                    connection.execute(f"SET {name} = '{int(_WAIT_S)}s'")
                # Releases the locks of a dead process at once; servers before 14 do not have this setting.
                with contextlib.suppress(module.Error):
                    connection.execute("SET client_connection_check_interval = '1s'")
                schema = connection.execute("SELECT to_regnamespace(%s)", (f'"{self._schema}"',)).fetchone()
                if schema is None or schema[0] is None:
                    # IF NOT EXISTS is not safe when two processes create the schema at once.
                    with contextlib.suppress(module.errors.UniqueViolation, module.errors.DuplicateSchema):
                        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
                connection.execute(f'SET search_path TO "{self._schema}"')
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        module = _psycopg()
        errors = module.errors
        try:
            yield
        except module.Error as error:
            where = f"The metadata store {self._where()}"
            message = reason(error)
            if isinstance(error, errors.DiskFull):
                raise StorageFull(
                    f"{where} has no space left: {message}.", hint="Free some space there and run again."
                ) from error
            if isinstance(error, (errors.LockNotAvailable, errors.QueryCanceled)):
                raise Unavailable(
                    f"{where} was locked for {_WAIT_S:g} s.",
                    hint="Another process is writing to it; run the command again when that has ended.",
                ) from error
            rejected = re.search(r"authentication failed|does not exist|no pg_hba|no password", message)
            if isinstance(error, module.OperationalError) and not rejected:
                self.close()
                raise Unavailable(
                    f"{where} does not answer: {message}.",
                    hint="Check that PostgreSQL runs there, check url under [metadata], and run the command again.",
                ) from error
            raise BadSettings(
                f"{where} rejects the connection: {message}.",
                hint="Check url under [metadata]: its user must own the schema or be allowed to create it.",
            ) from error

    def _where(self) -> str:
        """The database's name and address, without the password."""
        try:
            known = _psycopg().conninfo.conninfo_to_dict(self._url)
        except _psycopg().Error:
            return "named by url"
        return f"{known.get('dbname', 'postgres')} at {known.get('host', 'localhost')}:{known.get('port', 5432)}"


def _named(statement: str) -> bytes:
    """The statement with parameters and the order by bytes as PostgreSQL writes them."""
    return re.sub(r":(\w+)", r"%(\1)s", statement).replace("COLLATE BINARY", 'COLLATE "C"').encode()


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg.conninfo
    except ModuleNotFoundError as error:
        raise MissingPart(
            f"[metadata] names PostgreSQL, but the package {error.name} is not installed.",
            hint="Run make install-postgresql, or pip install 'headrace[postgresql]'.",
        ) from None
    return psycopg
