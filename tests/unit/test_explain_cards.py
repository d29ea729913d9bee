"""A dataset as Croissant, and the card of a released model, from a round's manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rounds import manifest as a_manifest

from headrace.catalog import EXAMPLES
from headrace.explain.croissant import croissant, place_of
from headrace.explain.model_card import card_markdown, model_card
from headrace.models.pointer import ChampionPointer
from headrace.training.data.dataset import Dataset

FILES = tuple(
    {"key": f"abc123/{split}-00000.parquet", "split": split, "bytes": 1_000, "sha256": "f" * 64, "examples": count, "kinds": {}}
    for split, count in (("train", 8), ("tune", 1), ("test", 3))
)
DATASET = Dataset(
    "abc123", {"train": 8, "tune": 1, "test": 3}, {"train": 4}, FILES, left_out={"too short": 2}, scrubbed={"email": 1}
)


@pytest.fixture
def described() -> dict[str, Any]:
    place = place_of("http://127.0.0.1:8333", "headrace")
    made: dict[str, Any] = json.loads(
        json.dumps(croissant(a_manifest(7), DATASET, place=place, publisher="acme", licence="CC0-1.0"))
    )
    return made


def test_every_file_of_a_dataset_has_its_address_its_size_and_its_hash(described: dict[str, Any]) -> None:
    files = described["distribution"]
    assert [file["contentUrl"] for file in files] == [f"http://127.0.0.1:8333/headrace/datasets/{file['key']}" for file in FILES]
    assert {(file["sha256"], file["contentSize"], file["@type"]) for file in files} == {("f" * 64, "1000 B", "cr:FileObject")}
    assert described["conformsTo"][0] == "http://mlcommons.org/croissant/1.0"
    assert "12 examples" in described["description"]
    assert described["license"] == "CC0-1.0"


def test_every_column_is_a_field_of_a_file_that_is_there(described: dict[str, Any]) -> None:
    keys = {file["@id"] for file in described["distribution"]}
    for records in described["recordSet"]:
        columns = [field["source"]["extract"]["column"] for field in records["field"]]
        assert columns == EXAMPLES.columns.names
        assert {field["source"]["fileObject"]["@id"] for field in records["field"]} <= keys
    types = {field["source"]["extract"]["column"]: field for field in described["recordSet"][0]["field"]}
    assert types["origins"]["repeated"]
    assert (types["retrieval_rank"]["dataType"], types["label"]["dataType"]) == ("sc:Integer", "sc:Float")
    names = [field["@id"] for records in described["recordSet"] for field in records["field"]]
    assert len(names) == len(set(names))


def test_what_was_left_out_and_replaced_is_said(described: dict[str, Any]) -> None:
    assert "2 too short" in described["rai:dataPreprocessingProtocol"]
    assert "1 texts with email" in described["rai:personalSensitiveInformation"]


def test_a_model_card_has_the_score_the_data_and_the_files(described: dict[str, Any]) -> None:
    made = a_manifest(7)
    stored = {"version": "v000007", "round": 7, "files": [{"name": "ranking.json", "bytes": 2_048, "sha256": "a" * 64}]}
    card = json.loads(json.dumps(model_card(stored, made, ChampionPointer(model=made.model, version="v000007"))))
    assert (card["round"], card["version"], card["share_of_answers"]) == (7, "v000007", 1.0)
    assert card["data"]["dataset"] == made.dataset.version
    assert card["evaluation"]["challenger"] == made.evaluation.challenger
    text = card_markdown(card)
    assert text.startswith("---\nlibrary_name: headrace\n")
    assert f"champion {made.evaluation.champion:.4f}, this version {made.evaluation.challenger:.4f}" in text
    assert "a" * 64 in text
    assert all(f"## {title}" in text for title in ("Evaluation", "Training data", "Limits", "Files"))
