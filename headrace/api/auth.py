"""Who calls: the holder of an API key, or whoever has the token that `headrace up` printed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
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
"""May say which user asks and judges: each then counts as one where verdicts are learned from. Without it the key is one user."""
SIMULATE = "simulate"
"""May ask and judge as a simulated user."""
SCOPES = (READ, WRITE, USERS, SIMULATE, TENANT_ADMIN, ADMIN)
_TENANTS = frozenset({READ, WRITE, TENANT_ADMIN})
"""What a tenant's admin may. Who names users can invent them, and so decide alone what the models of all learn."""
PAGE = "page"
"""Stands where a key's id would, for the token of `headrace up`."""
_FRESH_S = 0.5
_STREAM_S = 0.2
_KEPT = 4_096


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the tenant is the key's, never the request's."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    limits: TenantLimits
    address: str = ""
    readers: tuple[str, ...] | None = None
    """The readers the key is bound to; `None` is a key that may ask on behalf of any."""
    voter: str = ""
    """The key as which its verdicts count, where they count by key: who makes keys must not make voters."""

    @property
    def admin(self) -> bool:
        """Whether it may do everything, and for every tenant."""
        return ADMIN in self.scopes

    @property
    def tenant_admin(self) -> bool:
        """Whether it may do everything for its own tenant, but name and play users."""
        return TENANT_ADMIN in self.scopes

    @property
    def names_users(self) -> bool:
        """Whether it may say which user asks or judges."""
        return self.admin or USERS in self.scopes

    @property
    def by(self) -> By:
        """The caller as the audit names it."""
        return By(self.tenant, self.key_id, self.address)

    def require_scope(self, scope: str) -> None:
        """Raise `Forbidden` unless the key has this scope, or one that has it in it."""
        if not (scope in self.scopes or self.admin or (self.tenant_admin and scope in _TENANTS)):
            raise Forbidden(f"This key does not allow that: it lacks the scope {scope}.", hint="Ask for a key that has it.")

    def tenant_for(self, named: str | None) -> str:
        """The tenant a request is for. Raises `Forbidden` where it names another's and the key is no admin's."""
        if named is None or named == self.tenant:
            return self.tenant
        if not self.admin:
            raise Forbidden("This key is of another tenant than the request names.", hint="Leave the tenant out.")
        return named

    def principals_for(self, named: Sequence[str]) -> tuple[str, ...]:
        """On whose behalf it asks, where a request names these. Raises `Forbidden` where the key is bound to others."""
        if self.readers is None:
            return tuple(named)
        if not set(named) <= set(self.readers):
            raise Forbidden("This key asks on behalf of other readers than the request names.", hint="Leave readers out.")
        return tuple(named) or self.readers

    def may_read(self, readers: Collection[str]) -> bool:
        """Whether a document with these readers is one it may know of."""
        return self.readers is None or not readers or not set(self.readers).isdisjoint(readers)


@dataclass(frozen=True)
class Asker:
    """Who asks or judges, as it is recorded: `key` where all who come by that key count as one user, else `user` is one."""

    user: str
    key: str | None = None
    simulated: bool = False


def asker(caller: Caller, own: str, user: str | None = None, simulated: str | None = None) -> Asker:
    """Who asks or judges where a request names a user, or a simulated one; where it names neither, `own`.

    Raises `Forbidden` where the key may not name them, `WrongUsage` where both are named.
    """
    if user is not None and simulated is not None:
        raise WrongUsage("The request names a user and a simulated user.", hint="Name one of both.")
    if user is not None:
        caller.require_scope(USERS)
    if simulated is not None:
        caller.require_scope(SIMULATE)
    named = user or simulated
    one = caller.key_id == PAGE or (named is not None and caller.names_users)
    return Asker(named or own, None if one else caller.voter or caller.key_id, simulated is not None)


class Callers:
    """Finds out who has a key, asking the metadata store again for each key twice a second at most.

    A key that was revoked, by any process, therefore stops within half a second. Kept is a hash of the key, not the key.
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
        """Whether a key that was right is so still, asked anew where that was longer ago than a stream may go on unasked."""
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
    """The defaults with a tenant's quotas over them. Raises `WrongUsage` for one there is not, or that is no number."""
    try:
        return TenantLimits.model_validate({**defaults.model_dump(), **quotas})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise WrongUsage(f"These quotas are off: {faults}.", hint=f"There are: {', '.join(TenantLimits.model_fields)}.") from None


def check_key_scopes(scopes: Collection[str], readers: Collection[str] | None) -> None:
    """Raise `WrongUsage` unless a key may have these scopes and be bound to these readers."""
    if readers is not None:
        check_principals(readers)
        if not readers or {TENANT_ADMIN, ADMIN} & set(scopes):
            raise WrongUsage(
                "A key that is bound to readers has the scopes read and write, and at least one reader.",
                hint="Make another key for whoever administers.",
            )


def caller_of(request: Request) -> Caller:
    """Who sent a request that the door let in."""
    caller = request.scope.get("caller")
    if not isinstance(caller, Caller):
        raise BadSettings("This application was served without its door.", hint="Serve what create_app returns.")
    return caller
