"""Nodes of Ray on this machine, in a network of loopback alone, for the tests that lose one; and what a process listens on."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS, up
"""


@contextlib.contextmanager
def loopback_alone() -> Iterator[list[str]]:
    """What a command begins with to run in a network that has loopback and nothing else: there, Ray's nodes listen everywhere."""
    become = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter, which make a network of loopback alone, are not installed.")
    with subprocess.Popen(["unshare", *become, "--net", "sleep", "900"]) as holder:
        try:
            while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                if holder.poll() is not None:
                    pytest.skip("This machine lets nobody make a network of loopback alone.")
            enter = ["nsenter", f"--target={holder.pid}", *(["--user", "--preserve-credentials"] if become else []), "--net"]
            subprocess.run([*enter, sys.executable, "-c", LOOPBACK_UP], check=True)
            yield enter
        finally:
            holder.kill()


class RayNodes:
    """Nodes of one cluster, each with a raylet of its own; the first that is started is the head."""

    def __init__(self, folder: Path, inside: list[str]) -> None:
        self._inside, self._log = inside, folder / "log"
        # The path of a socket has at most 107 bytes, and Ray adds some sixty.
        self._short = Path(tempfile.mkdtemp(prefix="r"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_enable_metrics_collection": "0",
            # A dead node is noticed in seconds.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }

    def start(self, cpus: int = 2) -> int:
        """Start a node, and return the process id of its raylet."""
        ray = Path(sys.executable).with_name("ray")
        start = [*self._inside, str(ray), "start", "--block", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"]
        start += ["--object-store-memory=100000000", "--disable-usage-stats"]
        port = self._address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._short}"]
        own = [f"--address={self._address}"] if self._nodes else head
        with self._log.open("ab") as log:
            node = subprocess.Popen([*start, *own], env=self._env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._nodes.append(node)
        while self._log.read_bytes().count(b"Ray runtime started") < len(self._nodes):
            assert node.poll() is None, self._log.read_text()
        (raylet,) = [process for process in psutil.Process(node.pid).children(recursive=True) if process.name() == "raylet"]
        return raylet.pid

    @contextlib.contextmanager
    def driver(self, program: str, *words: object) -> Iterator[subprocess.Popen[str]]:
        """A driver of its own, which uses the cluster."""
        driver = subprocess.Popen(
            [*self._inside, sys.executable, "-c", program, *map(str, words)],
            env=self._env | {"RAY_ADDRESS": self._address, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield driver
        finally:
            driver.kill()
            driver.communicate()

    def end(self) -> None:
        """End all nodes."""
        started = [
            process
            for node in self._nodes
            if node.poll() is None
            for process in psutil.Process(node.pid).children(recursive=True)
        ]
        for node in self._nodes:
            node.kill()
            node.wait()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, timeout=20)
        shutil.rmtree(self._short, ignore_errors=True)


@contextlib.contextmanager
def ray_nodes(folder: Path) -> Iterator[RayNodes]:
    """A cluster without nodes, in a network of loopback alone; `folder` gets their log."""
    with loopback_alone() as inside:
        nodes = RayNodes(folder, inside)
        try:
            yield nodes
        finally:
            nodes.end()


def listening(root: psutil.Process | None = None) -> dict[str, set[str]]:
    """Addresses that a process (this one) and every process under it listens on, by process name."""
    found: dict[str, set[str]] = {}
    root = root or psutil.Process()
    for process in [root, *root.children(recursive=True)]:
        try:
            ips = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
            found.setdefault(process.name(), set()).update(ip.removeprefix("::ffff:") for ip in ips)
        except psutil.NoSuchProcess:
            continue
    return found


def beyond_loopback(root: psutil.Process | None = None) -> dict[str, set[str]]:
    """Addresses other than loopback among them."""
    found = {name: {ip for ip in ips if not ip_address(ip).is_loopback} for name, ips in listening(root).items()}
    return {name: ips for name, ips in found.items() if ips}
