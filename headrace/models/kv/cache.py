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

A stored block is in safetensors format: one tensor `kv` (layers, keys and values, heads, tokens, width of a head), with metadata
`block`: the block's key and an HMAC-SHA-256 over key and values with the home's secret. A block that does not match is deleted
and counts as a miss, so that write access to the directory is not enough to change what the generator reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from headrace.errors import HeadraceError
from headrace.models.kv.blocks import BlockStore, tenant_prefix

BLOCK = 128
"""Tokens per block. Smaller blocks reuse more of a prefix; larger ones prefill faster, since each is one forward pass."""

_SPARE = 256
"""How many blocks at most are evicted beyond what is needed, so that the next saves need not look for any."""
_EVICTED = 1_024
"""How many are evicted at most for one answer: where a limit was lowered by much, the directory shrinks over many answers."""
_FORMAT = 3
_TENSOR = "kv"

Array = npt.NDArray[np.float32]

log = logging.getLogger("headrace.models")


@dataclass(frozen=True)
class Shape:
    """One token's keys and values: layers, key-value heads, width of a head, and the NumPy type in which they are stored."""

    layers: int
    heads: int
    width: int
    dtype: str = "float16"

    def array(self, tokens: int) -> tuple[int, int, int, int, int]:
        """The shape of the array that holds `tokens` tokens."""
        return (self.layers, 2, self.heads, tokens, self.width)

    def rounded(self, values: Array) -> npt.NDArray[np.floating[Any]]:
        """Values in the stored type; those beyond its range become its largest."""
        largest = np.finfo(self.dtype).max
        return np.clip(values, -largest, largest).astype(self.dtype)


def block_keys(
    tokens: Sequence[int], *, identity: str, tenant: str, shape: Shape, secret: bytes, readers_id: str = ""
) -> list[str]:
    """The key of each full block of `tokens`, as 64 hex digits; each commits to everything before it."""
    root = {"format": _FORMAT, "identity": identity, "tenant": tenant, "readers": readers_id, "block": BLOCK, **asdict(shape)}
    previous = hmac.digest(secret, json.dumps(root, sort_keys=True).encode(), "sha256")
    keys = []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        ids = np.asarray(tokens[start : start + BLOCK], dtype="<u4")
        previous = hashlib.sha256(previous + ids.tobytes()).digest()
        keys.append(previous.hex())
    return keys


def pack(key: str, block: Array, shape: Shape, secret: bytes) -> bytes:
    """One block as the bytes that are stored."""
    values = np.ascontiguousarray(shape.rounded(block))
    return safetensors.save({_TENSOR: values}, {"block": _mark(key, values, secret)})


def unpack(key: str, data: bytes, shape: Shape, secret: bytes) -> npt.NDArray[np.floating[Any]] | None:
    """The block in these bytes, in the stored type, or `None` if they are damaged or of another block."""
    try:
        values = safetensors.load(data)[_TENSOR]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        stored = str(header["__metadata__"]["block"]).encode()
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    if (
        values.shape != shape.array(BLOCK)
        or values.dtype != shape.dtype
        or not hmac.compare_digest(stored, _mark(key, values, secret).encode())
    ):
        return None
    return values


def _mark(key: str, values: npt.NDArray[np.floating[Any]], secret: bytes) -> str:
    return f"{key} {hmac.digest(secret, key.encode() + values.tobytes(), 'sha256').hex()}"


class KvCache:
    """The blocks of one tenant, its readers and a model in a block store, limited in bytes over all tenants and for this one.

    `identity` names all that keys and values depend on besides the tokens; without one, nothing is read or stored. A block that
    cannot be read is a miss: damaged or missing storage costs time and never changes an answer.
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
    ) -> None:
        self._blocks = blocks
        self._secret = secret
        self._identity = identity
        self._tenant = tenant
        self._readers_id = readers_id
        self._shape = shape
        self._limit = limit_bytes
        self._share = limit_bytes if share_bytes is None else min(share_bytes, limit_bytes)

    def restore(self, tokens: Sequence[int], into: Array) -> int:
        """Fill `into` (layers, 2, heads, ≥ tokens, width) with the longest stored prefix of `tokens`.

        Returns how many tokens were restored: a multiple of `BLOCK`, at most len(tokens).
        """
        keys = self._keys(tokens)
        restored = 0
        for position, key in enumerate(keys):
            block = self._read(position, key)
            if block is None:
                break
            into[..., position * BLOCK : (position + 1) * BLOCK, :] = block
            restored += 1
        self._use(keys[:restored])
        return restored * BLOCK

    def save(self, tokens: Sequence[int], values: Array, *, restored: int) -> int:
        """Write the full blocks of `tokens` after the `restored` ones, and return how many were written.

        Raises `StorageFull` and other storage errors; the caller's answer is correct all the same.
        """
        keys = self._keys(tokens)
        room: int | None = None
        written = restored // BLOCK
        for position, key in list(enumerate(keys))[written:]:
            data = pack(key, values[..., position * BLOCK : (position + 1) * BLOCK, :], self._shape, self._secret)
            if room is None:
                room = self._make_room(
                    (len(keys) - position) * len(data), len(data), keep=set(map(self._name, range(len(keys)), keys))
                )
            if room < len(data):
                break
            self._blocks.put(self._name(position, key), data)
            room -= len(data)
            written += 1
        if written * BLOCK > restored:
            self._use(keys[:written])
        return written - restored // BLOCK

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

    def _use(self, keys: Sequence[str]) -> None:
        """Record a use of a prefix, last block first: a block is useless without those before it, so they are evicted last."""
        for position, key in reversed(list(enumerate(keys))):
            try:
                self._blocks.touch(self._name(position, key))
            except HeadraceError:  # evicted meanwhile, or a read-only mount
                return

    def _read(self, position: int, key: str) -> npt.NDArray[np.floating[Any]] | None:
        name = self._name(position, key)
        try:
            data = self._blocks.get(name)
            if data is None:
                return None
            block = unpack(key, data, self._shape, self._secret)
            if block is None:
                log.warning("KV block %s is damaged: deleted, its tokens are computed again", name)
                self._blocks.delete(name)
            return block
        except HeadraceError as error:
            log.warning("KV block %s cannot be read: %s", name, error)
            return None

    def _make_room(self, wanted: int, size: int, *, keep: set[str]) -> int:
        """Evict blocks of `size` bytes outside `keep`, least recently used first, until `wanted` bytes fit; return what now fits.

        A tenant over its share loses its own blocks first; then the least recently used blocks of all tenants are evicted. Once
        any must go, up to a twentieth goes with them, so that blocks are sorted by use once in many answers.
        """
        every, mine = self._blocks.bytes(self._tenant)
        room = min(self._share - mine, self._limit - every)
        if room >= wanted:
            return room
        gone: set[str] = set()

        def evict(tenant: str | None, total: int, most: int) -> int:
            if total + wanted <= most:
                return most - total
            spare = min(most // 20 // size, _SPARE) * size
            oldest = self._blocks.oldest(_EVICTED + len(keep), tenant)
            for block in sorted(oldest, key=lambda block: (block.used, -_position(block.name))):
                if total + wanted <= most - spare or len(gone) == _EVICTED:
                    break
                if block.name not in keep and self._blocks.evict(block):
                    gone.add(block.name)
                    total -= block.bytes
            return most - total

        own = evict(self._tenant, mine, self._share)
        if gone:
            every, _ = self._blocks.bytes(self._tenant)
        return min(own, evict(None, every, self._limit))


def _position(name: str) -> int:
    """The position of a block in its prefix. File systems' clocks are too coarse to order the uses within one prefix."""
    position = name.removesuffix(".safetensors").rpartition(".")[2]
    return int(position) if position.isdecimal() else 0
