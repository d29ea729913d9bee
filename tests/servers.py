"""A real object store, catalog and broker that a test starts, kills, freezes and starts again one by one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore

from headrace.platform.address import HEAD, choose_ports, embedded_endpoints
from headrace.platform.child import Child, PortTaken
from headrace.platform.health import CHECKS
from headrace.platform.home import Home
from headrace.platform.keys import keys_of
from headrace.platform.seaweedfs import start_weed
from headrace.platform.supervisor import PORT_TRIES
from headrace.platform.tansu import start_broker
from headrace.storage.endpoints import Endpoints
from headrace.storage.objects import connect


@contextmanager
def serving(root: Path) -> Iterator[Servers]:
    """Both servers, for the length of a block."""
    servers = Servers(root)
    try:
        yield servers
    finally:
        servers.close()


class Servers:
    """SeaweedFS (`objects`) and Tansu (`head`), as a cluster that somebody brought: nobody restarts them but the test."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.prepare()
        self._keys = keys_of(self.home)
        self.children: dict[str, Child] = {}
        self._begin()

    def _begin(self) -> None:
        """Both on free ports; on others where somebody else had one of them first."""
        for tries_left in reversed(range(PORT_TRIES)):
            self._ports = choose_ports()
            found = embedded_endpoints(self.home, self._keys, self._ports)
            self.endpoints: Endpoints = found.model_copy(update={"signing_key": ""})
            try:
                self.start("objects")
                self.start("head")
                return
            except PortTaken:
                if not tries_left:
                    raise
                self.close()

    def start(self, part: str) -> None:
        """Start one server and wait until it answers."""
        starts = {"objects": start_weed, "head": start_broker}
        child = self.children[part] = starts[part](self.home, self._keys, self._ports, ())
        end = time.monotonic() + 30
        while (fault := CHECKS[part](self.endpoints)) is not None or child.ended:
            if child.ended:
                raise child.fault(f"ended while starting ({fault})")
            assert time.monotonic() < end, f"{part}: {fault}\n{child.last_words()}"
            time.sleep(0.05)

    def kill(self, part: str) -> None:
        """kill -9."""
        self.children[part].process.kill()
        self.children[part].process.wait()

    def freeze(self, part: str) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.children[part].pid, signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        """SIGCONT."""
        os.kill(self.children[part].pid, signal.SIGCONT)

    def empty_the_head(self) -> None:
        """The broker's disk is replaced by an empty one: it starts again under its old name and knows nothing."""
        self.kill("head")
        disk = connect(self.endpoints, HEAD)
        for page in obstore.list(disk):
            obstore.delete(disk, [found["path"] for found in page])
        self.start("head")

    def forget(self, topic: str, partition: int, before: int) -> None:
        """The broker's retention deletes records, as Tansu would hold it: batches gone, the low end moved."""
        disk = connect(self.endpoints, HEAD)
        folder = f"clusters/{self._keys.cluster_id}/topics/{topic}/partitions/{partition:010}"
        batches = sorted(f["path"] for page in obstore.list(disk, f"{folder}/records") for f in page)
        starts = [int(Path(path).stem) for path in batches]
        assert before in starts, f"{before} does not begin a batch: {starts}"
        obstore.delete(disk, [path for path, start in zip(batches, starts, strict=True) if start < before])
        watermark = obstore.get(disk, f"{folder}/watermark.json").bytes().to_bytes().replace(b'"low":null', b'"low":%d' % before)
        self.kill("head")  # it keeps the watermark in memory
        obstore.put(disk, f"{folder}/watermark.json", watermark)
        self.start("head")

    def close(self) -> None:
        """End both."""
        for part in ("head", "objects"):
            child = self.children.get(part)
            if child is not None and not child.ended:
                self.thaw(part)
                self.kill(part)
