"""The caller of a request: the holder of an API key, or of the token that `headrace up` prints."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from headrace.documents.names import check_principals
from headrace.errors import BadSettings, Forbidden, WrongUsage
from headrace.settings import TenantLimits
from headrace.storage.metadata import By, Metadata
from headrace.storage.metadata import KeyHolder as Known

READ, WRITE, TENANT_ADMIN, ADMIN = "read", "write", "tenant-admin", "admin"
USERS = "users"
"""May name the user who asks or judges. Training counts each named user; without this scope the key is one user."""
SIMULATE = "simulate"
"""May ask and judge as a simulated user."""
SCOPES = (READ, WRITE, USERS, SIMULATE, TENANT_ADMIN, ADMIN)
_TENANTS = frozenset({READ, WRITE, TENANT_ADMIN})
"""The scopes that `tenant-admin` includes. Not `users`: invented users would decide what everybody's models learn."""
PAGE = "page"
"""Used as the key id of the token."""
_FRESH_S = 0.5
_STREAM_S = 0.2
_KEPT = 4_096


@dataclass(frozen=True)
class Caller:
    """Who sent a request; the tenant comes from the key, never from the request."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    limits: TenantLimits
    address: str = ""
    readers: tuple[str, ...] | None = None
    """The readers the key is bound to; a key with `None` may ask on behalf of any."""
    voter: str = ""
    """The key that its verdicts count for, where they count by key: making keys must not make voters."""

    @property
    def admin(self) -> bool:
        """Whether the key may do everything, for every tenant."""
        return ADMIN in self.scopes

    @property
    def tenant_admin(self) -> bool:
        """Whether the key may do everything for its own tenant, except name or simulate users."""
        return TENANT_ADMIN in self.scopes

    @property
    def names_users(self) -> bool:
        """Whether the key may name the user who asks or judges."""
        return self.admin or USERS in self.scopes

    @property
    def by(self) -> By:
        """The caller as the audit names it."""
        return By(self.tenant, self.key_id, self.address)

    def require_scope(self, scope: str) -> None:
        """Raise `Forbidden` unless the key has this scope, or one that includes it."""
        if not (scope in self.scopes or self.admin or (self.tenant_admin and scope in _TENANTS)):
            raise Forbidden(f"This key does not allow that: it lacks the scope {scope}.", hint="Ask for a key that has it.")

    def tenant_for(self, named: str | None) -> str:
        """The tenant of a request. Raises `Forbidden` where it names one other than the key's, unless the key is an admin's."""
        if named is None or named == self.tenant:
            return self.tenant
        if not self.admin:
            raise Forbidden("The request names a tenant other than this key's.", hint="Leave the tenant out.")
        return named

    def principals_for(self, named: Sequence[str]) -> tuple[str, ...]:
        """The readers that a request asks on behalf of. Raises `Forbidden` for readers that the key is not bound to."""
        if self.readers is None:
            return tuple(named)
        if not set(named) <= set(self.readers):
            raise Forbidden("The request names readers that this key is not bound to.", hint="Leave readers out.")
        return tuple(named) or self.readers

    def may_read(self, readers: Collection[str]) -> bool:
        """Whether the key may know of a document with these readers."""
        return self.readers is None or not readers or not set(self.readers).isdisjoint(readers)


@dataclass(frozen=True)
class Asker:
    """Who asks or judges, as recorded. With a `key`, everybody with that key counts as one user; else `user` counts."""

    user: str
    key: str | None = None
    simulated: bool = False


def asker(caller: Caller, own: str, user: str | None = None, simulated: str | None = None) -> Asker:
    """Who asks or judges: the user or simulated user that the request names, else `own`.

    Raises `Forbidden` where the key may not name one, `WrongUsage` where both are named.
    """
    if user is not None and simulated is not None:
        raise WrongUsage("The request names a user and a simulated user.", hint="Name one of them.")
    if user is not None:
        caller.require_scope(USERS)
    if simulated is not None:
        caller.require_scope(SIMULATE)
    named = user or simulated
    one = caller.key_id == PAGE or (named is not None and caller.names_users)
    return Asker(named or own, None if one else caller.voter or caller.key_id, simulated is not None)


class Callers:
    """Looks up the holders of keys, each key at most twice a second in the metadata store.

    So a key that any process revokes stops within half a second. This keeps a hash of each key, not the key.
    """

    def __init__(self, metadata: Metadata, defaults: TenantLimits) -> None:
        self._metadata = metadata
        self._defaults = defaults
        self._known: OrderedDict[bytes, tuple[float, Known | None]] = OrderedDict()
        self._lock = threading.Lock()

    def lookup(self, key: str, address: str) -> Caller | None:
        """The caller with this key, or `None`. Raises what the metadata store raises."""
        known = self._who(key, _FRESH_S)
        if known is None:
            return None
        limits = limits_of(self._defaults, known.quotas)
        return Caller(known.tenant, known.key_id, frozenset(known.scopes), limits, address, known.readers, known.voter)

    def still_valid(self, key: str) -> bool:
        """Whether a key is still valid, looked up five times a second at most: for streams."""
        return self._who(key, _STREAM_S) is not None

    def _who(self, key: str, fresh_s: float) -> Known | None:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        now = time.monotonic()
        with self._lock:
            since, known = self._known.get(name, (-_FRESH_S, None))
        if now - since >= fresh_s:
            known = self._metadata.holder_of(key)
            with self._lock:
                self._known[name] = (now, known)
                self._known.move_to_end(name)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return known


def limits_of(defaults: TenantLimits, quotas: dict[str, Any]) -> TenantLimits:
    """A tenant's limits. Quotas that this version does not understand leave the defaults."""
    try:
        return limits_with(defaults, quotas)
    except WrongUsage:
        return defaults


def limits_with(defaults: TenantLimits, quotas: dict[str, Any]) -> TenantLimits:
    """The defaults, overridden by a tenant's quotas. Raises `WrongUsage` for unknown quotas and values that are not numbers."""
    try:
        return TenantLimits.model_validate({**defaults.model_dump(), **quotas})
    except ValidationError as error:
        faults = "; ".join(_quota_fault(fault) for fault in error.errors())
        raise WrongUsage(
            f"These quotas are wrong: {faults}.", hint=f"Known quotas: {', '.join(TenantLimits.model_fields)}."
        ) from None


def _quota_fault(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    return f"there is no quota {name!r}" if fault["type"] == "extra_forbidden" else f"{name}: {fault['msg']}"


def check_key_scopes(scopes: Collection[str], readers: Collection[str] | None) -> None:
    """Raise `WrongUsage` unless a key may have these scopes and be bound to these readers."""
    if readers is not None:
        check_principals(readers)
        if not readers or {TENANT_ADMIN, ADMIN} & set(scopes):
            raise WrongUsage(
                "A key that is bound to readers has at least one reader, and only the scopes read and write.",
                hint="Make another key for administration.",
            )


def caller_of(request: Request) -> Caller:
    """The caller that `AuthMiddleware` put into the scope."""
    caller = request.scope.get("caller")
    if not isinstance(caller, Caller):
        raise BadSettings("This application was served without its middleware.", hint="Serve what create_app returns.")
    return caller
