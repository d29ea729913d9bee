"""Workers that train together: data-parallel, each with its share of every batch.

The only thing between them is a sum of vectors (gradients) and a number that the first says. `Alone` is one worker;
`GlooPeers` are several processes, connected by gloo.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

_INTERFACES = "GLOO_SOCKET_IFNAME"


class PeerLost(Exception):
    """Another training worker has ended, or has not answered in time. All workers then start again from the last checkpoint."""

    def __init__(self, error: Exception) -> None:
        super().__init__(next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip("."))


class Peers(Protocol):
    """`size` workers, of which this is number `rank`, from 0; `threads` for each, or `None` for the training's own number."""

    rank: int
    size: int
    threads: int | None

    def sum(self, vector: torch.Tensor) -> None:
        """Replace the vector by the sum over all workers' vectors. Raises `PeerLost`."""
        ...

    def first(self, number: int) -> int:
        """The number that worker 0 says. Raises `PeerLost`."""
        ...

    def close(self) -> None:
        """Leave the others, which notice at once."""
        ...


class Alone:
    """One worker."""

    rank = 0
    size = 1
    threads: int | None = None

    def sum(self, vector: torch.Tensor) -> None:
        """See `Peers.sum`: nothing is added."""

    def first(self, number: int) -> int:
        """See `Peers.first`."""
        return number

    def close(self) -> None:
        """See `Peers.close`: there are none."""


ALONE = Alone()


class GlooPeers:
    """Processes connected by gloo. One that ends, or does not answer within `wait_s`, is an error in every other: no one waits
    for ever, and all start again from the same checkpoint.
    """

    def __init__(self, group: Any, rank: int, size: int, *, threads: int | None = None) -> None:
        self._group = group
        self.rank, self.size, self.threads = rank, size, threads

    def sum(self, vector: torch.Tensor) -> None:
        """See `Peers.sum`."""
        with self._faults():
            self._group.allreduce([vector]).wait()

    def first(self, number: int) -> int:
        """See `Peers.first`."""
        import torch

        said = torch.tensor([number], dtype=torch.int64)
        with self._faults():
            self._group.broadcast(said, 0).wait()
        return int(said[0])

    def close(self) -> None:
        """See `Peers.close`. The connections end with the group."""
        self._group = None

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of which torch's errors of connections and timeouts are kinds
            raise PeerLost(error) from error


def meeting_place(address: str, wait_s: float) -> Any:
    """The store in which workers find each other, held by worker 0: it listens on `address` alone, on a free port.

    torch's own listens on every address of the machine unless it is handed a socket.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    port = listener.getsockname()[1]
    return TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=wait_s),
        master_listen_fd=listener.detach(),
    )


def meet(store: Any, rank: int, size: int, *, address: str, wait_s: float, threads: int | None = None) -> GlooPeers:
    """Connect with the others through `store`, over the network interface that has `address`. Raises `PeerLost`."""
    from torch.distributed import ProcessGroupGloo

    # torch reads it while it connects, which several threads of a process may do at once; so it stays.
    os.environ[_INTERFACES] = _interface_of(address)
    try:
        group = ProcessGroupGloo(store, rank, size, timedelta(seconds=wait_s))
    except RuntimeError as error:
        raise PeerLost(error) from error
    return GlooPeers(group, rank, size, threads=threads)


def join(address: str, port: int, wait_s: float) -> Any:
    """The store that worker 0 holds at this address and port. Raises `PeerLost`."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=wait_s))
    except RuntimeError as error:
        raise PeerLost(error) from error


def _interface_of(address: str) -> str:
    """The network interface that has this address."""
    import psutil  # only workers that train together need it

    for name, known in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in known):
            return str(name)
    raise PeerLost(OSError(f"this machine has no network interface with the address {address}"))
