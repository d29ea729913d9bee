"""The metadata store: tenants and API keys, in SQLite under the home or in the user's PostgreSQL.

It also keeps, by key, what the tables say of each document (`documents/lookup.py`); all of that can be made again from them.

It also buffers audit lines until the audit table has them, so that a change and its line are one transaction.

It holds control data, not pipeline data, so it has no tier, no lane in the diagram and no ledger rows.

An API key is `hr_ID_SECRET` with a secret of 256 random bits. Only its HMAC-SHA256 under the key's id is stored: a secret of this
length cannot be guessed at any speed, so a slow hash would cost time on every request and protect nothing. The id salts the hash
and finds the row; it is not secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headrace.errors import (
    BadSettings,
    Forbidden,
    HeadraceError,
    HomeRefused,
    MissingPart,
    NotFound,
    QuotaReached,
    StorageFull,
    Unavailable,
    WrongUsage,
)
from headrace.storage.endpoints import Endpoints
from headrace.storage.reason import reason

if TYPE_CHECKING:
    import psycopg

NO_TRAINING, SHARED = "none", "shared"
"""What may learn from a tenant's verdicts: nothing, or the models served to all tenants."""
TRAINING = (NO_TRAINING, SHARED)

# One entry per version, each applied once in its own transaction. Append entries; never change one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE tenants (
            name TEXT PRIMARY KEY,
            created_at TEXT NOT NULL,
            quotas TEXT NOT NULL
        )""",
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL REFERENCES tenants (name),
            hash TEXT NOT NULL,
            scopes TEXT NOT NULL,
            created_at TEXT NOT NULL,
            revoked_at TEXT,
            last_used_at TEXT,
            label TEXT NOT NULL
        )""",
        "CREATE INDEX api_keys_tenant ON api_keys (tenant)",
    ),
    (
        # Lines not yet in the audit table; `batch` names lines that are appended together.
        "CREATE TABLE audit_pending (id TEXT PRIMARY KEY, at TEXT NOT NULL, line TEXT NOT NULL, batch TEXT)",
        "CREATE INDEX audit_pending_batch ON audit_pending (batch)",
    ),
    (
        # The readers a key is restricted to, as a JSON list; null: unrestricted.
        "ALTER TABLE api_keys ADD COLUMN readers TEXT",
    ),
    ("ALTER TABLE tenants ADD COLUMN training TEXT NOT NULL DEFAULT 'none'",),
    (
        # The key that its verdicts count as; null: itself. For keys created by a tenant: the key that created them.
        "ALTER TABLE api_keys ADD COLUMN voter TEXT",
    ),
    (
        # What tables say, by key (`documents/lookup.py`): a copy that can be made again. `scope` is a table's identity, hashed.
        "CREATE TABLE table_copies (scope BIGINT PRIMARY KEY, revision TEXT NOT NULL)",
        """CREATE TABLE document_rows (
            scope BIGINT NOT NULL,
            document_id TEXT NOT NULL,
            topic TEXT NOT NULL,
            part INTEGER NOT NULL,
            position BIGINT NOT NULL,
            status TEXT NOT NULL,
            tenant TEXT NOT NULL,
            version TEXT NOT NULL,
            fields TEXT NOT NULL,
            PRIMARY KEY (scope, document_id, topic, part, position, status)
        )""",
        "CREATE INDEX document_rows_version ON document_rows (scope, tenant, version)",
        """CREATE TABLE document_states (
            scope BIGINT NOT NULL,
            document_id TEXT NOT NULL,
            tenant TEXT NOT NULL,
            uri TEXT NOT NULL,
            source TEXT,
            fields TEXT NOT NULL,
            live TEXT,
            description TEXT NOT NULL,
            PRIMARY KEY (scope, document_id)
        )""",
        "CREATE INDEX document_states_uri ON document_states (scope, tenant, uri COLLATE BINARY)",
        "CREATE INDEX document_states_source ON document_states (scope, tenant, source)",
        """CREATE TABLE document_chunks (
            scope BIGINT NOT NULL,
            generation INTEGER NOT NULL,
            document_id TEXT NOT NULL,
            version TEXT NOT NULL,
            chunks INTEGER NOT NULL,
            position BIGINT NOT NULL,
            PRIMARY KEY (scope, generation, document_id, version)
        )""",
        "CREATE TABLE seen_events (scope BIGINT NOT NULL, event TEXT NOT NULL, origin TEXT NOT NULL, PRIMARY KEY (scope, event))",
        # How far each generation of the index follows the tables.
        """CREATE TABLE index_progress (
            name TEXT PRIMARY KEY,
            documents TEXT NOT NULL,
            chunks TEXT NOT NULL,
            version BIGINT NOT NULL,
            compared_at TEXT NOT NULL
        )""",
    ),
)

_WAIT_S = 10.0
"""Seconds to wait for a lock, or for PostgreSQL to answer."""
_USED_S = 60.0
"""Resolution of `last_used_at`: a write for every request would cost too much."""
_CREATING = threading.Lock()
_LOCK = 0x68656164  # PostgreSQL advisory lock of the migrations
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SCOPE = re.compile(r"[a-z][a-z0-9:*-]*")
_KEY = re.compile(r"hr_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Tenant:
    """A customer of the provider; `quotas` is a JSON object, `training` one of `TRAINING`."""

    name: str
    created_at: datetime
    quotas: dict[str, Any]
    training: str = NO_TRAINING


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its secret."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    label: str
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    readers: tuple[str, ...] | None = None
    """Readers it is restricted to: it asks on their behalf and sees what they may read. `None`: unrestricted."""


@dataclass(frozen=True)
class KeyHolder:
    """A key's tenant and permissions."""

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    quotas: dict[str, Any] = field(default_factory=dict)
    """The tenant's quotas."""
    readers: tuple[str, ...] | None = None
    voter: str = ""
    """Id of the key that its verdicts count as: its own, or the key with which the tenant created it."""


@dataclass(frozen=True)
class By:
    """Author of a change, for the audit: tenant, key and address."""

    tenant: str
    key_id: str
    address: str


@dataclass(frozen=True)
class AuditLine:
    """One audit line; `outcome` is `done` or the error code of a rejected request."""

    by: By
    action: str
    resource: str
    outcome: str = "done"
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def as_dict(self) -> dict[str, str]:
        """The audit table's columns, with the time as text."""
        return {"at": _text(self.at), **vars(self.by), "action": self.action, "resource": self.resource, "outcome": self.outcome}


HERE = By("", "here", "local")
"""A user of this machine."""
_BATCH_LINES = 5_000
_REVOKED_KEPT = 1_000
_FORGET_REVOKED = (
    "DELETE FROM api_keys WHERE tenant = :tenant AND revoked_at IS NOT NULL AND id NOT IN (SELECT id FROM api_keys"
    f" WHERE tenant = :tenant AND revoked_at IS NOT NULL ORDER BY revoked_at DESC, id LIMIT {_REVOKED_KEPT})"
)


class Metadata:
    """A handle on the metadata store; thread-safe. It connects on first use; where the endpoints name none, it is in memory.

    The first use migrates the schema; processes that do so at once wait for each other, and one that dies halfway leaves no
    trace. Raises `Unavailable` if the database is locked, down or does not answer, `BadSettings` if it rejects the connection,
    `StorageFull`, `HomeRefused`.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        endpoint = endpoints.metadata
        self._database: _Database = (
            _PostgreSQL(endpoint.url, endpoint.db_schema)
            if endpoint is not None and endpoint.url
            else _SQLite(endpoint.file if endpoint is not None else None)
        )
        self._lock = threading.Lock()
        weakref.finalize(self, self._database.close)
        self._migrated = False
        self._used: dict[str, float] = {}

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._database.close()

    def add_tenant(
        self, name: str, quotas: Mapping[str, Any] | None = None, *, training: str = NO_TRAINING, by: By = HERE
    ) -> Tenant:
        """Add a tenant, with an audit line, as for every change below.

        Raises `WrongUsage` for a name that is taken or has characters other than a-z, 0-9 and -.
        """
        if not _NAME.fullmatch(name):
            raise WrongUsage(f"{name!r} is not a valid tenant name.", hint="Use up to 63 of a-z, 0-9 and -, not starting with -.")
        tenant = Tenant(name, _now(), dict(quotas or {}), _checked_training(training))
        row = {"name": name, "created_at": _text(tenant.created_at), "quotas": json.dumps(tenant.quotas, sort_keys=True)}
        row |= {"training": training}
        with self.transaction(writing=True) as run:
            # No SELECT first: of two processes that add the same name at once, neither would find it.
            added = run(
                "INSERT INTO tenants (name, created_at, quotas, training) VALUES (:name, :created_at, :quotas, :training)"
                " ON CONFLICT (name) DO NOTHING RETURNING name",
                row,
            )
            if not added:
                raise WrongUsage(f"Tenant {name} already exists.", hint="Choose another name.")
            _note(run, [AuditLine(by, "tenant.add", name)])
        return tenant

    def set_quotas(self, name: str, quotas: Mapping[str, Any], *, by: By = HERE) -> None:
        """Replace a tenant's quotas. Raises `NotFound`."""
        change = "UPDATE tenants SET quotas = :quotas WHERE name = :name RETURNING name"
        with self.transaction(writing=True) as run:
            if not run(change, {"name": name, "quotas": json.dumps(dict(quotas), sort_keys=True)}):
                raise _no_tenant(name)
            _note(run, [AuditLine(by, "tenant.quota", name)])

    def set_training(self, name: str, training: str, *, by: By = HERE) -> None:
        """Set what may learn from a tenant's verdicts, one of `TRAINING`. Raises `NotFound`, `WrongUsage`."""
        change = "UPDATE tenants SET training = :training WHERE name = :name RETURNING name"
        with self.transaction(writing=True) as run:
            if not run(change, {"name": name, "training": _checked_training(training)}):
                raise _no_tenant(name)
            _note(run, [AuditLine(by, f"tenant.training.{training}", name)])

    def tenants(self) -> list[Tenant]:
        """All tenants, ordered by name."""
        with self.transaction() as run:
            rows = run("SELECT name, created_at, quotas, training FROM tenants ORDER BY name", {})
        return [Tenant(name, datetime.fromisoformat(at), json.loads(quotas), training) for name, at, quotas, training in rows]

    def create_key(
        self,
        tenant: str,
        scopes: Iterable[str],
        *,
        label: str = "",
        readers: Iterable[str] | None = None,
        voter: str | None = None,
        most: int | None = None,
        by: By = HERE,
    ) -> tuple[str, ApiKey]:
        """Create a key; returns its text, which cannot be retrieved again, and its record.

        `readers` restricts it to asking on their behalf; `None`: unrestricted. `voter` is the key that its verdicts count as;
        `None`: itself. `most` is the maximum number of keys of the tenant that are not revoked.
        Raises `NotFound` for an unknown tenant, `Forbidden` where the key that creates it was revoked, `WrongUsage` for no scope
        or one with characters other than a-z, 0-9, :, *, -.
        """
        allowed = tuple(sorted(set(scopes)))
        if not allowed or not all(_SCOPE.fullmatch(scope) for scope in allowed):
            raise WrongUsage(f"{list(allowed)} are not valid scopes.", hint="Name one or more, such as read and write.")
        bound = None if readers is None else tuple(sorted(set(readers)))
        key = ApiKey(secrets.token_hex(8), tenant, allowed, label, _now(), None, None, bound)
        secret = secrets.token_urlsafe(32)
        row = {
            "id": key.id,
            "tenant": tenant,
            "hash": _hash(key.id, secret),
            "scopes": json.dumps(allowed),
            "created_at": _text(key.created_at),
            "label": label,
            "readers": None if bound is None else json.dumps(bound, ensure_ascii=False),
            "voter": voter,
        }
        with self.transaction(writing=True) as run:
            # Both updates change nothing, but lock rows in PostgreSQL: keys created at once are counted, and a key that was
            # revoked since its holder was looked up creates none.
            if not run("UPDATE tenants SET name = name WHERE name = :tenant RETURNING name", {"tenant": tenant}):
                raise _no_tenant(tenant)
            maker = run("UPDATE api_keys SET id = id WHERE id = :id RETURNING revoked_at", {"id": by.key_id})
            if maker and maker[0][0] is not None:
                raise Forbidden("This key was revoked.", hint="Ask for another one.")
            if most is not None:
                live = "SELECT count(*) FROM api_keys WHERE tenant = :tenant AND revoked_at IS NULL"
                if run(live, {"tenant": tenant})[0][0] >= most:
                    raise QuotaReached(
                        f"This tenant has reached its limit of {most:,} keys.", hint="Revoke some, or ask for more."
                    )
                # Creating and revoking keys endlessly must not fill the store; the audit still has them.
                run(_FORGET_REVOKED, {"tenant": tenant})
            run(
                "INSERT INTO api_keys (id, tenant, hash, scopes, created_at, label, readers, voter)"
                " VALUES (:id, :tenant, :hash, :scopes, :created_at, :label, :readers, :voter)",
                row,
            )
            _note(run, [AuditLine(by, "key.create", f"{tenant}/{key.id}")])
        return f"hr_{key.id}_{secret}", key

    def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys (of a tenant), oldest first, including revoked ones."""
        columns = "SELECT id, tenant, scopes, label, created_at, revoked_at, last_used_at, readers FROM api_keys"
        where = "" if tenant is None else " WHERE tenant = :tenant"
        with self.transaction() as run:
            rows = run(f"{columns}{where} ORDER BY created_at, id", {} if tenant is None else {"tenant": tenant})
        return [
            ApiKey(
                key,
                whose,
                tuple(json.loads(scopes)),
                label,
                datetime.fromisoformat(made),
                _time(revoked),
                _time(used),
                _readers(readers),
            )
            for key, whose, scopes, label, made, revoked, used, readers in rows
        ]

    def revoke_key(self, key_id: str, *, tenant: str | None = None, by: By = HERE) -> None:
        """Revoke a key (of a tenant); no effect on a revoked one. Raises `NotFound`."""
        own = "" if tenant is None else " AND tenant = :tenant"
        change = f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id{own} RETURNING tenant"
        values = {"id": key_id, "now": _text(_now())} | ({} if tenant is None else {"tenant": tenant})
        with self.transaction(writing=True) as run:
            if not (changed := run(change, values)):
                raise NotFound(f"There is no key {key_id}.", hint="A key's id is between the underscores of its text.")
            _note(run, [AuditLine(by, "key.revoke", f"{changed[0][0]}/{key_id}")])

    def note(self, lines: Iterable[AuditLine]) -> None:
        """Buffer audit lines until they are in the audit table; they are on disk when this returns."""
        with self.transaction(writing=True) as run:
            _note(run, lines)

    def claim(self) -> tuple[str, list[dict[str, str]]] | None:
        """A batch of buffered lines and its name, to append to the audit table together; `None` if there are none.

        A batch claimed but not dropped is returned again, with the same name and lines.
        """
        with self.transaction(writing=True) as run:
            claimed = run("SELECT batch FROM audit_pending WHERE batch IS NOT NULL ORDER BY batch LIMIT 1", {})
            name = claimed[0][0] if claimed else secrets.token_hex(8)
            if not claimed:
                some = f"SELECT id FROM audit_pending WHERE batch IS NULL ORDER BY at, id LIMIT {_BATCH_LINES}"
                run(f"UPDATE audit_pending SET batch = :batch WHERE batch IS NULL AND id IN ({some})", {"batch": name})
            rows = run("SELECT line FROM audit_pending WHERE batch = :batch ORDER BY at, id", {"batch": name})
        return (name, [json.loads(line) for (line,) in rows]) if rows else None

    def drop_batch(self, batch: str) -> None:
        """Delete a batch that is in the audit table."""
        with self.transaction(writing=True) as run:
            run("DELETE FROM audit_pending WHERE batch = :batch", {"batch": batch})

    def holder_of(self, key: str) -> KeyHolder | None:
        """The holder of a key, or `None` if the key is unknown or revoked.

        Secrets are compared in constant time.
        """
        match = _KEY.fullmatch(key)
        key_id, secret = match.groups() if match else ("", "")
        with self.transaction() as run:
            rows = run(
                "SELECT api_keys.tenant, scopes, hash, revoked_at, quotas, readers, voter FROM api_keys"
                " JOIN tenants ON tenants.name = api_keys.tenant WHERE id = :id",
                {"id": key_id},
            )
        nobody = ("", "[]", _hash("", ""), None, "{}", None, None)
        tenant, scopes, stored_hash, revoked, quotas, readers, voter = rows[0] if rows else nobody
        right = hmac.compare_digest(_hash(key_id, secret), stored_hash)
        if not (rows and right) or revoked is not None:
            return None
        self._touch(key_id)
        return KeyHolder(key_id, tenant, tuple(json.loads(scopes)), json.loads(quotas), _readers(readers), voter or key_id)

    def _touch(self, key_id: str) -> None:
        now = time.monotonic()
        if now - self._used.get(key_id, -_USED_S) < _USED_S:
            return
        self._used[key_id] = now
        # The request is valid even if its time cannot be recorded now.
        with contextlib.suppress(HeadraceError), self.transaction(writing=True) as run:
            run("UPDATE api_keys SET last_used_at = :now WHERE id = :id", {"id": key_id, "now": _text(_now())})

    @contextlib.contextmanager
    def transaction(self, *, writing: bool = False) -> Iterator[Statements]:
        """Statements in one transaction, rolled back if the block raises; other threads wait for it."""
        with self._lock:
            if not self._migrated:
                self._migrate()
                self._migrated = True
            with self._database.transaction(writing=writing) as run:
                yield run

    def _migrate(self) -> None:
        with self._database.transaction(alone=True) as run:
            run("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)", {})
            current = run("SELECT coalesce(max(version), 0) FROM migrations", {})[0][0]
        if current > len(MIGRATIONS):
            raise BadSettings(
                f"The metadata store has schema version {current}; this Headrace knows up to {len(MIGRATIONS)}.",
                hint="A newer Headrace wrote it: use that version, or name another metadata store.",
            )
        for version in range(current + 1, len(MIGRATIONS) + 1):
            with self._database.transaction(alone=True) as run:
                if run("SELECT version FROM migrations WHERE version = :version", {"version": version}):
                    continue  # another process was faster
                for statement in MIGRATIONS[version - 1]:
                    run(statement, {})
                row = {"version": version, "now": _text(_now())}
                run("INSERT INTO migrations (version, applied_at) VALUES (:version, :now)", row)


class Statements(Protocol):
    """Runs statements with `:name` parameters, in one transaction."""

    def __call__(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        ...

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each of these values."""
        ...


class _Database(Protocol):
    """The interface of the two databases."""

    def transaction(self, *, writing: bool = False, alone: bool = False) -> contextlib.AbstractContextManager[Statements]:
        """A transaction, committed unless the block raises. Transactions with `alone` run one at a time."""
        ...

    def close(self) -> None: ...


class _SQLite:
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
            if "full" in message:
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


class _PostgreSQL:
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


def _note(run: Statements, lines: Iterable[AuditLine]) -> None:
    for line in lines:
        row = {"id": secrets.token_hex(8), "at": _text(line.at), "line": json.dumps(line.as_dict())}
        run("INSERT INTO audit_pending (id, at, line) VALUES (:id, :at, :line)", row)


def _checked_training(training: str) -> str:
    if training not in TRAINING:
        raise WrongUsage(f"{training!r} is not a training setting.", hint=f"Choose from {', '.join(TRAINING)}.")
    return training


def _no_tenant(name: str) -> NotFound:
    return NotFound(f"There is no tenant {name}.", hint=f"Add it first: headrace tenant add {name}")


def _readers(stored: str | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(json.loads(stored))


def _hash(key_id: str, secret: str) -> str:
    return hmac.new(key_id.encode(), secret.encode(), hashlib.sha256).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


def _text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
