"""No tenant hits, times or enumerates another's KV blocks: a lookup does the same whether another one has the prompt or nobody.

Times are compared as work: the calls to the store and what they gave, bytes and operations in the ledger, and the figures that
are counted. `python -m bench.kv` has the wall times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_home import KvHome
from tiny import generator

from headrace.models.kv.blocks import BlockStore
from headrace.models.kv.format import BLOCK
from headrace.models.kv.service import KvService
from headrace.models.server.generator import Generated, Sampling, SmolLM
from headrace.storage.ledger import Ledger

CACHED = [(7 * n) % 200 for n in range(3 * BLOCK + 20)]
UNKNOWN = [(11 * n + 3) % 200 for n in range(3 * BLOCK + 20)]
TIMES = {"prefill_s", "read_s", "vain_s", "miss_s", "write_s", "canary_s"}


@pytest.fixture(scope="module")
def model() -> Iterator[SmolLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield generator()
    torch.set_num_threads(threads)


class Recording:
    """A block store that notes each call of a lookup, and what it gave."""

    def __init__(self, store: BlockStore, calls: list[tuple[str, object]]) -> None:
        self._store, self._calls = store, calls

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            given = getattr(self._store, name)(*arguments, **named)
            self._calls.append((name, given))
            return given

        return call

    def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
        def used(data: bytes | memoryview | None) -> bool:
            self._calls.append(("read", None if data is None else len(data)))
            return use(data)

        self._calls.append(("read_each", (len(names), most)))
        self._store.read_each(names, most, used)


class Server:
    """A model server's KV cache over one home."""

    def __init__(self, home: KvHome, model: SmolLM) -> None:
        self.home, self.model = home, model
        self.service = KvService(lambda: home.endpoints, b"s", lambda work: work())
        self.calls: list[tuple[str, object]] = []
        opened = self.service._store
        self.service._store = lambda *args: Recording(opened(*args), self.calls)  # type: ignore[method-assign,assignment,return-value]

    def ask(self, prompt: list[int], tenant: str, readers_id: str = "") -> Generated:
        generation = Generated(list(prompt))
        cache = self.service.prompt(self.model, Ledger(), tenant=tenant, readers_id=readers_id, documents=set())
        list(self.model.generate(prompt, Sampling(1), cache=cache, into=generation))
        return generation

    def looked_up(self, prompt: list[int], tenant: str, readers_id: str = "") -> tuple[object, ...]:
        """What looking a prompt up does, to the last call and byte."""
        ledger, into = Ledger(), torch.empty(self.model.shape.array(len(prompt))).numpy()
        cache = self.service.prompt(self.model, ledger, tenant=tenant, readers_id=readers_id, documents=set())
        assert cache is not None
        before = self.service.use.by_model()
        self.calls.clear()
        restored = cache.restore(prompt, into)
        calls = list(self.calls)
        figures = {
            name: value - before.get(self.model.version, {}).get(name, 0.0)
            for name, value in self.service.use.by_model()[self.model.version].items()
            if name not in TIMES
        }
        rows = [(row.store, row.direction, row.ops, row.bytes) for row in ledger.rows()]
        return restored, calls, rows, figures


@pytest.fixture(params=[0, 1 << 24], ids=["files", "memory"])
def server(request: pytest.FixtureRequest, tmp_path: Path, model: SmolLM) -> Iterator[Server]:
    home = KvHome(tmp_path)
    home.endpoints = home.endpoints.model_copy(update={"kv_memory_bytes": request.param})
    server = Server(home, model)
    yield server
    server.service.close(0)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "waiting"])
@pytest.mark.parametrize(("tenant", "readers_id"), [("acme", ""), ("globex", "other readers"), ("", "")])
def test_looking_up_what_another_has_does_what_looking_up_what_nobody_has_does(
    server: Server, stored: bool, tenant: str, readers_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stored:  # nothing leaves the queue
        monkeypatch.setattr("headrace.models.kv.writes.WriteBehind._work", lambda self: None)
    assert server.ask(CACHED, "globex").stored_tokens == 3 * BLOCK
    if stored:
        assert server.service.writes.wait(30)
    own, *_ = server.looked_up(CACHED, "globex")
    assert own == 3 * BLOCK, "there is something to be found"
    assert not stored or server.service.writes.wait(30), "its use is noted"
    others = server.looked_up(CACHED, tenant, readers_id)
    nobodys = server.looked_up(UNKNOWN, tenant, readers_id)
    assert others == nobodys
    assert others[0] == 0
    assert others[1][1:] == [("read", None)], "one look at one name, which is not there"


def test_an_answer_says_of_no_token_that_another_has_it_cached(server: Server) -> None:
    server.ask(CACHED, "globex")
    assert server.service.writes.wait(30)
    for tenant, readers_id in (("acme", ""), ("globex", "other readers"), ("", "")):
        answer = server.ask(CACHED, tenant, readers_id)
        assert (answer.reused_tokens, answer.stored_tokens) == (0, 3 * BLOCK)
        assert server.service.writes.wait(30)
    assert server.ask(CACHED, "globex").reused_tokens == 3 * BLOCK


def test_names_tell_nothing_of_another_tenants_prompts(server: Server) -> None:
    for tenant in ("globex", "acme"):
        server.ask(CACHED, tenant)
    server.ask(UNKNOWN, "acme")
    assert server.service.writes.wait(30)
    by_tenant = {
        tenant: {name for name in server.home.blocks() if name.startswith(f"{tenant}/")} for tenant in ("globex", "acme")
    }
    assert {tenant: len(names) for tenant, names in by_tenant.items()} == {"globex": 3, "acme": 6}
    keys = {tenant: {name.rpartition("/")[2].partition(".")[0] for name in names} for tenant, names in by_tenant.items()}
    assert not keys["globex"] & keys["acme"], "the same prompt has no name in common"
    assert all(info.name.startswith("acme/") for info in server.home.store.oldest(100, "acme"))
    assert "globex" not in server.service.metrics_text(), "figures that anybody may scrape are not by tenant"
