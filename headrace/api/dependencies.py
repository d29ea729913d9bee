"""Dependencies of the routes: the service, the caller with a scope, and a thread for blocking work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from headrace.api.auth import ADMIN, READ, TENANT_ADMIN, WRITE, Caller, caller_of
from headrace.api.service import Service
from headrace.api.threads import RequestThread


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


async def _thread(request: Request, service: Serving) -> RequestThread:
    return RequestThread(request, service)


InThread = Annotated[RequestThread, Depends(_thread)]


def _with(scope: str) -> Any:
    async def caller(request: Request) -> Caller:
        found = caller_of(request)
        found.require_scope(scope)
        return found

    return Depends(caller)


Reading = Annotated[Caller, _with(READ)]
Writing = Annotated[Caller, _with(WRITE)]
TenantAdministering = Annotated[Caller, _with(TENANT_ADMIN)]
Administering = Annotated[Caller, _with(ADMIN)]
