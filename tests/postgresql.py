"""A real PostgreSQL of the tests' own: `pytest_plugins = ["postgresql"]` gives a file the fixture `server`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from needs import require

PASSWORD = "pass/word@of:ours"


@dataclass
class Server:
    """A PostgreSQL of its own on 127.0.0.1. PostgreSQL refuses to run as root, so it runs as the user its package made."""

    binaries: Path
    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    user: dict[str, Any] = field(default_factory=dict)
    password: str = PASSWORD

    @property
    def url(self) -> str:
        return f"postgresql://headrace:pass%2Fword%40of%3Aours@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        if os.geteuid() == 0:
            name = next(name for name in ("postgres", "nobody") if _has(name))
            entry = pwd.getpwnam(name)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.data, entry.pw_uid, entry.pw_gid)
        words = self.data / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        command = [self.binaries / "initdb", "-D", self.data / "data", "-U", "headrace", "-A", "scram-sha-256", "-E", "UTF8"]
        subprocess.run(
            [*command, "--locale=C", "--no-sync", f"--pwfile={words}"], check=True, capture_output=True, cwd="/", **self.user
        )

    def start(self) -> None:
        words = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.data / "data", "-p", str(self.port), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self.user,
        )
        import psycopg

        end = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # fast: it ends the sessions
            self.process.wait(30)
            self.process = None


def _has(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _binaries() -> Path | None:
    """Debian keeps the server's programs apart from the rest."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    return kept[-1].parent if kept else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    binaries = _binaries()
    require(
        binaries is not None and importlib.util.find_spec("psycopg") is not None,
        "PostgreSQL is not installed, or not its client: apt-get install postgresql; make install-postgresql.",
        unless="HEADRACE_TESTS_WITHOUT_POSTGRESQL",
    )
    assert binaries is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not below pytest's own directory, which other users cannot enter.
    data = Path(tempfile.mkdtemp(prefix="headrace-postgresql-"))
    server = Server(binaries, data, port)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(data, ignore_errors=True)
