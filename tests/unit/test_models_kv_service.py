"""The KV cache of one model server: what it reads and stores, follows and counts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kv_home import KvHome
from tiny import generator
from traffic import until

from headrace.catalog import KV_CACHE
from headrace.errors import Unavailable
from headrace.models.kv.blocks import FileBlocks
from headrace.models.kv.format import BLOCK
from headrace.models.kv.index import EVERY
from headrace.models.kv.revocation import Revocations, RevokedDocument
from headrace.models.kv.service import KvService
from headrace.models.kv.use import recorded_use
from headrace.models.server.generator import Generated, Sampling, SmolLM
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger

PROMPT = [(7 * n) % 200 for n in range(3 * BLOCK + 20)]
MANUAL = "a" * 16


@pytest.fixture(scope="module")
def model() -> Iterator[SmolLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield generator()
    torch.set_num_threads(threads)


@pytest.fixture
def home(tmp_path: Path) -> KvHome:
    home = KvHome(tmp_path)
    home.document(MANUAL)
    return home


@pytest.fixture
def service(home: KvHome) -> Iterator[KvService]:
    service = KvService(lambda: home.endpoints, b"s", lambda work: work())
    yield service
    service.close(10)


def ask(
    service: KvService, model: SmolLM, *, documents: set[str] | None = None, run: str = "", ledger: Ledger | None = None
) -> Generated:
    generation = Generated(list(PROMPT))
    cache = service.prompt(model, ledger or Ledger(), tenant="acme", documents=documents, run=run)
    list(model.generate(PROMPT, Sampling(2), cache=cache, into=generation))
    return generation


def test_an_answer_hands_its_blocks_over_and_the_next_finds_them(service: KvService, model: SmolLM, home: KvHome) -> None:
    first = ask(service, model, documents={MANUAL})
    second = ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    third = ask(service, model, documents={MANUAL})
    assert [one.reused_tokens for one in (first, second, third)] == [0, 3 * BLOCK, 3 * BLOCK]
    assert first.stored_tokens == 3 * BLOCK
    assert first.logprobs == second.logprobs == third.logprobs
    assert len(home.blocks()) == 3
    assert {document for document, _ in home.noted()} == {MANUAL}


def test_a_prefix_that_was_found_is_noted_as_used_behind_its_answer(
    service: KvService, model: SmolLM, home: KvHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    noted: list[tuple[str, str]] = []
    touch = FileBlocks.touch

    def noting(store: FileBlocks, name: str) -> None:
        noted.append((name, threading.current_thread().name))
        touch(store, name)

    monkeypatch.setattr(FileBlocks, "touch", noting)  # reading alone may set the time of access, too
    assert ask(service, model, documents={MANUAL}).reused_tokens == 3 * BLOCK
    assert service.writes.wait(30)
    assert {name for name, _ in noted} == home.blocks()
    assert [name.split(".")[1] for name, _ in noted] == ["2", "1", "0"], "a block is used no later than those behind it"
    assert {thread for _, thread in noted} == {"kv writes"}


def test_a_document_that_goes_takes_its_blocks_along_within_seconds(service: KvService, model: SmolLM, home: KvHome) -> None:
    ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    Revocations(home.metadata).note([RevokedDocument("acme", MANUAL, "manual.md", "deleted")])  # and its process dies
    until(30, lambda: not home.blocks(), home.blocks)
    until(30, lambda: Revocations(home.metadata).report(home.store)[0].proven, lambda: "the report")
    assert ask(service, model, documents={MANUAL}).reused_tokens == 0
    assert service.writes.wait(30)
    assert home.blocks() == set(), "an answer that had its passages stores nothing"
    assert 'done="no",reason="revoked"' in service.metrics_text()


def test_the_metadata_store_is_whole_in_its_file_once_all_have_left(
    service: KvService, model: SmolLM, home: KvHome, tmp_path: Path
) -> None:
    """A model server left its connection open: of a home at rest `metadata.db` was empty, and all of it in the log beside it."""
    ask(service, model, documents={MANUAL})
    service.close(10)
    home.metadata.close()
    assert [path.name for path in tmp_path.rglob("*.db*")] == ["metadata.db"]


def test_a_whole_tenant_that_goes_is_read_nowhere(service: KvService, model: SmolLM, home: KvHome) -> None:
    ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    Revocations(home.metadata).note([RevokedDocument("acme", EVERY, "", "forgotten")])
    until(30, lambda: not home.blocks(), home.blocks)


def test_without_a_look_for_revocations_the_cache_is_left_alone(
    service: KvService, model: SmolLM, home: KvHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    monkeypatch.setattr("headrace.models.kv.service.BLIND_S", -1.0)
    assert ask(service, model, documents={MANUAL}).reused_tokens == 0
    assert 'reason="revocations unknown"' in service.metrics_text()


def test_without_a_metadata_store_blocks_are_stored_and_it_is_said_what_that_means(
    model: SmolLM, home: KvHome, caplog: pytest.LogCaptureFixture
) -> None:
    home.endpoints = home.endpoints.model_copy(update={"metadata": None})
    service = KvService(lambda: home.endpoints, b"s", lambda work: work())
    ask(service, model, documents={MANUAL})
    service.close(30)
    assert len(home.blocks()) == 3
    assert "not revoked by document" in caplog.text


def test_without_endpoints_prompts_are_computed(model: SmolLM) -> None:
    def nowhere() -> Endpoints:
        raise Unavailable("No endpoints yet.", hint="Wait.")

    service = KvService(nowhere, b"s", lambda work: work())
    assert service.prompt(model, Ledger(), tenant="acme") is None
    service.close(0)


def test_what_is_stored_is_told_to_its_run_once(service: KvService, model: SmolLM) -> None:
    ask(service, model, documents={MANUAL}, run="one")
    entries = service.settle("one", 30)
    assert sum(entry["bytes"] for entry in entries if entry["store"] == KV_CACHE.name) > 0
    assert {entry["tenant"] for entry in entries} == {"acme"}
    assert service.settle("one", 30) == service.settle("two", 0) == []


def test_figures_are_summed_over_servers(service: KvService, model: SmolLM, home: KvHome) -> None:
    for _ in range(2):
        ask(service, model, documents={MANUAL})
        service.settle("", 30)
    other = KvService(lambda: home.endpoints, b"s", lambda work: work())
    ask(other, model, documents={MANUAL})
    other.close(30)
    (found,) = recorded_use(home.metadata).values()
    assert (found["answers"], found["prompt_tokens"], found["restored_tokens"]) == (3, 3 * len(PROMPT), 2 * 3 * BLOCK)
    assert found["decision:load:yes:policy"] == 3
    assert found["decision:store:yes:policy"] == 1
    assert found["prefill_tokens"] == 3 * len(PROMPT) - found["restored_tokens"]
    assert min(found[name] for name in ("prefill_s", "read_s", "vain_s", "write_s", "misses")) > 0


def test_blocks_that_nobody_used_for_long_go(model: SmolLM, home: KvHome) -> None:
    home.endpoints = home.endpoints.model_copy(update={"kv_cache_ttl_s": 3600.0})
    first = KvService(lambda: home.endpoints, b"s", lambda work: work())
    ask(first, model, documents={MANUAL})
    first.close(30)
    old, *others = sorted(home.blocks())
    at = time.time() - 7200
    os.utime(home.endpoints.files_dir / KV_CACHE.name / old, (at, at))
    second = KvService(lambda: home.endpoints, b"s", lambda work: work())
    second.start()
    until(30, lambda: home.blocks() == set(others), home.blocks)
    until(30, lambda: old not in {block for _, block in home.noted()}, home.noted)  # the file goes first, then its note
    second.close(0)


def test_metrics_are_prometheus_text(service: KvService, model: SmolLM) -> None:
    ask(service, model, documents={MANUAL})
    assert service.writes.wait(30)
    text = service.metrics_text()
    assert text.endswith("\n")
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        assert name in ("#",) or float(rest.rpartition(" ")[2]) >= 0
    assert f'headrace_models_kv_prompt_tokens_total{{model="{model.version}"}} {len(PROMPT)}' in text
