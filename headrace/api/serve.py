"""Serves the application on 127.0.0.1 until Ctrl-C, or until what it serves has ended."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from fastapi import FastAPI

from headrace.api.service import Service
from headrace.errors import WrongUsage
from headrace.models import connections

_GRACE_S = 2
_LOOK_S = 1.0


def serve(app: FastAPI, port: int, *, ended: Callable[[], bool] = lambda: False) -> None:
    """Serve until SIGINT or SIGTERM, or until `ended` (asked about once a second), then return.

    Raises `WrongUsage` where the port is taken.
    """
    service: Service = app.state.service

    class ApiServer(connections.QuietServer):
        # Uvicorn would raise the signal again once it has stopped; here stopping is all that was asked for.
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.stop()
            self.force_exit = self.should_exit
            self.should_exit = True

    config = connections.config(app, keep_alive_s=30, grace_s=_GRACE_S, log_level="critical")
    with bound(port) as listening:
        # A command line ends on SIGPIPE; a server must outlive a browser that goes away in mid-answer.
        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        server = ApiServer(config)
        served = threading.Event()

        def watch() -> None:
            while not served.wait(_LOOK_S):
                if ended():
                    service.stop()
                    server.should_exit = True
                    return

        threading.Thread(target=watch, name="watch", daemon=True).start()
        try:
            server.run(sockets=[listening])
        finally:
            served.set()
            service.stop()
            signal.signal(signal.SIGPIPE, before)


def bound(port: int) -> socket.socket:
    """A socket that holds 127.0.0.1:`port`. Raises `WrongUsage` where another program does."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio sees to this only for sockets it made itself; without it each body waits 40 ms for its headers' receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)  # uvicorn listens later; until then SO_REUSEADDR would let a second server bind too
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise WrongUsage(f"Port {port} is taken.", hint="Choose another: headrace up --port N") from None
        if error.errno == errno.EACCES:
            raise WrongUsage(f"Port {port} is not for you to open.", hint="Choose one above 1023: headrace up --port N") from None
        raise
    return listening
