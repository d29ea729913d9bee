"""Fusion by rank and by score, against sums made by hand."""

from __future__ import annotations

import pytest

from headrace.storage.vectors.search import by_score, fuse


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


def test_by_score_each_search_counts_as_a_share_of_its_best_one() -> None:
    similar = {"a": 0.8, "b": 0.6, "c": -0.1}
    found = {found.name: found for found in by_score(fuse("ab", "cb"), similar, {"c": 6.0, "b": 3.0})}
    assert found["a"].score == pytest.approx(0.75)
    assert found["b"].score == pytest.approx(0.75 * 1.6 / 1.8 + 0.25 * 0.5)
    assert found["c"].score == pytest.approx(0.75 * 0.9 / 1.8 + 0.25)
    assert list(found) == ["b", "a", "c"]
    assert {n: (f.dense_rank, f.fulltext_rank) for n, f in found.items()} == {"a": (1, None), "b": (2, 2), "c": (None, 1)}


def test_by_score_of_equals_the_better_dense_rank_comes_first_and_no_words_are_no_fault() -> None:
    assert [one.name for one in by_score(fuse("za", ""), {"z": 0.5, "a": 0.5}, {})] == ["z", "a"]
    assert by_score([], {}, {}) == []
    assert [one.score for one in by_score(fuse("a", ""), {"a": -1.0}, {"a": 0.0})] == [0.0]
