"""A TCP proxy that does something to one request: the network between a command and its storage, misbehaving on demand."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


class Wire:
    """Forwards 127.0.0.1:`port` to `upstream`. The first request whose head matches `wanted` is met by `asked` before it is
    passed on and by `answered` once its answer has come; `answered` returns whether the client gets that answer."""

    def __init__(
        self,
        upstream: str,
        wanted: bytes,
        *,
        asked: Callable[[], None] = lambda: None,
        answered: Callable[[], bool] = lambda: True,
    ) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port)
        self._wanted = re.compile(wanted)
        self._asked, self._answered = asked, answered
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.met = 0
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        server = socket.create_connection(self._upstream)
        waiting = threading.Event()  # an answer to the wanted request is awaited on this connection

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if waiting.is_set():
                        waiting.clear()
                        if not self._answered():
                            break
                    client.sendall(data)
            _end(client, server)

        threading.Thread(target=back, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._wanted.match(data):
                    with self._lock:
                        first = self.met == 0
                        self.met += 1
                    if first:
                        self._asked()
                        waiting.set()
                server.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextlib.contextmanager
def wire(
    upstream: str,
    wanted: bytes,
    *,
    asked: Callable[[], None] = lambda: None,
    answered: Callable[[], bool] = lambda: True,
) -> Iterator[Wire]:
    """A `Wire` for the length of a block."""
    made = Wire(upstream, wanted, asked=asked, answered=answered)
    try:
        yield made
    finally:
        made.close()
