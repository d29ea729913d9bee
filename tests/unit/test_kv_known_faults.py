"""Faults that users of other KV caches reported, each as a test of what would have shown it here; docs/kv-cache.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kv_contract import SHAPE, cache_on, held, zeros
from tiny import adapter, generator

from headrace.models.kv.backends import backend_of
from headrace.models.kv.blocks import BlockStore
from headrace.models.kv.format import BLOCK, Shape, pack, unpack
from headrace.models.server.generator import Generated, Sampling, SmolLM
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter

TOKENS = list(range(3 * BLOCK))
SIZE = len(pack("0" * 64, zeros([0] * BLOCK), SHAPE, b"s"))


@pytest.fixture(scope="module")
def model() -> Iterator[SmolLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield generator()
    torch.set_num_threads(threads)


def server(folder: Path) -> BlockStore:
    """What a server that was just started opens."""
    endpoints = Endpoints.model_construct(files_dir=folder, kv_backend="files", kv_memory_bytes=0)
    backend = backend_of(endpoints)
    return backend.open(backend.store, endpoints, Meter(Ledger(), "models"), wait=False)


def values(tokens: int, seed: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(SHAPE.array(tokens), dtype=np.float32)
    return SHAPE.rounded(drawn).astype(np.float32)


def identity(model: SmolLM, **changes: Any) -> str:
    """The identity of the model after its configuration was changed, which is then put back."""
    with changed(model._model.config, **changes):
        return SmolLM(model._model, model._tokenizer, version="served-name", weights=model.weights).identity


@contextmanager
def changed(config: Any, **changes: Any) -> Iterator[None]:
    before = {name: getattr(config, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def test_new_weights_under_an_old_name_read_no_old_block(model: SmolLM, tmp_path: Path) -> None:
    """vLLM 49261; SGLang 26792, 24758; llm-d-kv-cache 396; miles 2783; lmdeploy 4917; ds4 805."""
    adapter(model._model, tmp_path / "adapter")
    versions = [model, *(model.adapted(tmp_path / "adapter", version=model.version, digest=digest) for digest in ("r1", "r2"))]
    prompt = [(7 * n) % 200 for n in range(BLOCK + 20)]
    blocks = server(tmp_path / "files")
    for one in versions:
        done = Generated(list(prompt))
        cache = cache_on(blocks)
        cache._identity, cache._shape = one.identity, one.shape
        list(one.generate(prompt, Sampling(max_tokens=2), cache=cache, into=done))
        assert (done.reused_tokens, done.stored_tokens) == (0, BLOCK), "the same name, other weights"


def test_another_rope_scaling_is_another_representation(model: SmolLM) -> None:
    """vLLM 56311: blocks of factor 1 were read with factor 2."""
    scaled = {**model._model.config.rope_parameters, "rope_type": "linear", "factor": 2.0}
    assert identity(model, rope_parameters=scaled) not in ("", identity(model))


def test_another_attention_layout_is_another_representation(model: SmolLM) -> None:
    """vLLM 55904."""
    other = "eager" if model._model.config._attn_implementation != "eager" else "sdpa"
    assert identity(model, _attn_implementation=other) not in ("", identity(model))


def test_another_type_or_tokenizer_or_runner_is_another_representation(model: SmolLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 49438 (`dtype auto`), 49440 (two runners, the same number of bytes)."""
    exact = SmolLM(model._model, model._tokenizer, version="v", weights=model.weights, exact=True)
    assert exact.shape != model.shape
    blocks_of = {shape: cache_on_shape(shape) for shape in (model.shape, exact.shape)}
    assert len(set(blocks_of.values())) == 2
    before = identity(model)
    monkeypatch.setattr(torch, "__version__", "0.0.0")
    assert identity(model) != before


def cache_on_shape(shape: Shape) -> str:
    from headrace.models.kv.format import block_keys

    return block_keys(TOKENS, identity="m", tenant="acme", shape=shape, secret=b"s")[0]


def test_a_block_of_the_same_size_in_another_layout_is_refused() -> None:
    """LMCache 4463 and 4247, Dynamo 14416: keys and values in another order, and as many bytes."""
    one, other = Shape(2, 1, 4), Shape(1, 2, 4)
    block = np.ones(one.array(BLOCK), np.float32)
    data = pack("ab" * 32, block, one, b"s")
    assert unpack("ab" * 32, data, one, b"s") is not None
    assert unpack("ab" * 32, data, other, b"s") is None


def test_another_requests_block_under_this_name_is_not_read(tmp_path: Path) -> None:
    """LMCache 4385: blocks of another request were served from local disk; openvino.genai 3722: two prompts, one name."""
    blocks = server(tmp_path)
    for seed, tokens in ((1, TOKENS[:BLOCK]), (2, [9] * BLOCK)):
        cache_on(blocks).save(tokens, values(BLOCK, seed), restored=0)
    one, other = (info.name for info in held(blocks))
    mine, theirs = blocks.get(one), blocks.get(other)
    assert mine is not None
    assert theirs is not None
    blocks.put(one, theirs)
    blocks.put(other, mine)
    for tokens in (TOKENS[:BLOCK], [9] * BLOCK):
        assert cache_on(blocks).restore(tokens, zeros(tokens)) == 0
    assert held(blocks) == []


def test_a_block_that_goes_during_a_restore_shortens_it_and_ends_nothing(tmp_path: Path) -> None:
    """vLLM 54914: the engine died when a block was not found."""
    blocks = server(tmp_path)
    cache_on(blocks).save(TOKENS, values(3 * BLOCK), restored=0)

    class Going:
        """Evicts the second block just before it is read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(blocks, name)

        def read_each(self, names: Sequence[str], most: int, use: Callable[[bytes | memoryview | None], bool]) -> None:
            def used(data: bytes | memoryview | None) -> bool:
                goes_on = use(data)
                blocks.delete(names[1])
                return goes_on

            blocks.read_each(names, most, used)

    assert cache_on(Going()).restore(TOKENS, zeros(TOKENS)) == BLOCK


def test_a_server_that_was_started_again_knows_every_file(tmp_path: Path) -> None:
    """LMCache 4564: usage was counted from zero after a restart."""
    cache_on(server(tmp_path)).save(TOKENS, values(3 * BLOCK), restored=0)
    again = server(tmp_path)
    assert again.bytes("acme") == (3 * SIZE, 3 * SIZE)
    assert len(held(again)) == 3
    assert cache_on(again, 3 * SIZE).save([7] * BLOCK, zeros([7] * BLOCK), restored=0) == 1
    assert server(tmp_path).bytes("acme")[0] <= 3 * SIZE


@pytest.mark.parametrize("servers", [1, 3])
def test_the_limit_is_that_of_the_directory_however_many_write(tmp_path: Path, servers: int) -> None:
    """LMCache 4725 (4 TB became 14 TB), 1454, 4664, and 1399: the limit held for each worker."""
    stores = [server(tmp_path) for _ in range(servers)]
    for number in range(30):
        cache_on(stores[number % servers], 6 * SIZE).save([number] * BLOCK, zeros([0] * BLOCK), restored=0)
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert on_disk <= 6 * SIZE


def test_a_limit_below_one_block_stores_nothing(tmp_path: Path) -> None:
    """A limit that cannot hold a block is no licence to exceed it."""
    blocks = server(tmp_path)
    assert cache_on(blocks, SIZE - 1).save(TOKENS, values(3 * BLOCK), restored=0) == 0
    assert held(blocks) == []


def test_half_written_files_are_neither_read_nor_counted(tmp_path: Path) -> None:
    """A file of the right name appears whole or not at all, wherever its writer was killed."""
    blocks = server(tmp_path)
    cache_on(blocks).save(TOKENS[:BLOCK], values(BLOCK), restored=0)
    path = next(tmp_path.rglob("*.safetensors"))
    path.rename(path.with_name(f".part-0123456789ab-{path.name}"))
    again = server(tmp_path)
    assert cache_on(again).restore(TOKENS[:BLOCK], zeros(TOKENS[:BLOCK])) == 0
    assert again.bytes("acme") == (0, 0)


def test_a_tenants_blocks_go_alone_and_none_is_left(tmp_path: Path) -> None:
    """Asked for and not given elsewhere: deletion by tenant, with what was deleted."""
    blocks = server(tmp_path)
    for tenant in ("acme", "globex"):
        cache_on(blocks, tenant=tenant).save(TOKENS, values(3 * BLOCK), restored=0)
    noted: list[str] = []
    assert blocks.drop("acme", lambda found: noted.extend(info.name for info in found)) == 3
    assert all(name.startswith("acme/") for name in noted)
    assert {info.name.split("/")[0] for info in held(blocks)} == {"globex"}
