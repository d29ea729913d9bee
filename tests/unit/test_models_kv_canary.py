"""The canary recomputes restored prefixes; one that differs closes the cache of its model, until it is opened by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kv_home import KvHome
from tiny import generator

from headrace.errors import NotFound
from headrace.models.kv.canary import TOLERANCE, PrefixCanary, difference
from headrace.models.kv.closing import ClosedRepresentations, closed_caches, reopen
from headrace.models.kv.format import BLOCK
from headrace.models.kv.service import KvService
from headrace.models.kv.use import KvCounts
from headrace.models.server.generator import Generated, Sampling, SmolLM
from headrace.storage.ledger import Ledger

PROMPT = [(7 * n) % 200 for n in range(3 * BLOCK + 20)]


@pytest.fixture(scope="module")
def model() -> Iterator[SmolLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield generator()
    torch.set_num_threads(threads)


def at_once(work: Callable[[], None]) -> None:
    work()


@pytest.fixture
def home(tmp_path: Path) -> KvHome:
    home = KvHome(tmp_path)
    home.endpoints = home.endpoints.model_copy(update={"kv_cache_canary": 1.0})
    return home


@pytest.fixture
def service(home: KvHome) -> Iterator[KvService]:
    service = KvService(lambda: home.endpoints, b"s", at_once)
    yield service
    service.close(10)


def ask(service: KvService, model: SmolLM, *, tenant: str = "acme") -> Generated:
    generation = Generated(list(PROMPT))
    cache = service.prompt(model, Ledger(), tenant=tenant)
    list(model.generate(PROMPT, Sampling(4), cache=cache, into=generation))
    assert service.writes.wait(30)
    return generation


def figures(service: KvService, model: SmolLM) -> dict[str, float]:
    return service.use.by_model()[model.version]


def test_a_prefix_is_recomputed_to_the_bit(service: KvService, model: SmolLM) -> None:
    ask(service, model)
    assert ask(service, model).reused_tokens == 3 * BLOCK
    assert figures(service, model)["canary_same"] == 1
    assert "canary_different" not in figures(service, model)
    assert service.closed.now() == []


class OtherWeights:
    """A model whose stored prefixes are another's: what a representation that is not named whole leads to."""

    def __init__(self, model: SmolLM) -> None:
        self.version, self.identity, self.shape = model.version, model.identity, model.shape
        self._model = model

    def recomputed(self, tokens: list[int]) -> Iterator[np.ndarray]:
        for number, block in enumerate(self._model.recomputed(tokens)):
            yield block if number < 2 else block + 2 * TOLERANCE * np.abs(block).max()


def test_one_that_differs_closes_the_cache_of_its_model_everywhere_and_says_so(
    service: KvService, model: SmolLM, home: KvHome, caplog: pytest.LogCaptureFixture
) -> None:
    plain = ask(service, model)
    with caplog.at_level(logging.ERROR, "headrace.models"):
        cache = service.prompt(OtherWeights(model), Ledger(), tenant="acme")
        list(model.generate(PROMPT, Sampling(4), cache=cache, into=Generated(list(PROMPT))))
    assert "is closed: a restored value of block 2 differs" in caplog.text
    assert ask(service, model).reused_tokens == 0
    assert ask(service, model).completion_tokens == plain.completion_tokens, "answers stay right, only slower"
    assert f'headrace_models_kv_closed{{model="{model.version}"}} 1' in service.metrics_text()
    assert 'action="load",done="no",reason="closed"' in service.metrics_text()
    other = KvService(lambda: home.endpoints, b"s", at_once)
    assert other.prompt(model, Ledger(), tenant="acme") is None, "on each server that shares the metadata store"
    other.close(0)
    (closed,) = closed_caches(home.metadata)
    assert (closed.model, closed.closed_at is not None) == (model.version, True)
    reopen(home.metadata, model.version)
    third = KvService(lambda: home.endpoints, b"s", at_once)
    assert ask(third, model).reused_tokens == 0, "none of the blocks from before"
    assert ask(third, model).reused_tokens == 3 * BLOCK
    third.close(10)
    with pytest.raises(NotFound, match="not closed"):
        reopen(home.metadata, model.version)


def test_a_share_is_checked_one_at_a_time() -> None:
    waiting: list[Callable[[], None]] = []
    draws = iter([0.5, 0.05, 0.0])
    canary, counts = PrefixCanary(waiting.append, draw=lambda: next(draws)), KvCounts()
    block = np.ones((1, 2, 1, BLOCK, 2), np.float32)
    for _ in range(3):
        canary.check(0.1, [block], lambda: iter([block]), counts.of("acme", "m"), lambda what: pytest.fail(what))
    while waiting:
        waiting.pop()()
    found = counts.by_model()["m"]
    assert (found["canary_same"], found["canary_skipped"]) == (1, 1)


def test_the_difference_is_a_share_of_a_layers_largest_value() -> None:
    block = np.zeros((2, 2, 1, 4, 2), np.float32)
    block[0, 0, 0, 0, 0], block[1, 0, 0, 0, 0] = 100.0, 1.0
    other = block.copy()
    other[1, 1, 0, 3, 1] = 0.5
    assert difference(block, block) == 0.0
    assert difference(other, block) == pytest.approx(0.5)
    other[0, 0, 0, 0, 0] = np.nan
    assert difference(other, block) == np.inf


def test_another_rotation_of_positions_is_seen(model: SmolLM) -> None:
    (first, second) = list(model.recomputed(PROMPT[: 2 * BLOCK]))
    (shifted,) = list(model.recomputed(PROMPT[BLOCK : 2 * BLOCK]))
    assert difference(shifted, second) > TOLERANCE
    assert difference(first, first) == 0.0


def test_what_is_closed_keeps_its_epoch() -> None:
    closed = ClosedRepresentations()
    assert closed.identity_of("m") == "m"
    closed.close("m", "v", "why", None)
    assert closed.identity_of("m") is None
    assert [one.model for one in closed.now()] == ["v"]
