"""Ports on 127.0.0.1 for the embedded servers, the same ones again at each start of a home when they are free."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from headrace.errors import Unavailable

LOOPBACK = "127.0.0.1"
GRPC_OFFSET = 10_000
"""SeaweedFS takes the gRPC port of a server to be its HTTP port plus this, and in places does not read the flag."""

_RANGE = range(10_100, 22_700)
"""Both the port and its gRPC pair stay below 32768, where Linux starts to hand out ports to outgoing connections."""

_WEED = ("s3", "filer", "master", "volume", "admin")


class Ports(BaseModel):
    """One port per door; those of SeaweedFS's servers are followed by a gRPC port, `GRPC_OFFSET` higher."""

    model_config = ConfigDict(frozen=True)

    s3: int = 0
    filer: int = 0
    master: int = 0
    volume: int = 0
    admin: int = 0
    catalog: int = 0
    metrics: int = 0
    kafka: int = 0
    models: int = 0

    def all(self) -> Iterator[int]:
        """Every port that may be listened on, gRPC ones included."""
        for name, port in self:
            yield port
            if name in _WEED:
                yield port + GRPC_OFFSET

    def sockets(self) -> Iterator[Path]:
        """Unix sockets SeaweedFS makes for its gRPC ports; its directory for them is fixed."""
        for name in _WEED:
            yield _socket(name, getattr(self, name) + GRPC_OFFSET)

    @property
    def squatted(self) -> bool:
        """Whether somebody else has a file where one of those sockets is to be: SeaweedFS would talk to itself through it."""
        return any(_foreign(path) for path in self.sockets())


def _socket(name: str, port: int) -> Path:
    return Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock")


def _foreign(path: Path) -> bool:
    try:
        return path.lstat().st_uid != os.geteuid()
    except OSError:
        return False


def remove_sockets(ports: Ports) -> None:
    """Remove the Unix sockets that a killed SeaweedFS left behind; another user's stay."""
    for path in ports.sockets():
        if not _foreign(path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def free(port: int) -> bool:
    """Whether a server could listen on `port` of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_ports(previous: Ports | None = None) -> Ports:
    """Free ports for every door, those of `previous` where they still are free. Raises `Unavailable` if there are none."""
    ports = Ports()
    for door in Ports.model_fields:
        ports = another_port(ports, door, getattr(previous, door) if previous else 0)
    return ports


def another_port(ports: Ports, door: str, wish: int = 0) -> Ports:
    """`ports` with a free port for `door`: `wish` if it is free, else any. Raises `Unavailable` if there is none."""
    offsets = (0, GRPC_OFFSET) if door in _WEED else (0,)
    taken = set(ports.all())
    for port in [wish, *random.sample(_RANGE, 200)] if wish else random.sample(_RANGE, 200):
        pair = {port + offset for offset in offsets}
        squatted = door in _WEED and _foreign(_socket(door, port + GRPC_OFFSET))
        if not pair & taken and not squatted and all(free(number) for number in pair):
            return ports.model_copy(update={door: port})
    raise Unavailable(
        f"No free port was found on {LOOPBACK} between {_RANGE.start} and {_RANGE.stop}.",
        hint="End some servers on this machine and try again.",
    )
