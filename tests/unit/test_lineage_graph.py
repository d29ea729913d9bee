"""Which versions have learned from an example, by its split."""

from __future__ import annotations

import pytest
from rounds import manifest as a_manifest

from headrace.lineage.graph import ReleaseHistory, learned_splits
from headrace.models.pointer import ChampionPointer


@pytest.mark.parametrize(
    ("model", "split", "learned"),
    [
        ("reranker", "train", True),
        ("reranker", "tune", True),
        ("reranker", "test", False),
        ("ranking", "train", True),
        ("ranking", "test", True),  # it is released from all examples, and judged by cross-fitting
    ],
)
def test_a_version_has_learned_from_the_splits_that_its_weights_depend_on(model: str, split: str, learned: bool) -> None:
    assert (split in learned_splits(model)) is learned
    history = ReleaseHistory(
        {1: a_manifest(1, version="v000001", recipe=model, model=model)}, {model: ChampionPointer(model=model, version="v000001")}
    )
    found = history.learned({"d": {split: 1}})
    assert [(one["model"], one["version"], one["served"]) for one in found] == ([(model, "v000001", True)] if learned else [])
    assert history.learned({"another": {split: 1}}) == []
