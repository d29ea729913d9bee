"""Where a training is in its data: over drops, epoch ends and another number of workers, each item of an epoch is taken once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as some

from headrace.training.position import batch_at, share_of, steps_of_epoch


@given(
    items=some.integers(1, 40),
    batch=some.integers(1, 12),
    epochs=some.integers(1, 4),
    every=some.integers(1, 7),
    drops=some.lists(some.tuples(some.integers(0, 60), some.integers(1, 5)), max_size=6),
    seed=some.integers(0, 5),
)
def test_what_was_learned_of_is_each_item_once_an_epoch_however_often_it_was_dropped(
    items: int, batch: int, epochs: int, every: int, drops: list[tuple[int, int]], seed: int
) -> None:
    """Attempts of `drops` steps on so many workers; a checkpoint is written every so many steps, and the next goes on from it."""
    total = steps_of_epoch(items, batch) * epochs
    learned: list[list[int]] = []  # what the weights at the end have learned of, by step
    durable = 0
    for most, workers in [*drops, (total, 3)]:
        del learned[durable:]  # the steps beyond the checkpoint are not in the weights
        for step in range(durable, min(total, durable + most)):
            taken = batch_at(step, items, batch, seed)
            learned.append([item for rank in range(workers) for item in share_of(taken, rank, workers)])
            if (step + 1) % every == 0 or step + 1 == total:
                durable = step + 1
    assert durable == len(learned) == total
    for epoch in range(epochs):
        steps = learned[epoch * steps_of_epoch(items, batch) : (epoch + 1) * steps_of_epoch(items, batch)]
        assert Counter(item for step in steps for item in step) == Counter(range(items))
        assert all(len(step) == batch for step in steps[:-1])


@given(some.integers(1, 30), some.integers(1, 9))
def test_shares_of_a_batch_are_the_batch_and_differ_by_one_item_at_most(items: int, workers: int) -> None:
    batch = list(range(items))
    shares = [share_of(batch, rank, workers) for rank in range(workers)]
    assert sorted(item for share in shares for item in share) == batch
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert shares[0], "the first worker, whose figures are kept, always has some"


def test_each_epoch_has_an_order_of_its_own_that_the_seed_fixes() -> None:
    first, second = (batch_at(step, 50, 50, 17) for step in (0, 1))
    assert first != second
    assert first == batch_at(0, 50, 50, 17) != batch_at(0, 50, 50, 18)
