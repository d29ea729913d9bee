"""The routes of tenants and keys, and the metrics: what only an admin may see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from headrace.api.auth import ADMIN, SIMULATE, USERS, Caller, check_key_scopes, limits_with
from headrace.api.dependencies import Administering, InThread, Serving, TenantAdministering
from headrace.api.middleware import AuditNotes
from headrace.api.schemas import TENANT, ApiRequest, ApiResponse, Readers, TenantName, Text
from headrace.api.service import Service
from headrace.api.threads import RequestThread
from headrace.errors import Forbidden
from headrace.settings import TenantLimits
from headrace.storage.metadata import ApiKey, RevokedKeys, Tenant

router = APIRouter()

_FIRST = datetime(1970, 6, 1, tzinfo=UTC)
TenantInPath = Annotated[str, Path(pattern=TENANT)]
T = TypeVar("T")

TenantTraining = Literal["none", "shared"]
Quota = Annotated[int, Field(strict=True)]


class NewTenant(ApiRequest):
    """A tenant to add, with quotas as under `[limits]` in the settings."""

    name: Annotated[TenantName, Field(examples=["acme"])]
    quotas: Annotated[dict[str, Quota], Field(default_factory=dict, examples=[{"requests_per_minute": 60}], max_length=20)]
    training: TenantTraining = "none"


class NewTraining(ApiRequest):
    """Whether shared models may learn from a tenant's verdicts."""

    training: TenantTraining


class NewQuotas(ApiRequest):
    """A tenant's new quotas, which replace those it has."""

    quotas: Annotated[dict[str, Quota], Field(examples=[{"documents": 1000}], max_length=20)]


class NewKey(ApiRequest):
    """A key to create; with `readers` it asks only on their behalf, and sees only what they may read."""

    tenant: Annotated[TenantName, Field(examples=["acme"])]
    scopes: Annotated[
        list[Literal["read", "write", "users", "simulate", "tenant-admin", "admin"]], Field(min_length=1, max_length=6)
    ]
    label: Annotated[Text, Field(max_length=200)] = ""
    readers: Annotated[Readers, Field(min_length=1)] | None = None


class QuotasResponse(ApiResponse):
    """A tenant's quotas, and the resulting limits."""

    tenant: str
    quotas: dict[str, Any]
    limits: TenantLimits


class TrainingResponse(ApiResponse):
    """Whether shared models may learn from a tenant's verdicts."""

    tenant: str
    training: str


class TenantResponse(QuotasResponse):
    """A tenant."""

    created_at: str
    training: str


class TenantList(ApiResponse):
    """Tenants."""

    object: Literal["list"] = "list"
    data: list[TenantResponse]


class KeyResponse(ApiResponse):
    """A key, without its secret."""

    id: str
    tenant: str
    scopes: list[str]
    label: str
    readers: list[str] | None
    created_at: str
    revoked_at: str | None
    last_used_at: str | None


class NewKeyResponse(KeyResponse):
    """A new key with its text, which is shown only now."""

    key: str


class KeyList(ApiResponse):
    """Keys."""

    object: Literal["list"] = "list"
    data: list[KeyResponse]


class RevokedKey(ApiResponse):
    """A revoked key, the keys that were revoked with it, and how many that it made, also by way of others, go on."""

    id: str
    revoked: Literal[True] = True
    also_revoked: list[str]
    made_remaining: int


class AuditLineResponse(ApiResponse):
    """One line of the audit: who did what, and how it ended."""

    at: datetime
    tenant: str
    key_id: str
    action: str
    resource: str
    outcome: str
    address: str


class AuditList(ApiResponse):
    """Lines of the audit, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditLineResponse]


async def _changed(request: Request, in_thread: RequestThread, change: Callable[[], T]) -> T:
    """What a change returns, whose line of the audit is written in the same transaction."""
    changed = await in_thread(change)
    noted: AuditNotes = request.scope["noted"]
    noted.audited = True
    return changed


@router.get("/v1/tenants")
async def list_tenants(service: Serving, caller: TenantAdministering, in_thread: InThread) -> TenantList:
    """Every tenant with its quotas and the resulting limits; with the scope `tenant-admin`, only the key's own."""
    own = _own(caller)
    known = await in_thread(service.metadata.tenants)
    return TenantList(data=[_tenant(tenant, service) for tenant in known if own in (None, tenant.name)])


@router.post("/v1/tenants", status_code=201)
async def add_tenant(
    body: NewTenant, request: Request, service: Serving, caller: Administering, in_thread: InThread
) -> TenantResponse:
    """Add a tenant."""
    limits_with(service.settings.limits, body.quotas)
    added = await _changed(
        request,
        in_thread,
        lambda: service.metadata.add_tenant(body.name, body.quotas, training=body.training, by=caller.by),
    )
    return _tenant(added, service)


@router.put("/v1/tenants/{name}/quotas")
async def set_quotas(
    name: TenantInPath, body: NewQuotas, request: Request, service: Serving, caller: Administering, in_thread: InThread
) -> QuotasResponse:
    """Replace a tenant's quotas."""
    limits = limits_with(service.settings.limits, body.quotas)
    await _changed(request, in_thread, lambda: service.metadata.set_quotas(name, body.quotas, by=caller.by))
    return QuotasResponse(tenant=name, quotas=body.quotas, limits=limits)


@router.put("/v1/tenants/{name}/training")
async def set_training(
    name: TenantInPath, body: NewTraining, request: Request, service: Serving, caller: Administering, in_thread: InThread
) -> TrainingResponse:
    """Set whether the shared models may learn from a tenant's verdicts."""
    await _changed(request, in_thread, lambda: service.metadata.set_training(name, body.training, by=caller.by))
    return TrainingResponse(tenant=name, training=body.training)


@router.get("/v1/keys")
async def list_keys(service: Serving, caller: TenantAdministering, in_thread: InThread) -> KeyList:
    """Every key without its secret, revoked ones too; with the scope `tenant-admin`, only those of the key's tenant."""
    own = _own(caller)
    found = await in_thread(lambda: service.metadata.keys(own))
    return KeyList(data=[KeyResponse(**key_row(key)) for key in found])


@router.post("/v1/keys", status_code=201)
async def create_key(
    body: NewKey, request: Request, service: Serving, caller: TenantAdministering, in_thread: InThread
) -> NewKeyResponse:
    """Create a key; `key` is its text, which is shown only now."""
    tenant = caller.tenant_for(body.tenant)
    if {ADMIN, USERS, SIMULATE} & set(body.scopes):
        caller.require_scope(ADMIN)
    check_key_scopes(body.scopes, body.readers)
    # Otherwise a tenant that creates its own keys could make any number of voters, who decide what the shared models learn.
    voter, most = (None, None) if caller.admin else (caller.voter, caller.limits.keys)
    text, key = await _changed(
        request,
        in_thread,
        lambda: service.metadata.create_key(
            tenant, body.scopes, label=body.label, readers=body.readers, voter=voter, most=most, by=caller.by
        ),
    )
    return NewKeyResponse(key=text, **key_row(key))


@router.delete("/v1/keys/{key_id}")
async def revoke_key(
    key_id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")],
    request: Request,
    service: Serving,
    caller: TenantAdministering,
    in_thread: InThread,
    with_made: Annotated[bool, Query(description="Also revoke the keys that it made, and that these made.")] = False,
) -> RevokedKey:
    """Revoke a key: from now on it allows nothing. Keys that it made go on, unless they are revoked with it."""
    own, metadata = _own(caller), service.metadata

    def revoke() -> RevokedKeys:
        if own is not None and any(key.id == key_id and ADMIN in key.scopes for key in metadata.keys(own)):
            raise Forbidden("This key is the operator's: it has the scope admin.", hint="Ask the operator of this service.")
        return metadata.revoke_key(key_id, tenant=own, with_made=with_made, by=caller.by)

    done = await _changed(request, in_thread, revoke)
    return RevokedKey(id=key_id, also_revoked=list(done.with_it), made_remaining=done.remaining)


@router.get("/v1/audit")
async def audit(
    service: Serving,
    caller: TenantAdministering,
    in_thread: InThread,
    tenant: Annotated[
        str | None, Query(max_length=63, description="Only this tenant's; with `tenant-admin` always the key's.")
    ] = None,
    before: Annotated[datetime | None, Query(description="Only lines before this time.")] = None,
    reads: Annotated[bool, Query(description="Whether GET requests that were answered are among them.")] = True,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> AuditList:
    """The newest lines of the audit, newest first; a line is there a few seconds after what it tells of."""
    own = _own(caller)
    whose = tenant if own is None else caller.tenant_for(tenant)
    # `max`: what is asked for lies months before, and no time is before the first.
    until = None if before is None else max(before if before.tzinfo else before.replace(tzinfo=UTC), _FIRST)
    rows = await in_thread(lambda: service.events.audit(whose, until, limit, reads=reads))
    return AuditList(data=[AuditLineResponse(**row) for row in rows])


@router.get("/metrics")
async def metrics(request: Request, service: Serving, caller: Administering) -> Response:
    """The service's metrics in Prometheus' text format."""
    await request.app.state.health.look()  # so that the gauges are up to date
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def key_row(key: ApiKey) -> dict[str, Any]:
    """A key as JSON-ready keys, without its secret."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "label": key.label,
        "readers": None if key.readers is None else list(key.readers),
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
    }


def _tenant(tenant: Tenant, service: Service) -> TenantResponse:
    return TenantResponse(
        tenant=tenant.name,
        created_at=tenant.created_at.isoformat(),
        quotas=tenant.quotas,
        limits=service.limits_of(tenant.name, tenant.quotas),
        training=tenant.training,
    )


def _own(caller: Caller) -> str | None:
    """The tenant that the caller may see: its own, or `None` for all."""
    return None if caller.admin else caller.tenant
