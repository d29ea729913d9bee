"""The metadata store: tenants and API keys, in SQLite under the home or in the user's PostgreSQL.

It also keeps, by key, what the tables say of each document (`documents/lookup.py`) and the hashes of files that were read
(`documents/sources/hashes.py`); all of that can be made again.

It also buffers audit lines until the audit table has them, so that a change and its line are one transaction.

It is in no tier: it has no lane in the diagram, and what is read from it and written to it is not in the ledger.

An API key is `hr_ID_SECRET` with a secret of 256 random bits. Only its HMAC-SHA256 under the key's id is stored: a secret of this
length cannot be guessed at any speed, so a slow hash would cost time on every request and protect nothing. The id salts the hash
and finds the row; it is not secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headrace.errors import Forbidden, HeadraceError, NotFound, QuotaReached, WrongUsage
from headrace.storage.database import Statements, database_of
from headrace.storage.endpoints import Endpoints
from headrace.storage.migrations import migrate

NO_TRAINING, SHARED = "none", "shared"
"""What may learn from a tenant's verdicts: nothing, or the models served to all tenants."""
TRAINING = (NO_TRAINING, SHARED)

_USED_S = 60.0
"""Resolution of `last_used_at`: a write for every request would cost too much."""
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
class RevokedKeys:
    """A key that was revoked: which others were with it, and how many that it made, also by way of others, go on."""

    with_it: tuple[str, ...] = ()
    remaining: int = 0


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
_LONG_REVOKED = (
    "SELECT id, made_by FROM api_keys WHERE tenant = :tenant AND revoked_at IS NOT NULL AND id NOT IN (SELECT id FROM api_keys"
    f" WHERE tenant = :tenant AND revoked_at IS NOT NULL ORDER BY revoked_at DESC, id LIMIT {_REVOKED_KEPT}) ORDER BY id"
)
_MADE = (
    "WITH RECURSIVE made (id) AS (SELECT id FROM api_keys WHERE made_by = :id UNION"
    " SELECT api_keys.id FROM api_keys JOIN made ON api_keys.made_by = made.id)"
    " SELECT api_keys.id, api_keys.tenant FROM api_keys JOIN made ON made.id = api_keys.id"
    " WHERE revoked_at IS NULL AND api_keys.id <> :id ORDER BY created_at, api_keys.id"
)


class Metadata:
    """A handle on the metadata store; thread-safe. It connects on first use; where the endpoints name none, it is in memory.

    The first use migrates the schema; processes that do so at once wait for each other, and one that dies halfway leaves no
    trace. Raises `Unavailable` if the database is locked, down or does not answer, `BadSettings` if it rejects the connection,
    `StorageFull`, `HomeRefused`.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._database = database_of(endpoints)
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
                raise no_tenant(name)
            _note(run, [AuditLine(by, "tenant.quota", name)])

    def set_training(self, name: str, training: str, *, by: By = HERE) -> None:
        """Set what may learn from a tenant's verdicts, one of `TRAINING`. Raises `NotFound`, `WrongUsage`."""
        change = "UPDATE tenants SET training = :training WHERE name = :name RETURNING name"
        with self.transaction(writing=True) as run:
            if not run(change, {"name": name, "training": _checked_training(training)}):
                raise no_tenant(name)
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
                raise no_tenant(tenant)
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
                for name, its_maker in run(_LONG_REVOKED, {"tenant": tenant}):
                    # What it made counts as made by its own maker then.
                    values = {"id": name, "maker": its_maker}
                    run("UPDATE api_keys SET made_by = :maker WHERE made_by = :id", values)
                    run("DELETE FROM api_keys WHERE id = :id", {"id": name})
            run(
                "INSERT INTO api_keys (id, tenant, hash, scopes, created_at, label, readers, voter, made_by)"
                " VALUES (:id, :tenant, :hash, :scopes, :created_at, :label, :readers, :voter, :made_by)",
                {**row, "made_by": by.key_id if maker else None},
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

    def revoke_key(self, key_id: str, *, tenant: str | None = None, with_made: bool = False, by: By = HERE) -> RevokedKeys:
        """Revoke a key (of a tenant); no effect on a revoked one. Raises `NotFound`.

        Keys that it made, and that these made, go on, unless they are revoked `with_made`.
        """
        own = "" if tenant is None else " AND tenant = :tenant"
        change = f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id{own} RETURNING tenant"
        values = {"id": key_id, "now": _text(_now())} | ({} if tenant is None else {"tenant": tenant})
        with self.transaction(writing=True) as run:
            if not (changed := run(change, values)):
                raise NotFound(f"There is no key {key_id}.", hint="A key's id is between the underscores of its text.")
            _note(run, [AuditLine(by, "key.revoke", f"{changed[0][0]}/{key_id}")])
            revoked: list[str] = []
            # Again until there are none: one of them may just have made another.
            while (made := run(_MADE, {"id": key_id})) and with_made:
                for name, whose in made:
                    run(change.replace(own, ""), {"id": name, "now": values["now"]})
                    _note(run, [AuditLine(by, "key.revoke", f"{whose}/{name}")])
                    revoked.append(name)
        return RevokedKeys(tuple(revoked), len(made))

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
    def transaction(self, *, writing: bool = False, alone: bool = False) -> Iterator[Statements]:
        """Statements in one transaction, rolled back if the block raises; other threads wait for it.

        With `alone` so do transactions of other processes with `alone`: what such a one reads is not changed before it writes.
        """
        with self._lock:
            if not self._migrated:
                migrate(self._database)
                self._migrated = True
            with self._database.transaction(writing=writing, alone=alone) as run:
                yield run


def _note(run: Statements, lines: Iterable[AuditLine]) -> None:
    for line in lines:
        row = {"id": secrets.token_hex(8), "at": _text(line.at), "line": json.dumps(line.as_dict())}
        run("INSERT INTO audit_pending (id, at, line) VALUES (:id, :at, :line)", row)


def _checked_training(training: str) -> str:
    if training not in TRAINING:
        raise WrongUsage(f"{training!r} is not a training setting.", hint=f"Choose from {', '.join(TRAINING)}.")
    return training


def no_tenant(name: str) -> NotFound:
    """The error for a tenant that does not exist."""
    return NotFound(f"There is no tenant {name}.", hint=f"See `headrace tenant list`, or add it: headrace tenant add {name}")


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
