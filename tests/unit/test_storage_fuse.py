"""Reciprocal rank fusion, against sums made by hand."""

from __future__ import annotations

import pytest

from headrace.storage.vectors import Hit, fuse


def hit(name: str) -> Hit:
    return Hit(name, "d", "v", "u", "", name, 0.0)


def hits(names: str) -> list[Hit]:
    return [hit(name) for name in names]


def test_scores_are_the_sums_of_reciprocal_ranks() -> None:
    found = {h.chunk_id: h for h in fuse(hits("abc"), hits("bd"))}
    assert found["a"].score == pytest.approx(1 / 61)
    assert found["b"].score == pytest.approx(1 / 62 + 1 / 61)
    assert found["c"].score == pytest.approx(1 / 63)
    assert found["d"].score == pytest.approx(1 / 62)
    assert {n: (h.dense_rank, h.fulltext_rank) for n, h in found.items()} == {
        "a": (1, None),
        "b": (2, 1),
        "c": (3, None),
        "d": (None, 2),
    }


def test_the_best_comes_first_and_what_both_found_beats_what_one_did() -> None:
    assert [h.chunk_id for h in fuse(hits("abc"), hits("bd"))] == ["b", "a", "d", "c"]


def test_of_equals_the_better_dense_rank_comes_first() -> None:
    assert [h.chunk_id for h in fuse(hits("ab"), hits("ba"))] == ["a", "b"]
    assert [h.chunk_id for h in fuse(hits("z"), hits("a"))] == ["z", "a"]


def test_one_search_alone_keeps_its_order() -> None:
    assert [h.chunk_id for h in fuse(hits("cab"), [])] == ["c", "a", "b"]
    assert [h.chunk_id for h in fuse([], hits("cab"))] == ["c", "a", "b"]
    assert fuse([], []) == []
