"""The routes of tenants and keys, and what else only the scope `admin` may see."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import JSONResponse, Response

from headrace.api.auth import ADMIN, SIMULATE, TENANT_ADMIN, USERS, Caller, caller_of, checked, fit_for_key
from headrace.api.routes.health import Health
from headrace.api.schemas import TENANT, NewKey, NewQuotas, NewTenant, NewTraining
from headrace.api.service import Service
from headrace.api.threads import run_in_thread
from headrace.errors import Forbidden
from headrace.models.http import LEFT
from headrace.storage.metadata import ApiKey, Tenant


def add_tenants(app: FastAPI, service: Service, health: Health) -> None:
    """Add the routes of tenants and keys."""
    metadata = service.metadata

    async def done(request: Request, work: Any, status: int = 200) -> Response:
        """Do a change, whose line in the audit is written with it."""

        def change() -> Any:
            result = work()
            request.scope["noted"].said = True
            return result

        result = await run_in_thread(request, service, change)
        return Response(status_code=LEFT) if result is None else JSONResponse(result, status)

    @app.get("/v1/tenants")
    async def list_tenants(request: Request) -> Response:
        """Every tenant, its quotas and the limits that come of them; with the scope `tenant-admin` the key's own."""
        own = _own(request)

        def work() -> list[dict[str, Any]]:
            return [_tenant(tenant, service) for tenant in metadata.tenants() if own in (None, tenant.name)]

        found = await run_in_thread(request, service, work)
        return Response(status_code=LEFT) if found is None else JSONResponse({"object": "list", "data": found})

    @app.post("/v1/tenants", status_code=201)
    async def add_tenant(body: NewTenant, request: Request) -> Response:
        """Add a tenant."""
        by = _admin(request).by
        checked(service.settings.limits, body.quotas)

        def work() -> dict[str, Any]:
            return _tenant(metadata.add_tenant(body.name, body.quotas, training=body.training, by=by), service)

        return await done(request, work, 201)

    @app.put("/v1/tenants/{name}/quotas")
    async def set_quotas(name: Annotated[str, Path(pattern=TENANT)], body: NewQuotas, request: Request) -> Response:
        """Give a tenant these quotas instead of those it has."""
        by = _admin(request).by
        limits = checked(service.settings.limits, body.quotas)

        def work() -> dict[str, Any]:
            metadata.set_quotas(name, body.quotas, by=by)
            return {"tenant": name, "quotas": body.quotas, "limits": limits.model_dump()}

        return await done(request, work)

    @app.put("/v1/tenants/{name}/training")
    async def set_training(name: Annotated[str, Path(pattern=TENANT)], body: NewTraining, request: Request) -> Response:
        """Say whether the models that all tenants are served may learn from a tenant's verdicts."""
        by = _admin(request).by

        def work() -> dict[str, Any]:
            metadata.set_training(name, body.training, by=by)
            return {"tenant": name, "training": body.training}

        return await done(request, work)

    @app.get("/v1/keys")
    async def list_keys(request: Request) -> Response:
        """Every key without its secret, the revoked ones too; with the scope `tenant-admin` those of the key's tenant."""
        own = _own(request)
        kept = await run_in_thread(request, service, lambda: metadata.keys(own))
        found = None if kept is None else [key_row(key) for key in kept]
        return Response(status_code=LEFT) if found is None else JSONResponse({"object": "list", "data": found})

    @app.post("/v1/keys", status_code=201)
    async def mint_key(body: NewKey, request: Request) -> Response:
        """Make a key; `key` is its text, which nobody can have again."""
        caller = caller_of(request)
        caller.may(TENANT_ADMIN)
        tenant, by = caller.whose(body.tenant), caller.by
        if {ADMIN, USERS, SIMULATE} & set(body.scopes):
            caller.may(ADMIN)
        fit_for_key(body.scopes, body.readers)
        # A tenant that makes its keys itself would else make as many voters as it likes, and with them the models of all.
        voter, most = (None, None) if caller.admin else (caller.voter, caller.limits.keys)

        def work() -> dict[str, Any]:
            text, key = metadata.create_key(
                tenant, body.scopes, label=body.label, readers=body.readers, voter=voter, most=most, by=by
            )
            return {"key": text, **key_row(key)}

        return await done(request, work, 201)

    @app.delete("/v1/keys/{key_id}")
    async def revoke_key(key_id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")], request: Request) -> Response:
        """Let a key allow nothing from now on."""
        own, by = _own(request), caller_of(request).by

        def work() -> dict[str, Any]:
            if own is not None and any(key.id == key_id and ADMIN in key.scopes for key in metadata.keys(own)):
                raise Forbidden("This key is the operator's: it has the scope admin.", hint="Ask the operator of this service.")
            metadata.revoke_key(key_id, tenant=own, by=by)
            return {"id": key_id, "revoked": True}

        return await done(request, work)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """What the service counts, in Prometheus' text format."""
        _admin(request)
        await health.look()  # what the gauges say is then of now
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def key_row(key: ApiKey) -> dict[str, Any]:
    """A key as JSON-ready keys; its secret is nowhere."""
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


def _tenant(tenant: Tenant, service: Service) -> dict[str, Any]:
    limits = service.limits_of(tenant.name, tenant.quotas).model_dump()
    return {
        "tenant": tenant.name,
        "created_at": tenant.created_at.isoformat(),
        "quotas": tenant.quotas,
        "limits": limits,
        "training": tenant.training,
    }


def _own(request: Request) -> str | None:
    """The tenant whose tenants and keys are the caller's to see: its own, or of all (`None`). Raises `Forbidden`."""
    caller = caller_of(request)
    caller.may(TENANT_ADMIN)
    return None if caller.admin else caller.tenant


def _admin(request: Request) -> Caller:
    caller = caller_of(request)
    caller.may(ADMIN)
    return caller
