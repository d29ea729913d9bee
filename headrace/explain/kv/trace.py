"""Request traces: when each request came, how long it was, and which blocks of tokens its prompt consists of.

The format is that of the traces that Mooncake published (kvcache-ai/Mooncake, FAST25-release/traces): JSON lines with `timestamp`
in milliseconds, `input_length` and `output_length` in tokens, and `hash_ids`, one per block of 512 tokens. Equal ids mean equal
blocks after equal prefixes, so that the ids of two prompts agree up to the first token in which the prompts differ.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.errors import WrongUsage

BLOCK_TOKENS = 512
_LINE_BYTES = 8_000_000
_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


@dataclass(frozen=True)
class TracedRequest:
    """One request: seconds since the trace began, tokens of the prompt and of the answer, and the ids of the prompt's blocks."""

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """The requests of a trace in order of time, the tokens per block, and the SHA-256 of its file."""

    name: str
    requests: tuple[TracedRequest, ...]
    block_tokens: int
    sha256: str

    @property
    def seconds(self) -> float:
        """From the first request to the last."""
        return self.requests[-1].at_s - self.requests[0].at_s

    @property
    def blocks(self) -> int:
        """Blocks of all prompts."""
        return sum(len(request.blocks) for request in self.requests)

    @property
    def distinct_blocks(self) -> int:
        """Blocks of all prompts, equal ones counted once."""
        return len({block for request in self.requests for block in request.blocks})

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(request.input_tokens for request in self.requests)


def sampled(trace: Trace, one_in: int) -> Trace:
    """The requests of one in so many first blocks, chosen by a hash: those that share a prefix stay together.

    A cache of 1 / `one_in` of the size then has about the hit rates of the whole (spatial sampling: Waldspurger et al.,
    "Efficient MRC Construction with SHARDS", FAST 2015). Never empty.
    """
    if one_in == 1:
        return trace

    def place(request: TracedRequest) -> int:
        return int.from_bytes(hashlib.sha256(str(request.blocks[:1]).encode()).digest()[:8])

    least = min(map(place, trace.requests)) % one_in
    kept = tuple(one for one in trace.requests if place(one) % one_in == least)
    return replace(trace, requests=kept)


def read_trace(path: Path, *, block_tokens: int = BLOCK_TOKENS) -> Trace:
    """Read a trace. Raises `WrongUsage` if the file cannot be read, is empty, or a line is not a request."""
    requests: list[TracedRequest] = []
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b""), 1):
                digest.update(line)
                if line.strip():
                    requests.append(_request(line, f"{path}, line {number}", block_tokens))
    except OSError as error:
        raise WrongUsage(f"{path} cannot be read: {error.strerror}.", hint="Name a trace of JSON lines.") from None
    if not requests:
        raise WrongUsage(f"{path} has no request.", hint="Name a trace of JSON lines.")
    requests.sort(key=lambda request: request.at_s)
    return Trace(path.name, tuple(requests), block_tokens, digest.hexdigest())


def _request(line: bytes, where: str, block_tokens: int) -> TracedRequest:
    hint = f"Each line is a JSON object with {', '.join(_FIELDS)}; length in tokens, timestamp in milliseconds."
    try:
        found: Any = json.load(io.BytesIO(line))
    except (ValueError, RecursionError):
        raise WrongUsage(f"{where} is not JSON.", hint=hint) from None
    if not isinstance(found, dict):
        raise WrongUsage(f"{where} is not a JSON object.", hint=hint)
    for name in _FIELDS[:3]:
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            raise WrongUsage(f"{where} has no usable {name!r}.", hint=hint)
    ids = found.get("hash_ids")
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
        raise WrongUsage(f"{where} has no usable 'hash_ids'.", hint=hint)
    tokens = int(found["input_length"])
    if len(ids) != -(-tokens // block_tokens):
        raise WrongUsage(
            f"{where} has {len(ids)} blocks, but {tokens:,} tokens are {-(-tokens // block_tokens)} blocks of {block_tokens}.",
            hint="Name the trace's own block size with --block-tokens.",
        )
    return TracedRequest(found["timestamp"] / 1e3, tokens, int(found["output_length"]), tuple(ids))
