"""`headrace up` with two tenants and the models of words.py, for the tests of the API."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from conftest import Home
from shell import Command
from words import Words, words

from headrace.platform.home import Home as PlatformHome
from headrace.platform.state import read_state
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.sql import select


@dataclass
class Api:
    """The API under test, its home, and what it wrote to its terminal so far."""

    url: str
    token: str
    home: Home
    process: Command
    log: Path
    keys: dict[str, str] = field(default_factory=dict)
    models: Words | None = None
    """What embeds and answers, where that is not the embedded model server."""
    _open: ExitStack = field(default_factory=ExitStack)

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with a key (the token of `headrace up` unless one is given)."""
        headers = {"Authorization": f"Bearer {key or self.token}"}
        return self._open.enter_context(
            httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False, verify=False)
        )

    def tenant(self, name: str, **quotas: int) -> None:
        """Add a tenant."""
        self.client().post("/v1/tenants", json={"name": name, "quotas": quotas}).raise_for_status()

    def mint(self, tenant: str, *scopes: str) -> tuple[str, str]:
        """A new key's text and id."""
        made = self.client().post("/v1/keys", json={"tenant": tenant, "scopes": scopes}).raise_for_status().json()
        return made["key"], made["id"]

    def indexed(self, client: httpx.Client, uri: str, seconds: float = 90) -> dict[str, Any]:
        """A document, once it is indexed or cannot be."""
        end = time.monotonic() + seconds
        while (document := client.get(f"/v1/documents/{uri}").raise_for_status().json())["status"] not in ("indexed", "failed"):
            assert time.monotonic() < end, document
            time.sleep(0.1)
        return dict(document)

    @property
    def endpoints(self) -> Endpoints:
        """Where its storage is."""
        state = read_state(PlatformHome(self.home.path))
        assert state is not None
        return state.endpoints

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query, read here: a command takes longer."""
        return select(query, self.endpoints, Ledger())

    def stop(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        self._open.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._open.close()
        self.process.kill()


def started(home: Home, log: Path, *words: str) -> Api:
    """`headrace up` in a home, with more words, once it answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    process = Command(home, "up", "--port", str(port), *words, log=log)
    end = time.monotonic() + 120
    while "token=" not in log.read_text() or not _answers(port):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    token = log.read_text().rpartition("token=")[2].split()[0]
    return Api(f"http://127.0.0.1:{port}", token, home, process, log)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2, trust_env=False, verify=False).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def served(home: Home, log: Path) -> Iterator[Api]:
    """The API without its loop, with tenants acme and globex: keys `acme`, `globex` may read and write, `admin` everything."""
    with words() as models:
        home.env.update(models.env | {"HEADRACE_AUTOMATIC__ROUNDS": "false"})
        api = started(home, log)
        api.models = models
        try:
            for tenant in ("acme", "globex"):
                api.tenant(tenant)
                api.keys[tenant] = api.mint(tenant, "read", "write")[0]
            api.keys["admin"] = api.mint("acme", "admin")[0]
            yield api
            assert api.stop() == 0, api.log.read_text()
        finally:
            api.kill()
