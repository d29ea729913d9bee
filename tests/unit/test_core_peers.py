"""Workers that train together: what they sum, that they listen on one address, and that no one waits for a lost one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from headrace.core.peers import ALONE, GlooPeers, PeerLost, join, meet, meeting_place

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as it was: connecting sets the interface."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")


def together(work: Callable[[GlooPeers], Any], *, size: int = 3, wait_s: float = 60.0) -> list[Any]:
    """What `work` returns or raises on each of `size` workers, which are threads of this process."""
    store = meeting_place(HERE, wait_s)

    def one(rank: int) -> Any:
        try:
            peers = meet(store if rank == 0 else join(HERE, store.port, wait_s), rank, size, address=HERE, wait_s=wait_s)
            try:
                return work(peers)
            finally:
                peers.close()
        except PeerLost as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_all_have_the_sum_and_the_first_ones_number() -> None:
    import torch

    def work(peers: GlooPeers) -> tuple[list[float], int]:
        vector = torch.full((5,), float(10**peers.rank))
        peers.sum(vector)
        return vector.tolist(), peers.first(peers.rank + 7)

    assert together(work) == [([111.0] * 5, 7)] * 3


def test_they_listen_on_their_address_alone() -> None:
    met = threading.Barrier(3)

    def work(peers: GlooPeers) -> set[str]:
        peers.first(0)
        met.wait(60)
        found = {one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN}
        met.wait(60)
        return found

    before = {one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN}
    for found in together(work):
        assert HERE in found
        assert {ip.removeprefix("::ffff:") for ip in found - before} <= {HERE}


def test_one_that_leaves_is_an_error_in_every_other_at_once() -> None:
    import torch

    def work(peers: GlooPeers) -> str:
        peers.first(0)
        if peers.rank == 1:
            return "left"
        peers.sum(torch.ones(3))
        return "summed"

    first, second, third = together(work)
    assert second == "left"
    assert isinstance(first, PeerLost)
    assert isinstance(third, PeerLost)


def test_one_that_does_not_answer_is_lost_after_the_wait() -> None:
    import torch

    others = threading.Semaphore(0)

    def work(peers: GlooPeers) -> str:
        if peers.rank == 1:
            for _ in range(2):
                assert others.acquire(timeout=60)
            return "woke"
        try:
            peers.sum(torch.ones(3))
        finally:
            others.release()
        return "summed"

    first, second, third = together(work, wait_s=2.0)
    assert second == "woke"
    assert isinstance(first, PeerLost)
    assert isinstance(third, PeerLost)


def test_one_address_that_this_machine_has_not_is_refused() -> None:
    with pytest.raises(PeerLost, match="no network interface"):
        meet(None, 0, 2, address="203.0.113.9", wait_s=1.0)


def test_alone_nothing_is_added() -> None:
    assert ALONE.first(3) == 3
    ALONE.sum(None)  # type: ignore[arg-type]
    ALONE.close()
