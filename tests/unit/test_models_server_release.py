"""Which version makes an answer, and what a pointer and a card may say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.models.server.release import CanaryShare, Card, GeneratorCard, Pointer, RerankerCard, served
from headrace.training.champion import Canary, Champion

FILE = {"name": "model.safetensors", "bytes": 1, "sha256": "0" * 64}


def trial(share: float) -> Pointer:
    return Pointer(version="v000003", round=3, canary=CanaryShare(version="v000007", share=share))


def test_a_canary_has_its_share_of_the_answers_and_no_more() -> None:
    ids = [f"{number:016x}" for number in range(20_000)]
    had: set[str] = set()
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        has = {answer for answer in ids if served(trial(share), answer) == "v000007"}
        assert abs(len(has) / len(ids) - share) <= 4 * (share * (1 - share) / len(ids)) ** 0.5
        assert had <= has  # whom it answered before a share grew, it answers still
        had = has
    assert served(trial(1.0), "") == "v000003"
    assert served(Pointer(version="v000003", round=3), "a") == "v000003"
    assert served(Pointer(), "a") == "none"


def test_the_share_is_of_the_hash_that_the_design_names() -> None:
    place = int(hashlib.sha256(b"4e1f").hexdigest()[:8], 16) / 2**32
    assert served(trial(place), "4e1f") == "v000003"
    assert served(trial(place + 1e-9), "4e1f") == "v000007"


def test_what_training_writes_the_server_reads() -> None:
    champion = Champion(
        model="generator", version="v000003", round=3, who="round 3", at="2026-01-01T00:00:00+00:00", history=["none"]
    )
    assert Pointer.model_validate_json(json.dumps(asdict(champion))) == Pointer(version="v000003", round=3)
    tried = Champion(version="none", canary=Canary("v000007", 0.25, 7, "2026-01-01T00:00:00+00:00", "better"))
    pointer = Pointer.model_validate_json(json.dumps(asdict(tried)))
    assert pointer == Pointer(version="none", round=0, canary=CanaryShare(version="v000007", share=0.25))


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "7"},
        {"version": "v7"},
        {"canary": {"version": "none", "share": 0.1}},
        {"canary": {"version": "v000007", "share": 2}},
    ],
)
def test_a_pointer_to_nowhere_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Pointer.model_validate({"version": "v000003", "round": 3} | wrong)


@pytest.mark.parametrize("name", ["../model", "/etc/passwd", "a/b/c", "a/../b", "", ".", "a//b"])
def test_a_card_names_files_inside_its_release_only(name: str) -> None:
    with pytest.raises(ValidationError):
        Card.model_validate({"version": "v000001", "round": 1, "files": [FILE | {"name": name}]})


def test_each_model_has_its_card() -> None:
    card = {"version": "v000001", "round": 1, "model": "reranker", "recipe": "reranker", "files": [FILE]}
    assert RerankerCard.model_validate(card | {"retrieval_weight": 0.3, "max_tokens": 256}).retrieval_weight == 0.3
    assert GeneratorCard.model_validate(card | {"form": "lora"}).form == "lora"
    assert GeneratorCard.model_validate(card).form == "lora", "those released before it was written down are served"
    for kind, form in ((RerankerCard, {}), (GeneratorCard, {"form": "whole"})):
        with pytest.raises(ValidationError):
            kind.model_validate(card | form)
    other = Card.model_validate(card | {"files": [FILE | {"sha256": "1" * 64}]})
    assert Card.model_validate(card).digest != other.digest
