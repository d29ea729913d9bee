"""Memory of prompts that is used again: never while something refers to it, bounded, and without a trace in answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import generator

from headrace.catalog import KV_CACHE
from headrace.models.kv.blocks import FileBlocks
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape
from headrace.models.kv.prompt_memory import PromptMemory
from headrace.models.server.generator import Generated, Sampling, SmolLM
from headrace.storage.endpoints import Endpoints
from headrace.storage.files import FileWriter
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

SHAPE = Shape(2, 1, 8)
TOKEN_BYTES = 2 * 2 * 8 * 4
PROMPT = [(7 * n) % 200 for n in range(3 * BLOCK + 20)]


@pytest.fixture
def model() -> Iterator[SmolLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield generator()
    torch.set_num_threads(threads)


@pytest.fixture
def counted() -> Iterator[None]:
    """Only counted references end: nothing waits for the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def answer(model: SmolLM, cache: KvCache | None = None) -> Generated:
    generated = Generated(PROMPT)
    for _ in model.generate(PROMPT, Sampling(max_tokens=8), cache=cache, into=generated):
        pass
    return generated


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_no_view_of_it_is_left(counted: None) -> None:
    memory = PromptMemory(1 << 20)
    first = memory.take(SHAPE, 100)
    assert first.shape == SHAPE.array(100)
    first[:] = 1.0
    where, view = address(first), torch.from_numpy(first[..., 10:20, :])[1].numpy()
    del first
    assert memory.unused_bytes == 0
    other = memory.take(SHAPE, 100)
    other[:] = 2.0
    assert np.all(view == 1.0)
    del view
    assert memory.unused_bytes == 100 * TOKEN_BYTES
    again = memory.take(SHAPE, 50)
    assert address(again) == where
    assert memory.unused_bytes == 0


def test_what_is_kept_is_bounded(counted: None) -> None:
    memory = PromptMemory(100 * TOKEN_BYTES, pieces=2)
    taken = [memory.take(SHAPE, 100) for _ in range(5)]
    longer = memory.take(SHAPE, 101)
    longer[:] = 1.0
    assert len({*map(address, taken)}) == 5
    del taken
    assert memory.unused_bytes == 2 * 100 * TOKEN_BYTES
    del longer
    assert memory.unused_bytes == 2 * 100 * TOKEN_BYTES


def test_a_long_prompt_that_came_once_counts_with_what_it_left(counted: None) -> None:
    memory = PromptMemory(1 << 20)
    for tokens in (10, 500, 10):
        memory.take(SHAPE, tokens)[:] = 1.0
    assert memory.unused_bytes == 500 * TOKEN_BYTES


def test_an_answer_gives_its_memory_back_and_so_does_one_that_is_broken_off(model: SmolLM, counted: None) -> None:
    answer(model)
    assert model._memory.unused_bytes > 0
    pieces = model.generate(PROMPT, Sampling(max_tokens=8), into=Generated(PROMPT))
    next(pieces)
    assert model._memory.unused_bytes == 0
    pieces.close()
    del pieces
    assert model._memory.unused_bytes > 0


def test_what_was_in_the_memory_shows_in_no_answer(model: SmolLM, tmp_path: Path, counted: None) -> None:
    """Another tenant's values, say; NaN, since whatever reads it becomes NaN itself."""
    files = FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=tmp_path), Meter(Ledger(), "models"))
    cache = KvCache(
        FileBlocks(files), identity="i", tenant="acme", shape=model.shape, secret=b"s", limit_bytes=1 << 40, share_bytes=1 << 40
    )
    plain = answer(model)
    for restored in (0, 3 * BLOCK):
        before = model._memory.take(model.shape, len(PROMPT) + 8)
        where = address(before)
        before[:] = np.nan
        del before
        found = answer(model, cache)
        assert found.reused_tokens == restored
        assert (found.completion_tokens, found.logprobs) == (plain.completion_tokens, plain.logprobs)
        assert address(model._memory.take(model.shape, 1)) == where, "the answer used that memory"


def test_values_that_wait_to_be_stored_are_no_longer_changed(model: SmolLM, counted: None) -> None:
    kept: list[np.ndarray] = []

    class Waiting(KvCache):
        def keep(self, tokens: object, values: np.ndarray, *, restored: int) -> int:
            kept.append(values[..., :BLOCK, :])
            return 0

    cache = Waiting(
        FileBlocks(FileWriter(KV_CACHE, Endpoints.model_construct(files_dir=Path("/nowhere")), Meter(Ledger(), "models"))),
        identity="", tenant="acme", shape=model.shape, secret=b"s", limit_bytes=1 << 40,
    )  # fmt: skip
    answer(model, cache)
    copy = kept[0].copy()
    answer(model, cache)
    assert address(kept[0]) != address(kept[1])
    assert np.array_equal(kept[0], copy)
    assert model._memory.unused_bytes == 0
    kept.clear()
    assert model._memory.unused_bytes > 0
