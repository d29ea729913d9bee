"""Attention keys and values of prompt prefixes, stored in blocks, so that a prefix is prefilled once.

A prompt is cut into blocks of `BLOCK` tokens. A block's key is a hash over the home's secret, the identity of the representation
(weights, adapter, tokenizer, positions, attention, libraries), the tenant, the readers it was made for, every token before the
block and its own tokens. Equal keys therefore mean equal prefixes, no tenant can find another's block, several homes may share a
directory, and a file name reveals nothing about a question.

Whether a block is there can be seen: by the tokens that an answer says were cached, and by its time. So it is found only by those
who ask as the same readers, for whom nothing is in a prompt that they may not read; others could try what closed documents say.

Values are stored in two bytes (float16), or in four if the generator is `exact`. The generator rounds them (`Shape.rounded`)
before it reads them itself, and prefills in the same blocks either way. So an answer from restored blocks equals the answer
without them bit for bit.

Blocks are stored behind the answer (`writes.py`), once the index has the documents of the prompt (`index.py`); a prefix is loaded
or stored only where that is faster than computing it (`economy.py`).

Stored blocks are authenticated (`format.py`). One that does not match is deleted and counts as a miss.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from headrace.errors import HeadraceError, Unavailable
from headrace.models.kv.blocks import BlockStore, tenant_prefix
from headrace.models.kv.economy import BreakEven, KvDecision
from headrace.models.kv.format import BLOCK, Array, Shape, Values, block_keys, pack, unpacked
from headrace.models.kv.index import BlockIndex, Stamps
from headrace.models.kv.use import KvCounts, UseCounter
from headrace.models.kv.writes import PendingWrite, WriteBehind

_SPARE = 256
"""How many blocks at most are evicted beyond what is needed, so that the next saves need not look for any."""
_EVICTED = 1_024
"""How many are evicted at most for one answer: where a limit was lowered by much, the directory shrinks over many answers."""

log = logging.getLogger("headrace.models")


class Behind(Protocol):
    """How a prompt's blocks are stored behind its answer."""

    @property
    def writes(self) -> WriteBehind:
        """The queue."""

    def store(self, tokens: Sequence[int], values: Array, *, restored: int) -> None:
        """Store blocks, for the thread that does; what it moves is counted for the run, the answer's own ledger may be closed."""

    @property
    def run(self) -> str:
        """The run that asked."""

    def check(self, tokens: Sequence[int], restored: Sequence[Array]) -> None:
        """Have a share of restored prefixes recomputed and compared; `restored` are their blocks, which nobody may change."""

    def notes(self, last: str, documents: frozenset[str] | None) -> bool:
        """Whether the documents of a restored prefix, given its last block, have to be noted with it."""


class KvCache:
    """The blocks of one tenant, its readers and a model in a block store, limited in bytes over all tenants and for this one.

    `identity` names all that keys and values depend on besides the tokens; without one, nothing is read or stored. A block that
    cannot be read is a miss: damaged or missing storage costs time and never changes an answer.

    `documents` are the ids of the documents whose passages are in its prompts, `None` if they are not known; `index` notes them
    with each block. `behind` stores blocks after the answer; without it `keep` stores them at once.
    """

    def __init__(
        self,
        blocks: BlockStore,
        *,
        identity: str,
        tenant: str,
        shape: Shape,
        secret: bytes,
        limit_bytes: int,
        share_bytes: int | None = None,
        readers_id: str = "",
        documents: Collection[str] | None = None,
        index: BlockIndex | None = None,
        economy: BreakEven | None = None,
        count: UseCounter | None = None,
        behind: Behind | None = None,
    ) -> None:
        self._documents = None if documents is None else frozenset(documents)
        self._index = index
        self._economy = economy or BreakEven("always")
        self._count = count or KvCounts().of(tenant, "")
        self._behind = behind
        self._probes = False
        self._blocks = blocks
        self._secret = secret
        self._identity = identity
        self._tenant = tenant
        self._readers_id = readers_id
        self._shape = shape
        self._limit = limit_bytes
        self._share = limit_bytes if share_bytes is None else min(share_bytes, limit_bytes)

    def restore(self, tokens: Sequence[int], into: Array, *, fill: Callable[[Array, Values], object] = np.copyto) -> int:
        """Fill `into` (layers, 2, heads, ≥ tokens, width) with the longest stored prefix of `tokens`.

        Returns how many tokens were restored: a multiple of `BLOCK`, at most len(tokens). `fill` copies values into a part of
        `into` and converts them.
        """
        keys = self._keys(tokens)
        if not keys:
            return 0
        decision = self._economy.decide(len(keys) * BLOCK, len(keys) * self._shape.block_bytes)
        self._probes = decision.reason == "probe"
        self._count.decided("load", decision.yes, decision.reason)
        if not decision.yes:
            return 0
        names = list(map(self._name, range(len(keys)), keys))
        restored = waiting = size = 0
        missed = False
        damaged = ""
        began = since = time.perf_counter()

        def put(block: Values) -> None:
            nonlocal restored, since
            fill(into[..., restored * BLOCK : (restored + 1) * BLOCK, :], block)
            restored += 1
            since = time.perf_counter()

        def use(data: bytes | memoryview | None) -> bool:
            nonlocal size, missed, damaged
            if data is None:
                missed = True
                return False
            size += len(data)
            block = unpacked(keys[restored], data, self._shape, self._secret)
            if isinstance(block, str):
                damaged = block
                return False
            put(block)
            return restored < len(names) and self._waiting(names[restored]) is None

        # One block after the other: a thread that read ahead made loading half as fast, since reading, checking and conversion
        # wait for the same memory and the interpreter's lock.
        try:
            while restored < len(names) and not missed and not damaged:
                block, before = self._waiting(names[restored]), restored
                if block is None:
                    self._blocks.read_each(names[restored:], self._shape.stored_bytes + 1, use)
                    missed = missed or (restored == before and not damaged)
                else:
                    put(block)
                    waiting += 1
            if damaged:
                log.warning("KV block %s is damaged (%s): deleted, its tokens are computed again", names[restored], damaged)
                self._count.damaged(damaged)
                self._blocks.delete(names[restored])
        except HeadraceError as error:
            log.warning("KV block %s cannot be read: %s", names[min(restored, len(names) - 1)], error)
            self._count.decided("load", False, "storage failed")
            missed = not damaged
        if missed:
            self._economy.missed(time.perf_counter() - since)
            self._count.add(misses=1, miss_s=time.perf_counter() - since)
        self._used(keys[:restored], written=restored - waiting)
        seconds = time.perf_counter() - began
        if restored > waiting:
            self._economy.loaded(size, seconds)
            self._count.add(read_bytes=size, read_s=seconds)
        elif not restored:
            self._count.add(vain_s=seconds)
        self._count.add(restored_tokens=restored * BLOCK, waiting_tokens=waiting * BLOCK)
        return restored * BLOCK

    def prefilled(self, prompt: int, tokens: int, seconds: float) -> None:
        """Note that a prompt of so many tokens was computed, and how long the prefill of those that were not restored took."""
        self._economy.prefilled(tokens, seconds)
        self._count.add(answers=1, prompt_tokens=prompt, prefill_tokens=tokens, prefill_s=seconds)

    def keep(self, tokens: Sequence[int], values: Array, *, restored: int) -> int:
        """As `save`, behind the answer where it can be; returns how many blocks are or will be stored.

        `values` may not be changed afterwards.
        """
        if self._behind is None:
            return self.save(tokens, values, restored=restored)
        keys = self._keys(tokens)
        first = restored // BLOCK
        if first:
            parts = [values[..., start : start + BLOCK, :] for start in range(0, restored, BLOCK)]
            self._behind.check(list(tokens[:restored]), parts)
        new = len(keys) - first
        if new > 0:
            decision = self._economy.decide(len(keys) * BLOCK, len(keys) * self._shape.block_bytes, probes=False)
            if self._probes:  # else nothing would be there for the next probe
                decision = KvDecision(True, "probe")
            self._count.decided("store", decision.yes, decision.reason)
            new = new if decision.yes else 0
        if new <= 0 and not (first and self._behind.notes(self._name(first - 1, keys[first - 1]), self._documents)):
            return 0
        whole = keys if new > 0 else keys[:first]
        write = PendingWrite(
            tenant=self._tenant,
            run=self._behind.run,
            documents=self._documents,
            blocks={
                self._name(position, key): values[..., position * BLOCK : (position + 1) * BLOCK, :]
                for position, key in list(enumerate(whole))[first:]
            },
            size=values.nbytes,
            store=partial(self._behind.store, list(tokens[: len(whole) * BLOCK]), values, restored=restored),
            dropped=partial(self._count.decided, "store", False),
        )
        if reason := self._behind.writes.offer(write):
            self._count.decided("store", False, reason)
            return 0
        return max(0, new)

    def store(self, tokens: Sequence[int], values: Array, *, restored: int) -> None:
        """As `save`, for the thread that stores: counts what it did, and why it did not."""
        began = time.perf_counter()
        try:
            written = self.save(tokens, values, restored=restored)
            self._count.add(written_tokens=written * BLOCK, written_bytes=written * self._shape.block_bytes)
        finally:
            self._count.add(write_s=time.perf_counter() - began)

    def save(self, tokens: Sequence[int], values: Array, *, restored: int) -> int:
        """Write the full blocks of `tokens` after the `restored` ones, and return how many were written.

        Raises `StorageFull` and other storage errors; the caller's answer is correct all the same.
        """
        keys = self._keys(tokens)
        names = list(map(self._name, range(len(keys)), keys))
        room: int | None = None
        written = restored // BLOCK
        if self._index is not None:
            # A document whose passage is the same, word for word, may be another than the one that the block was made for.
            for known, blocks in ((True, names[:written]), (False, names[written:])):
                if self._refused(self._index.admit(self._tenant, blocks, self._documents, written=known)):
                    return 0
        put: list[str] = []
        late: list[str] = []
        try:
            for position, key in list(enumerate(keys))[written:]:
                data = pack(key, values[..., position * BLOCK : (position + 1) * BLOCK, :], self._shape, self._secret)
                if room is None:
                    room = self._make_room((len(keys) - position) * len(data), len(data), keep=set(names))
                if room < len(data):
                    self._refused("no room")
                    break
                try:
                    self._blocks.put(names[position], data)
                except Unavailable:  # it may be there later: a write that hangs goes on
                    late.append(names[position])
                    raise
                put.append(names[position])
                room -= len(data)
        finally:
            if self._index is not None:
                self._index.dropped(self._index.stamps(set(names[written:]).difference(put, late)))
            written += len(self._stored(put))
        if written * BLOCK > restored:
            self._use(keys[:written])
        return written - restored // BLOCK

    def _stored(self, blocks: Sequence[str]) -> Sequence[str]:
        """Confirm blocks that were just stored; returns those that are not revoked by now, and deletes the others."""
        if self._index is None or not blocks:
            return blocks
        kept = self._index.stored(blocks, self._documents)
        revoked = [block for block in blocks if block not in kept]
        for block in revoked:
            self._blocks.delete(block)
        if revoked:
            self._index.dropped_revoked(revoked)
            self._refused("revoked")
        return [block for block in blocks if block in kept]

    def _refused(self, reason: str) -> bool:
        if reason:
            self._count.decided("store", False, reason)
        return bool(reason)

    def _keys(self, tokens: Sequence[int]) -> list[str]:
        if not self._share or not self._identity:
            return []
        return block_keys(
            tokens,
            identity=self._identity,
            tenant=self._tenant,
            shape=self._shape,
            secret=self._secret,
            readers_id=self._readers_id,
        )

    def _name(self, position: int, key: str) -> str:
        return f"{tenant_prefix(self._tenant)}{key[:2]}/{key}.{position}.safetensors"

    def _used(self, keys: Sequence[str], *, written: int) -> None:
        """Record a use of a prefix behind the answer if that can be: on a network file system each block costs a round trip."""
        if self._behind is None:
            self._use(keys, written=written)
        elif written:
            use = partial(self._use, keys, written=written)
            write = PendingWrite(self._tenant, self._behind.run, self._documents, blocks={}, size=0, store=use, dropped=_ignored)
            self._behind.writes.offer(write)

    def _use(self, keys: Sequence[str], *, written: int | None = None) -> None:
        """Record a use of a prefix, last block first: a block is useless without those before it, so they are evicted last.

        With `written`, only so many of its blocks are stored by now.
        """
        for position, key in reversed(list(enumerate(keys[:written]))):
            try:
                self._blocks.touch(self._name(position, key))
            except HeadraceError:  # evicted meanwhile, or a read-only mount
                return

    def _waiting(self, name: str) -> Values | None:
        """A block that waits to be stored."""
        return self._behind.writes.block(name) if self._behind else None

    def _make_room(self, wanted: int, size: int, *, keep: set[str]) -> int:
        """Evict blocks of `size` bytes outside `keep`, least recently used first, until `wanted` bytes fit; return what now fits.

        A tenant over its share loses its own blocks first; then the least recently used blocks of all tenants are evicted. Once
        any must go, up to a twentieth goes with them, so that blocks are sorted by use once in many answers.
        """
        every, mine = self._blocks.bytes(self._tenant)
        gone: set[str] = set()
        noted: Stamps = {}

        def evict(tenant: str | None, total: int, most: int) -> int:
            if total + wanted <= most:
                return most - total
            spare = min(most // 20 // size, _SPARE) * size
            oldest = self._blocks.oldest(_EVICTED + len(keep), tenant)
            order = sorted(oldest, key=lambda block: (block.used, -_position(block.name)))
            for place, block in enumerate(order):
                if total + wanted <= most - spare or len(gone) == _EVICTED:
                    break
                if self._index is not None and place % _SPARE == 0:
                    noted.update(self._index.stamps([block.name for block in order[place : place + _SPARE]]))
                if block.name not in keep and self._blocks.evict(block):
                    gone.add(block.name)
                    total -= block.bytes
            return most - total

        try:
            own = evict(self._tenant, mine, self._share)
            if gone:
                every, _ = self._blocks.bytes(self._tenant)
            return min(own, evict(None, every, self._limit))
        finally:
            if self._index is not None:
                self._index.dropped({name: notes for name, notes in noted.items() if name in gone})


def _ignored(_: str) -> None:
    pass


def _position(name: str) -> int:
    """The position of a block in its prefix. File systems' clocks are too coarse to order the uses within one prefix."""
    position = name.removesuffix(".safetensors").rpartition(".")[2]
    return int(position) if position.isdecimal() else 0
