"""One POST with a deadline for the whole of it, which also ends when the service does.

httpx counts each read by itself: a server that sends a byte of its headers now and then is waited for without end. So the request
is made by a thread of its own, and at the deadline its connection is shut down, at which it ends whatever it waits for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from headrace.lean_httpx import httpx

_LOOK_S = 0.2


class PostEnded(Exception):
    """The deadline came, or the service ends."""


def post(
    client: httpx.Client,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    seconds: float,
    stopping: Callable[[], bool],
) -> int:
    """The status of the answer, whose body is not read: it may be any length.

    Raises `PostEnded` after so many seconds, however little of the request or of the answer is left, and soon after `stopping`
    says so; and what httpx raises.
    """
    connection, done = _Connection(), threading.Event()
    found: list[int | Exception] = []

    def request() -> None:
        try:
            extensions = {"trace": connection.trace}
            with client.stream("POST", url, content=body, headers=dict(headers), extensions=extensions) as answer:
                found.append(answer.status_code)
        except Exception as error:  # the caller raises it
            found.append(error)
        finally:
            done.set()

    # A daemon: where it looks up a name, nothing ends it, and nobody waits for it.
    threading.Thread(target=request, name="trigger post", daemon=True).start()
    until = time.monotonic() + seconds
    while not done.wait(min(_LOOK_S, max(0.0, until - time.monotonic()))):
        if stopping() or time.monotonic() >= until:
            connection.shut_down()
            raise PostEnded
    [result] = found
    if isinstance(result, Exception):
        raise result
    return result


class _Connection:
    """The connection of one request, of which its client is to keep none open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: Any = None
        self._over = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore with each step of the request."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                self._end()

    def shut_down(self) -> None:
        """End what waits for it, now or once it is open."""
        with self._lock:
            self._over = True
            self._end()

    def _end(self) -> None:
        if self._over and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
