"""TLS handshakes: bounded in number, by address and in time, as connections are once theirs is over (`http.py`).

asyncio hands a connection to its protocol when the handshake is over. Until then it takes a file descriptor and 300 KB, for a
minute: four thousand clients that sent nothing took 1.2 GB and all descriptors, and the service ended.
"""

from __future__ import annotations

import asyncio
from typing import Any

IN_ALL = 256
OF_ONE = 128
"""The most handshakes at once, in all and with one address. The one that has taken longest makes room."""
SECONDS = 10.0


class Handshakes:
    """The handshakes of an event loop's servers that are under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begin = loop._make_ssl_transport  # type: ignore[attr-defined]
        self._under_way: dict[Any, str] = {}  # transport → address, the oldest first
        loop._make_ssl_transport = self._bounded  # type: ignore[attr-defined]

    def _bounded(self, sock: Any, protocol: Any, context: Any, waiter: asyncio.Future[None] | None = None, **more: Any) -> Any:
        if waiter is None or not more.get("server_side"):
            return self._begin(sock, protocol, context, waiter, **more)
        transport = self._begin(sock, protocol, context, waiter, **{**more, "ssl_handshake_timeout": SECONDS})
        peer = (more.get("extra") or {}).get("peername")
        address = str(peer[0]) if peer else ""
        self._under_way[transport] = address
        waiter.add_done_callback(lambda _: self._under_way.pop(transport, None))
        own = [other for other, whose in self._under_way.items() if whose == address]
        for crowd, most in ((own, OF_ONE), (list(self._under_way), IN_ALL)):
            if len(crowd) > most and self._under_way.pop(crowd[0], None) is not None:
                crowd[0].abort()
        return transport
