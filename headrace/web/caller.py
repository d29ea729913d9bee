"""Who calls: the holder of an API key, or whoever has the token that `headrace up` printed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from headrace.errors import BadSettings, Forbidden, WrongUsage
from headrace.settings import Limits
from headrace.storage.metadata import By, Metadata
from headrace.storage.metadata import Caller as Known

READ, WRITE, ADMIN = "read", "write", "admin"
SCOPES = (READ, WRITE, ADMIN)
PAGE = "page"
"""Stands where a key's id would, for the token of `headrace up`."""
_FRESH_S = 0.5
_KEPT = 4_096


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the tenant is the key's, never the request's."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    limits: Limits
    address: str = ""

    @property
    def admin(self) -> bool:
        """Whether it may do everything, and for every tenant."""
        return ADMIN in self.scopes

    @property
    def by(self) -> By:
        """The caller as the audit names it."""
        return By(self.tenant, self.key_id, self.address)

    def may(self, scope: str) -> None:
        """Raise `Forbidden` unless the key has this scope, or `admin`."""
        if scope not in self.scopes and not self.admin:
            raise Forbidden(f"This key does not allow that: it lacks the scope {scope}.", hint="Ask for a key that has it.")

    def whose(self, named: str | None) -> str:
        """The tenant a request is for. Raises `Forbidden` where it names another's and the key is no admin's."""
        if named is None or named == self.tenant:
            return self.tenant
        if not self.admin:
            raise Forbidden("This key is of another tenant than the request names.", hint="Leave the tenant out.")
        return named


class Callers:
    """Finds out who has a key, asking the metadata store again for each key twice a second at most.

    A key that was revoked, by any process, therefore stops within half a second. Kept is a hash of the key, not the key.
    """

    def __init__(self, metadata: Metadata, defaults: Limits) -> None:
        self._metadata = metadata
        self._defaults = defaults
        self._known: OrderedDict[bytes, tuple[float, Known | None]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: str, address: str) -> Caller | None:
        """The caller with this key, or `None`. Raises what the metadata store raises."""
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        now = time.monotonic()
        with self._lock:
            since, known = self._known.get(name, (-_FRESH_S, None))
        if now - since >= _FRESH_S:
            known = self._metadata.who(key)
            with self._lock:
                self._known[name] = (now, known)
                self._known.move_to_end(name)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        if known is None:
            return None
        return Caller(known.tenant, known.key_id, frozenset(known.scopes), limits_of(self._defaults, known.quotas), address)


def limits_of(defaults: Limits, quotas: dict[str, Any]) -> Limits:
    """A tenant's limits. Quotas that this version does not understand leave the defaults."""
    try:
        return checked(defaults, quotas)
    except WrongUsage:
        return defaults


def checked(defaults: Limits, quotas: dict[str, Any]) -> Limits:
    """The defaults with a tenant's quotas over them. Raises `WrongUsage` for one there is not, or that is no number."""
    try:
        return Limits.model_validate({**defaults.model_dump(), **quotas})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise WrongUsage(f"These quotas are off: {faults}.", hint=f"There are: {', '.join(Limits.model_fields)}.") from None


def caller_of(request: Request) -> Caller:
    """Who sent a request that the door let in."""
    caller = request.scope.get("caller")
    if not isinstance(caller, Caller):
        raise BadSettings("This application was served without its door.", hint="Serve what create_app returns.")
    return caller
