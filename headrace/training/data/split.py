"""The train, tune and test splits of questions, without leaks between them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from headrace.training.data.dataset import TEST, TRAIN, TUNE

_TEST_SHARE, _TUNE_SHARE = 0.25, 0.15
_LEAST_DOCUMENTS = 8


def units_of(names: Sequence[str], documents: Sequence[str], groups: Sequence[int]) -> list[str]:
    """The unit of each question: what is kept together when questions are split or folds are made.

    `names` identify the questions, `documents` are what each is about ("" if unknown), `groups` the position of the first of
    its near-duplicates. All questions about one document are in one unit, and so are near-duplicates. Near-duplicates are
    grouped and not dropped: they may ask for something else, and their verdicts count as much.

    With fewer than eight such units only near-duplicates are kept together.
    """
    units = _units(names, documents, groups)
    return units if len(set(units)) >= _LEAST_DOCUMENTS else _units(names, [""] * len(names), groups)


def splits(units: Sequence[str], seed: int) -> list[str]:
    """Split of each question, by its unit: 60 % train, 15 % tune, 25 % test.

    A unit of more than a quarter of the questions is learned from, for held out it would leave nothing to learn from.
    """
    sizes = Counter(units)
    large = {unit for unit, size in sizes.items() if size > _TEST_SHARE * len(units)}
    large = large if len(large) < len(sizes) else set()
    split_of = dict.fromkeys(large, TRAIN)
    # Ranked by hash and not compared with a threshold, so that even few units are split in these shares.
    order = sorted(sizes.keys() - large, key=lambda unit: hashlib.sha256(f"{seed}\0{unit}".encode()).digest())
    seen, total = 0, sum(sizes[unit] for unit in order)
    for unit in order:
        share = seen / total
        split_of[unit] = TEST if share < _TEST_SHARE else TUNE if share < _TEST_SHARE + _TUNE_SHARE else TRAIN
        seen += sizes[unit]
    return [split_of[unit] for unit in units]


def _units(names: Sequence[str], documents: Sequence[str], groups: Sequence[int]) -> list[str]:
    """The unit of each question, named by the smallest name in it."""
    leader: dict[str, str] = {}

    def find(node: str) -> str:
        leader.setdefault(node, node)
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for place, (name, document) in enumerate(zip(names, documents, strict=True)):
        question = f"q{name}"
        for other in (f"q{names[groups[place]]}", f"d{document}" if document else question):
            first, second = sorted((find(question), find(other)))
            leader[second] = first
    return [find(f"q{name}") for name in names]
