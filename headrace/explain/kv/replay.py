"""Replays a request trace against a KV cache of any capacity: hits, bytes in both directions, seconds saved.

Each request looks up the longest prefix of its blocks that the cache holds, then stores its other blocks. Blocks of a prefix are
used from the last to the first, so that a block is evicted before those it depends on. Requests are handled one at a time in the
order of the trace; what they would wait for each other is not modelled. A hit is loaded only if that is faster than prefilling
it again:

- loading n tokens takes latency + n · bytes per token / bandwidth;
- prefilling them takes n / prefill rate.

The cache is written through: every block that was not found is written once, whether it is ever read or not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headrace.errors import WrongUsage
from headrace.explain.kv.trace import Trace, TracedRequest

Policy = Literal["lru", "fifo"]
POLICIES: tuple[Policy, ...] = ("lru", "fifo")
_WINDOW_S = 10.0
_STEPS = 8
"""Capacities of the curve below that of all distinct blocks, each half of the next."""


@dataclass(frozen=True)
class KvStorage:
    """What the cache is on, and what the model computes: bytes, bytes/s, seconds, tokens/s."""

    bytes_per_token: float
    bandwidth: float
    latency_s: float
    prefill_rate: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0 and not (name == "latency_s" and value == 0):
                raise WrongUsage(f"{name.replace('_', ' ')} must be more than 0, not {value:g}.")

    def load_s(self, tokens: int) -> float:
        """Seconds to load so many tokens."""
        return self.latency_s + tokens * self.bytes_per_token / self.bandwidth

    def saved_s(self, tokens: int) -> float:
        """Seconds by which loading so many tokens is faster than prefilling them; negative if it is slower."""
        return tokens / self.prefill_rate - self.load_s(tokens)

    @property
    def break_even_tokens(self) -> float | None:
        """Tokens from which on loading is faster; `None` if it never is."""
        gain = 1 / self.prefill_rate - self.bytes_per_token / self.bandwidth
        return self.latency_s / gain if gain > 0 else None


@dataclass(frozen=True)
class Replayed:
    """One replay. `capacity_bytes` is `None` for a cache without a bound.

    Hit rates are shares of all blocks and of all prompts' tokens. `read_peak` and `write_peak` are bytes/s in the busiest ten
    seconds. `loaded` and `recomputed` count the requests with a hit that was loaded, or prefilled because that is faster.
    """

    capacity_bytes: int | None
    block_hit_rate: float
    token_hit_rate: float
    read_bytes: int
    written_bytes: int
    read_mean: float
    read_peak: float
    write_mean: float
    write_peak: float
    loaded: int
    recomputed: int
    saved_s: float
    evicted_blocks: int
    stored_bytes: int
    """Bytes in the cache at the end."""

    def as_dict(self) -> dict[str, Any]:
        """The figures under the CLI's JSON keys."""
        return asdict(self)


def replay(
    trace: Trace,
    storage: KvStorage,
    *,
    capacity_bytes: int | None = None,
    policy: Policy = "lru",
    ttl_s: float | None = None,
    in_memory: Sequence[int] | None = None,
) -> Replayed:
    """Replay a trace against one capacity.

    Blocks unused for `ttl_s` seconds are dropped. `in_memory` has for each request the tokens of its prefix that a cache in
    memory holds (`prefixes`): they are neither read from storage nor saved by it.
    """
    block_bytes = storage.bytes_per_token * trace.block_tokens
    room = None if capacity_bytes is None else int(capacity_bytes // block_bytes)
    hits = hit_tokens = written = loaded = recomputed = 0
    read_bytes = saved = 0.0
    reads: dict[int, float] = {}
    writes: dict[int, float] = {}
    cache = _Cache(room, policy, ttl_s)
    for number, (request, found) in enumerate(_lookups(trace, cache)):
        tokens = _tokens(request, found, trace.block_tokens)
        hits += found
        hit_tokens += tokens
        window = int(request.at_s // _WINDOW_S)
        beyond = tokens - (min(tokens, in_memory[number]) if in_memory is not None else 0)
        if beyond > 0:
            gain = storage.saved_s(beyond)
            if gain > 0:
                loaded += 1
                saved += gain
                read_bytes += beyond * storage.bytes_per_token
                reads[window] = reads.get(window, 0.0) + beyond * storage.bytes_per_token
            else:
                recomputed += 1
        new = len(request.blocks) - found
        written += new
        writes[window] = writes.get(window, 0.0) + new * block_bytes
    first, last = (int(request.at_s // _WINDOW_S) for request in (trace.requests[0], trace.requests[-1]))
    seconds = (last - first + 1) * _WINDOW_S
    return Replayed(
        capacity_bytes=capacity_bytes,
        block_hit_rate=hits / max(1, trace.blocks),
        token_hit_rate=hit_tokens / max(1, trace.input_tokens),
        read_bytes=round(read_bytes),
        written_bytes=round(written * block_bytes),
        read_mean=read_bytes / seconds,
        read_peak=max(reads.values(), default=0.0) / _WINDOW_S,
        write_mean=written * block_bytes / seconds,
        write_peak=max(writes.values(), default=0.0) / _WINDOW_S,
        loaded=loaded,
        recomputed=recomputed,
        saved_s=saved,
        evicted_blocks=cache.evicted,
        stored_bytes=round(len(cache) * block_bytes),
    )


def prefixes(trace: Trace, storage: KvStorage, capacity_bytes: int) -> list[int]:
    """For each request the tokens of its prefix that an LRU cache of this capacity holds, such as one in memory."""
    room = int(capacity_bytes // (storage.bytes_per_token * trace.block_tokens))
    found = _lookups(trace, _Cache(room, "lru", None))
    return [_tokens(request, blocks, trace.block_tokens) for request, blocks in found]


def capacities(trace: Trace, storage: KvStorage) -> list[int]:
    """Capacities in bytes for a curve: those of all distinct blocks, of half of them, of a quarter …, the smallest first.

    None is below one block, which holds nothing.
    """
    block = storage.bytes_per_token * trace.block_tokens
    blocks = max(1, trace.distinct_blocks)
    return [math.ceil(blocks * block / 2**step) for step in range(_STEPS, -1, -1) if blocks >= 2**step]


class _Cache:
    """Blocks by the time of their last use, in the order in which they are evicted."""

    def __init__(self, room: int | None, policy: Policy, ttl_s: float | None) -> None:
        self.evicted = 0
        self._room, self._ttl_s, self._renews = room, ttl_s, policy == "lru"
        self._blocks: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def prefix(self, request: TracedRequest) -> int:
        """How many blocks of the request's prompt are stored, from its beginning on."""
        if self._ttl_s is not None:
            while self._blocks and next(iter(self._blocks.values())) < request.at_s - self._ttl_s:
                self._evict()
        for count, block in enumerate(request.blocks):
            if block not in self._blocks:
                return count
        return len(request.blocks)

    def store(self, request: TracedRequest) -> None:
        """Store the request's blocks, the first of them last, and evict what no longer fits."""
        for block in reversed(request.blocks):
            new = block not in self._blocks
            if new or self._renews:
                self._blocks[block] = request.at_s
                self._blocks.move_to_end(block)
            if new and self._room is not None and len(self._blocks) > self._room:
                self._evict()

    def _evict(self) -> None:
        self._blocks.popitem(last=False)
        self.evicted += 1


def _lookups(trace: Trace, cache: _Cache) -> Iterator[tuple[TracedRequest, int]]:
    for request in trace.requests:
        yield request, cache.prefix(request)
        cache.store(request)


def _tokens(request: TracedRequest, blocks: int, block_tokens: int) -> int:
    return min(blocks * block_tokens, request.input_tokens)
