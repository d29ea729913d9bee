"""What a card may say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from headrace.models.cards import Card, GeneratorCard, RerankerCard

FILE = {"name": "model.safetensors", "bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize("name", ["../model", "/etc/passwd", "a/b/c", "a/../b", "", ".", "a//b"])
def test_a_card_names_files_inside_its_release_only(name: str) -> None:
    with pytest.raises(ValidationError):
        Card.model_validate({"version": "v000001", "round": 1, "files": [FILE | {"name": name}]})


def test_each_model_has_its_card() -> None:
    card = {"version": "v000001", "round": 1, "model": "reranker", "recipe": "reranker", "files": [FILE]}
    weights = {"retrieval": 1.0, "reranker": 0.5}
    made = RerankerCard.model_validate(card | {"ranking": {"weights": weights}, "max_tokens": 256})
    assert made.ranking.weights == weights
    before = RerankerCard.model_validate(card | {"retrieval_weight": 0.3, "max_tokens": 256})
    assert before.ranking.weights == {"retrieval_standardised": 0.3, "reranker_standardised": 0.7}
    for wrong in ({"retrieval_weight": 1.5}, {"retrieval_weight": "much"}, {"ranking": {"weights": {"beauty": 1.0}}}):
        with pytest.raises(ValidationError):
            RerankerCard.model_validate(card | {"max_tokens": 256} | wrong)
    assert GeneratorCard.model_validate(card | {"form": "lora"}).form == "lora"
    assert GeneratorCard.model_validate(card).form == "lora", "those released before it was written down are served"
    for kind, form in ((RerankerCard, {}), (GeneratorCard, {"form": "whole"})):
        with pytest.raises(ValidationError):
            kind.model_validate(card | form)
    other = Card.model_validate(card | {"files": [FILE | {"sha256": "1" * 64}]})
    assert Card.model_validate(card).digest != other.digest
