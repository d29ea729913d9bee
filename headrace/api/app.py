"""The application: routes over a `Service`, behind `AuthMiddleware`; and the server that serves it."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from headrace import __version__
from headrace.api import page
from headrace.api.errors import error_response_for
from headrace.api.middleware import OPENAI, AuthMiddleware, CrossOriginMiddleware
from headrace.api.openai import wrong
from headrace.api.openapi import described
from headrace.api.routes import documents, health, lineage, openai, questions, runs, storage, tenants, training
from headrace.api.service import Service
from headrace.errors import BadSettings, HeadraceError, WrongUsage
from headrace.models import http
from headrace.models.http import LEFT, code_of, error_response, malformed
from headrace.settings import ApiSettings

BODY_BYTES = 64 << 10


def create_app(service: Service, token: str) -> FastAPI:
    """The application of the API and the page; every route except health and the page's files needs an API key or `token`."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="Headrace",
        version=__version__,
        description="Questions, documents, verdicts, tenants, and what moved. See docs/how-to/use-the-api.md.",
        lifespan=life,
        # FastAPI's documentation pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.service = service
    app.state.health = health.Health(service)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    app.add_middleware(
        AuthMiddleware,
        token=token,
        service=service,
        body_bytes=BODY_BYTES,
        document_bytes=service.settings.inference.document_bytes,
        hosts=service.settings.api.named,
        routes=app.routes,
    )
    if service.settings.api.origins:
        app.add_middleware(CrossOriginMiddleware, origins=service.settings.api.origins)
    app.add_exception_handler(HeadraceError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _client_left)

    for router in (
        health.router,
        openai.router,
        questions.router,
        documents.router,
        tenants.router,
        runs.router,
        lineage.router,
        storage.router,
        training.router,
    ):
        app.router.routes.extend(router.routes)  # not by include_router: metrics and audit name a request by its route
    for path, (content, kind) in page.FILES.items():
        app.add_api_route(path, _file(content, kind), include_in_schema=False, methods=["GET"], response_model=None)
    return app


def _file(content: bytes, kind: str) -> Any:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeadraceError)
    request.scope["noted"].outcome = code_of(error)
    return error_response_for(error, request.scope.get("caller"))


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    """The response to a malformed body; on OpenAI's routes in OpenAI's words."""
    assert isinstance(error, RequestValidationError)
    if request.url.path in OPENAI:
        return wrong(error.errors())
    return await malformed(request, error)


async def _client_left(_: Request, error: Exception) -> Response:
    return Response(status_code=LEFT)


async def _no_route(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentences = {
        404: ("There is no such path. See /openapi.json.", "not_found"),
        405: ("This path does not take that method. See /openapi.json.", "wrong_method"),
    }
    message, code = sentences.get(error.status_code, (f"{error.detail}.", "refused"))
    answer = error_response(error.status_code, message, code)
    answer.headers.update(error.headers or {})
    return answer


def check_certificate(settings: ApiSettings) -> None:
    """Raise `BadSettings` where TLS is asked for with files that cannot be used."""
    if settings.certificate is None or settings.key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise BadSettings(
            f"TLS cannot be served with {settings.certificate} and {settings.key}: {reason}.",
            hint="Check [api] certificate and key: PEM files that belong together, the key without a password.",
        ) from None


_GRACE_S = 2
_WATCH_S = 1.0


def serve(app: FastAPI, port: int, *, ended: Callable[[], bool] = lambda: False) -> None:
    """Serve at the settings' address until SIGINT or SIGTERM, or until `ended` returns true (called about once a second).

    Raises `WrongUsage` where the port is taken or the address is not this machine's, `BadSettings` for an unusable certificate.
    """
    service: Service = app.state.service
    own = service.settings.api
    check_certificate(own)

    class ApiServer(http.QuietServer):
        # Uvicorn would raise the signal again once it has stopped; here the signal only stops the server.
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.stop()
            self.force_exit = self.should_exit
            self.should_exit = True

    config = http.config(app, keep_alive_s=30, grace_s=_GRACE_S, log_level="critical", certificate=own.certificate, key=own.key)
    with bound(port, own.host) as listening:
        # SIGPIPE ends a command line, but a server must survive a browser that goes away in mid-answer.
        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        server = ApiServer(config)
        served = threading.Event()

        def watch() -> None:
            while not served.wait(_WATCH_S):
                if ended():
                    service.stop()
                    server.should_exit = True
                    return

        threading.Thread(target=watch, name="watch", daemon=True).start()
        # Everything that was loaded until now stays. Looking through it for garbage took 0.2 s of everybody's time, again and
        # again where bodies have many objects.
        gc.collect()
        gc.freeze()
        try:
            server.run(sockets=[listening])
        finally:
            gc.unfreeze()
            served.set()
            service.stop()
            signal.signal(signal.SIGPIPE, before)


def bound(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens there. Raises `WrongUsage` for a port that is taken or not allowed, or another machine's address."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio sets this only on sockets it made itself; without it each body waits 40 ms for the ACK of its headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # uvicorn listens later; until then SO_REUSEADDR would let a second server bind too
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise WrongUsage(f"Port {port} is taken.", hint="Choose another: headrace up --port N") from None
        if error.errno == errno.EACCES:
            raise WrongUsage(f"You may not open port {port}.", hint="Choose one above 1023: headrace up --port N") from None
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise WrongUsage(f"{host} is not an address of this machine.", hint="Set another: [api] host, or --host.") from None
        raise
    return listening
