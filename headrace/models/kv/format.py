"""The stored form of a KV block: its key, its bytes, and the message authentication code that decides whether they are used.

A block is a file in safetensors format: one tensor `kv` (layers, keys and values, heads, tokens, width of a head), with metadata
`block`: the block's key, a nonce and a tag, in hex. The tag is an AES-256-GMAC (NIST SP 800-38D) over the values, with a key
derived by HMAC-SHA-256 from the home's secret and the block's key. A nonce is drawn for each write: the same block computed on
another processor may differ in its last bit, and GMAC must never see two messages under one nonce. So write access to the
directory is not enough to change what the generator reads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 128
"""Tokens per block. Smaller blocks reuse more of a prefix; larger ones prefill faster, since each is one forward pass."""

FORMAT = 5
"""Version of the stored form, part of every key: blocks of another version are not found, and are evicted unused."""
_TENSOR = "kv"
_TYPES = {"float16": "F16", "float32": "F32"}  # NumPy's names → those of safetensors
_ALIGNED = 64  # a cache line; safetensors asks for 8
_HEADER_BYTES = 4_096
_NONCE, _TAG = 12, 16

Array = npt.NDArray[np.float32]
Values = npt.NDArray[np.floating[Any]]


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

    @property
    def block_bytes(self) -> int:
        """What the values of a block take."""
        return math.prod(self.array(BLOCK)) * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """What a stored block may take at most; of a file, no more has to be read than one byte beyond that."""
        return _HEADER_BYTES + self.block_bytes

    def rounded(self, values: Array) -> Values:
        """Values in the stored type; those beyond its range become its largest."""
        largest = np.finfo(self.dtype).max
        return np.clip(values, -largest, largest).astype(self.dtype)


def block_keys(
    tokens: Sequence[int], *, identity: str, tenant: str, shape: Shape, secret: bytes, readers_id: str = ""
) -> list[str]:
    """The key of each full block of `tokens`, as 64 hex digits; each commits to everything before it."""
    root = {"format": FORMAT, "identity": identity, "tenant": tenant, "readers": readers_id, "block": BLOCK, **asdict(shape)}
    previous = hmac.digest(secret, json.dumps(root, sort_keys=True).encode(), "sha256")
    keys = []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        ids = np.asarray(tokens[start : start + BLOCK], dtype="<u4")
        previous = hashlib.sha256(previous + ids.tobytes()).digest()
        keys.append(previous.hex())
    return keys


def pack(key: str, block: Array, shape: Shape, secret: bytes) -> bytes:
    """One block as the bytes that are stored."""
    values = np.ascontiguousarray(shape.rounded(block)).data.cast("B")
    nonce = secrets.token_bytes(_NONCE)
    tag = _cipher(secret, key).encrypt(nonce, b"", values)
    tensor = {"dtype": _TYPES[shape.dtype], "shape": shape.array(BLOCK), "data_offsets": [0, len(values)]}
    described = {"__metadata__": {"block": f"{key} {(nonce + tag).hex()}"}, _TENSOR: tensor}
    header = json.dumps(described, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNED)
    return b"".join((len(header).to_bytes(8, "little"), header, values))


def unpack(key: str, data: bytes | memoryview, shape: Shape, secret: bytes) -> Values | None:
    """The block in these bytes, in the stored type, or `None` if they are damaged or of another block."""
    found = unpacked(key, data, shape, secret)
    return None if isinstance(found, str) else found


def unpacked(key: str, data: bytes | memoryview, shape: Shape, secret: bytes) -> Values | str:
    """The block in these bytes, or what is wrong with them: `torn`, `foreign` (another block, format or type) or `rotten`.

    The block is a view of `data`, so that nothing is copied.
    """
    from cryptography.exceptions import InvalidTag

    view = memoryview(data)
    start = 8 + int.from_bytes(view[:8], "little")
    if not 8 < start <= min(len(view), _HEADER_BYTES):
        return "torn"
    try:
        header = json.loads(bytes(view[8:start]))
        name, _, mark = str(header["__metadata__"]["block"]).partition(" ")
        tensor = header[_TENSOR]
        described = tensor["dtype"], tuple(tensor["shape"]), list(tensor["data_offsets"])
        nonce, tag = bytes.fromhex(mark)[:_NONCE], bytes.fromhex(mark)[_NONCE:]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "torn"
    if (name, *described) != (key, _TYPES[shape.dtype], shape.array(BLOCK), [0, shape.block_bytes]):
        return "foreign"
    values = view[start:]
    if len(values) != shape.block_bytes or len(tag) != _TAG:
        return "torn"
    try:
        _cipher(secret, key).decrypt(nonce, tag, values)
    except InvalidTag:
        return "rotten"
    return np.frombuffer(values, dtype=np.dtype(shape.dtype).newbyteorder("<")).reshape(shape.array(BLOCK))


@lru_cache(maxsize=256)
def _cipher(secret: bytes, key: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hmac.digest(secret, b"KV block\0" + key.encode(), "sha256"))
