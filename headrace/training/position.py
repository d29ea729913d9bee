"""Where a training is in its data: a function of the step and nothing else.

A checkpoint therefore needs the number of steps only, and a training that resumes, on as many workers or on others, takes every
item of an epoch once: none is skipped at its end, and none seen twice. Others keep a reader's state, and lose items with it
(docs/explanation/training.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def steps_of_epoch(items: int, batch: int) -> int:
    """Steps of one epoch over so many items; the last one may be smaller."""
    return (items + batch - 1) // batch


def batch_at(step: int, items: int, batch: int, seed: int) -> list[int]:
    """The items of a step, by number: each epoch has its own order of all of them."""
    epoch, place = divmod(step, steps_of_epoch(items, batch))
    return list(_order(items, seed, epoch)[place * batch : (place + 1) * batch])


@lru_cache(maxsize=2)
def _order(items: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(items))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def share_of(batch: Sequence[T], rank: int, size: int) -> list[T]:
    """What one of `size` workers takes of a batch; empty for the last ones if there are fewer items than workers."""
    return list(batch[rank::size])
