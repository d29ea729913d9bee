"""Matrix products in bfloat16 where the processor has instructions for them; sums, norms and softmax stay float32.

Such an embedding has a cosine similarity of at least 0.9999 to the float32 one and takes 40 % of the time
(docs/reference/benchmarks.md), so an index may hold both kinds. The generator stays in float32: online RL divides by the
log-probabilities it records.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import torch

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


@cache
def has_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions; without them bfloat16 is emulated and slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _INSTRUCTIONS)


def bf16_matmul(*, exact: bool) -> AbstractContextManager[None]:
    """A context in which this thread multiplies matrices in bfloat16 where that is quicker, unless `exact`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16() and not exact)


def force_fp32(layer: torch.nn.Module) -> None:
    """Make a layer compute in float32 within `bf16_matmul`: the last digits of a score decide the order of close passages."""
    forward = layer.forward

    def exact(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            scores: torch.Tensor = forward(hidden.float())
        return scores

    layer.forward = exact
