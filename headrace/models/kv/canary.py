"""The canary: recomputes a small share of the restored prefixes in the background, and compares.

Blocks are checked for every damage that changes their bytes, and their names commit to all that they depend on, as far as it is
known here. What is not known (a library that computes otherwise under the same version, a bug) shows only in the values. A prefix
that differs closes the cache of its model (`closing.py`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headrace.models.kv.format import Values
from headrace.models.kv.use import UseCounter

TOLERANCE = 0.01
"""The most by which a restored value may differ from the recomputed one, as a share of the largest value of its layer and block.

On one machine they are equal to the bit; other processors round sums otherwise, and what is stored has two bytes."""

log = logging.getLogger("headrace.models")


def difference(restored: Values, recomputed: Values) -> float:
    """The largest difference of two arrays (layers, 2, heads, tokens, width), as a share of the largest value of its layer."""
    one, other = restored.astype(np.float32), recomputed.astype(np.float32)
    layers = tuple(range(1, one.ndim))
    largest = np.maximum(np.abs(other).max(axis=layers), np.finfo(np.float32).tiny)
    apart = np.abs(one - other).max(axis=layers)
    return float(np.nan_to_num(apart / largest, nan=np.inf).max())


class PrefixCanary:
    """Checks one prefix at a time, block by block, each by `submit` after what is urgent; thread-safe."""

    def __init__(self, submit: Callable[[Callable[[], None]], object], *, draw: Callable[[], float] = random.random) -> None:
        self._submit = submit
        self._draw = draw
        self._busy = threading.Lock()

    def check(
        self,
        share: float,
        restored: Sequence[Values],
        recompute: Callable[[], Iterator[Values]],
        count: UseCounter,
        differs: Callable[[str], None],
    ) -> None:
        """Check a share of the prefixes. `restored` are its blocks, which nobody may change; `differs` gets what differs.

        A prefix that comes while another is being checked is not.
        """
        if not restored or self._draw() >= share:
            return
        if not self._busy.acquire(blocking=False):
            count.add(canary_skipped=1)
            return
        pairs = enumerate(zip(restored, recompute(), strict=False))

        def step() -> None:
            try:
                began = time.perf_counter()
                found = next(pairs, None)
                count.add(canary_s=time.perf_counter() - began)
                if found is None:
                    count.add(canary_same=1)
                elif (apart := difference(*found[1])) > TOLERANCE:
                    count.add(canary_different=1)
                    differs(f"a restored value of block {found[0]} differs by {apart:.1%} of its layer's largest")
                    found = None
                if found is None:
                    self._busy.release()
                else:
                    self._submit(step)
            except BaseException:
                self._busy.release()
                raise

        self._submit(step)
