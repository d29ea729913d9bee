"""What every block store of the KV cache promises: `CONTRACT`, functions of a store, which tests call with every backend.

Backends without a server: `unit/test_models_kv_blocks.py`; objects and a mounted file system: `integration/test_kv_backends.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from headrace.errors import HeadraceError
from headrace.models.kv.blocks import BlockInfo, BlockStore, tenant_prefix
from headrace.models.kv.cache import KvCache
from headrace.models.kv.format import BLOCK, Shape, pack

SHAPE = Shape(1, 1, 2)
TICK_S = 0.02  # more than a tick of the file system's clock


def held(store: BlockStore) -> list[BlockInfo]:
    """All blocks, by name."""
    return sorted(store.oldest(10_000), key=lambda info: info.name)


def zeros(tokens: Sequence[int]) -> np.ndarray:
    return np.zeros(SHAPE.array(len(tokens)), np.float32)


def cache_on(store: BlockStore, limit: int = 1 << 20, tenant: str = "acme", secret: bytes = b"s") -> KvCache:
    return KvCache(store, identity="m", tenant=tenant, shape=SHAPE, secret=secret, limit_bytes=limit)


def a_block_is_put_listed_read_and_deleted(store: BlockStore) -> None:
    assert store.get("acme/a") is None
    assert not store.has("acme/a")
    store.put("acme/a", b"12")
    store.put("acme/a", b"123")
    assert store.get("acme/a") == store.get("acme/a") == b"123"
    assert store.has("acme/a")
    assert [(info.name, info.bytes) for info in held(store)] == [("acme/a", 3)]
    store.delete("acme/a")
    store.delete("acme/a")
    assert (store.get("acme/a"), store.has("acme/a"), held(store)) == (None, False, [])
    with pytest.raises(HeadraceError):
        store.touch("acme/a")


def bytes_are_those_of_all_tenants_and_of_one(store: BlockStore) -> None:
    assert store.bytes("acme") == (0, 0)
    for name, data in (("acme/aa/a", b"12"), ("acme/bb/b", b"345"), ("acme2/aa/a", b"6"), (f"{tenant_prefix('')}aa/a", b"78")):
        store.put(name, data)
    assert (store.bytes("acme"), store.bytes("acme2"), store.bytes(""), store.bytes("nobody")) == ((8, 5), (8, 1), (8, 2), (8, 0))
    store.put("acme/aa/a", b"1234")
    store.delete("acme/bb/b")
    assert store.bytes("acme") == (7, 4)


def the_blocks_used_least_recently_are_named_of_all_tenants_or_of_one(store: BlockStore) -> None:
    names = ["acme/a", "globex/b", "acme/c", "globex/d", "acme/e"]
    for name in names:
        store.put(name, b"1")
    for name in reversed(names):  # so the first is the newest
        store.touch(name)
        time.sleep(TICK_S)
    assert {info.name for info in store.oldest(2)} == {"acme/e", "globex/d"}
    assert {info.name for info in store.oldest(2, "acme")} == {"acme/e", "acme/c"}
    assert store.oldest(0) == store.oldest(5, "initech") == []


def a_block_that_was_used_since_it_was_listed_stays(store: BlockStore) -> None:
    for name in ("acme/aa/a", "acme/bb/b"):
        store.put(name, b"1")
    used, unused = held(store)
    time.sleep(TICK_S)
    store.touch(used.name)
    assert (store.evict(used), store.evict(unused)) == (False, True)
    assert [info.name for info in held(store)] == [used.name]
    assert (store.get(used.name), store.get(unused.name)) == (b"1", None)


def a_tenant_is_dropped_alone_and_noted_before_it_goes(store: BlockStore) -> None:
    for name in ("acme/a", "acme/b", "acme2/a", f"{tenant_prefix('')}a"):
        store.put(name, b"12345")
    noted: list[str] = []

    def note(blocks: Sequence[BlockInfo]) -> None:
        noted.extend(sorted(block.name for block in blocks))
        assert all(store.get(block.name) == b"12345" for block in blocks)
        store.put("acme/late", b"1")

    assert store.drop("acme", note) == 2
    assert noted == ["acme/a", "acme/b"]
    assert sorted(info.name for info in held(store)) == sorted(["acme/late", "acme2/a", f"{tenant_prefix('')}a"])
    assert store.get("acme/a") is None
    assert store.drop("", lambda blocks: None) == 1


def what_cannot_be_noted_is_not_dropped(store: BlockStore) -> None:
    store.put("acme/a", b"1")

    def note(blocks: Sequence[BlockInfo]) -> None:
        raise ValueError("the journal is full")

    with pytest.raises(ValueError, match="full"):
        store.drop("acme", note)
    assert store.get("acme/a") == b"1"


def a_cache_restores_and_evicts(store: BlockStore) -> None:
    tokens, other = list(range(2 * BLOCK)), [7] * BLOCK
    values = SHAPE.rounded(np.random.default_rng(1).standard_normal(SHAPE.array(2 * BLOCK), dtype=np.float32)).astype(np.float32)
    assert cache_on(store).save(tokens, values, restored=0) == 2
    into = np.zeros_like(values)
    assert cache_on(store).restore(tokens, into) == 2 * BLOCK
    assert np.array_equal(into, values)
    assert cache_on(store, tenant="globex").restore(tokens, into) == 0
    size = held(store)[0].bytes
    assert cache_on(store, 2 * size).save(other, values, restored=0) == 1
    assert cache_on(store).restore(tokens, into) == BLOCK, "the prefix's last block went first"


def a_damaged_block_is_a_miss_is_deleted_and_written_anew(store: BlockStore) -> None:
    tokens = list(range(BLOCK))
    cache_on(store).save(tokens, zeros(tokens), restored=0)
    name = held(store)[0].name
    whole = store.get(name)
    assert whole is not None
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        b"",
        pack(name.rpartition("/")[2].partition(".")[0], zeros(tokens) + 7, SHAPE, b"a stranger's secret"),
    ):
        store.put(name, damaged)
        assert cache_on(store).restore(tokens, zeros(tokens)) == 0
        assert not store.has(name)
        assert cache_on(store).save(tokens, zeros(tokens), restored=0) == 1
    assert cache_on(store).restore(tokens, zeros(tokens)) == BLOCK


def the_limit_holds_while_prompts_go_on(store: BlockStore) -> None:
    size = len(pack("0" * 64, zeros([0] * BLOCK), SHAPE, b"s"))
    for number in range(25):
        assert cache_on(store, 10 * size).save([number] * BLOCK, zeros([0] * BLOCK), restored=0) == 1
        assert store.bytes("acme")[0] <= 10 * size
    kept = [number for number in range(25) if cache_on(store).restore([number] * BLOCK, zeros([0] * BLOCK))]
    assert kept == list(range(25 - len(kept), 25)), "the oldest are gone"
    assert len(kept) >= 9


CONTRACT: Sequence[Callable[[BlockStore], None]] = (
    a_block_is_put_listed_read_and_deleted,
    bytes_are_those_of_all_tenants_and_of_one,
    the_blocks_used_least_recently_are_named_of_all_tenants_or_of_one,
    a_block_that_was_used_since_it_was_listed_stays,
    a_tenant_is_dropped_alone_and_noted_before_it_goes,
    what_cannot_be_noted_is_not_dropped,
    a_cache_restores_and_evicts,
    a_damaged_block_is_a_miss_is_deleted_and_written_anew,
    the_limit_holds_while_prompts_go_on,
)
