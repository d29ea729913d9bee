"""Reciprocal rank fusion, against sums made by hand."""

from __future__ import annotations

import pytest

from headrace.storage.vectors.handles import fuse


def names(dense: str, fulltext: str) -> list[str]:
    return [found.name for found in fuse(dense, fulltext)]


def test_scores_are_the_sums_of_reciprocal_ranks() -> None:
    found = {found.name: found for found in fuse("abc", "bd")}
    assert found["a"].score == pytest.approx(1 / 61)
    assert found["b"].score == pytest.approx(1 / 62 + 1 / 61)
    assert found["c"].score == pytest.approx(1 / 63)
    assert found["d"].score == pytest.approx(1 / 62)
    assert {n: (f.dense_rank, f.fulltext_rank) for n, f in found.items()} == {
        "a": (1, None),
        "b": (2, 1),
        "c": (3, None),
        "d": (None, 2),
    }


def test_the_best_comes_first_and_what_both_found_beats_what_one_did() -> None:
    assert names("abc", "bd") == ["b", "a", "d", "c"]


def test_of_equals_the_better_dense_rank_comes_first() -> None:
    assert names("ab", "ba") == ["a", "b"]
    assert names("z", "a") == ["z", "a"]


def test_one_search_alone_keeps_its_order() -> None:
    assert names("cab", "") == ["c", "a", "b"]
    assert names("", "cab") == ["c", "a", "b"]
    assert names("", "") == []
