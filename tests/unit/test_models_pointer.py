"""The champion pointer: which version makes an answer, and what a pointer may say."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from headrace.errors import InvalidState
from headrace.models.pointer import Canary, ChampionPointer, parse_pointer


def canary(share: float) -> Canary:
    return Canary(version="v000007", share=share, round=7, since="2026-01-01T00:00:00+00:00", why="better")


def trial(share: float) -> ChampionPointer:
    return ChampionPointer(model="reranker", version="v000003", round=3, canary=canary(share))


def test_a_canary_has_its_share_of_the_answers_and_no_more() -> None:
    ids = [f"{number:016x}" for number in range(20_000)]
    had: set[str] = set()
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        has = {answer for answer in ids if trial(share).served(answer) == "v000007"}
        assert abs(len(has) / len(ids) - share) <= 4 * (share * (1 - share) / len(ids)) ** 0.5
        assert had <= has  # whom it answered before a share grew, it answers still
        had = has
    assert trial(1.0).served("") == "v000003"
    assert ChampionPointer(model="reranker", version="v000003").served("a") == "v000003"
    assert ChampionPointer(model="reranker").served("a") == "none"


def test_the_share_is_of_the_hash_that_the_design_names() -> None:
    place = int(hashlib.sha256(b"4e1f").hexdigest()[:8], 16) / 2**32
    assert trial(place).served("4e1f") == "v000003"
    assert trial(place + 1e-9).served("4e1f") == "v000007"


def test_a_pointer_is_read_as_it_was_written() -> None:
    pointer = ChampionPointer(
        model="generator", version="v000003", round=3, moves=2, who="round 3", history=["none"], canary=canary(0.25)
    )
    written = pointer.model_dump_json().encode()
    assert parse_pointer("generator", written) == pointer
    assert json.loads(written)["format"] == 1
    assert "format" not in pointer.as_dict()
    before = {name: value for name, value in json.loads(written).items() if name != "format"}
    assert parse_pointer("generator", json.dumps(before).encode()) == pointer, "as it was before it had a format"
    assert [pointer.share(version) for version in ("v000003", "v000007", "v000001")] == [0.75, 0.25, 0.0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"version": "7"}, "version"),
        ({"version": "v7"}, "version"),
        ({"canary": {**canary(0.1).model_dump(), "version": "none"}}, "canary.version"),
        ({"canary": {**canary(0.1).model_dump(), "share": 2}}, "canary.share"),
        ({"moves": -1}, "moves"),
        ({"champion": "v000003"}, "champion: Extra inputs"),
    ],
)
def test_a_pointer_that_is_none_is_refused(wrong: dict[str, Any], said: str) -> None:
    data = json.dumps({"model": "reranker", "version": "v000003", "round": 3} | wrong).encode()
    with pytest.raises(InvalidState, match=f"^models/reranker/champion.json cannot be read .{said}.*a newer Headrace"):
        parse_pointer("reranker", data)
    with pytest.raises(InvalidState, match="Invalid JSON"):
        parse_pointer("reranker", data[:-3])
