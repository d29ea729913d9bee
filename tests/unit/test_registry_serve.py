"""Which recipes `auto` chooses among: none for a model that the settings give to somebody else, or that nobody asks."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.core.run import Run
from headrace.core.runner import Runner
from headrace.errors import BadSettings, NothingToLearn
from headrace.registry.serve import RoundRunner, reasons_together
from headrace.settings import Endpoint, Inference, ModelSettings, Settings
from headrace.storage.endpoints import Endpoints
from headrace.training.recipes import CHEAPEST_FIRST, RECIPES

THEIRS = Endpoint(type="endpoint", url="http://127.0.0.1:9/v1", model="m")


def loop(tmp_path: Any, **given: Any) -> RoundRunner:
    settings = Settings.model_construct(home=tmp_path, inference=Inference(), models=ModelSettings()).model_copy(update=given)
    return RoundRunner(settings, Runner(Run("test", tmp_path), Endpoints.model_construct()))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ("ranking", "embedder", "reranker")),  # answers are quoted
        ({"inference": Inference(answers="generated")}, CHEAPEST_FIRST),
        ({"inference": Inference(temperature=0.7)}, CHEAPEST_FIRST),
        ({"models": ModelSettings(embedder=THEIRS)}, ("ranking", "reranker", "sft", "kto")),
        ({"models": ModelSettings(generator=THEIRS)}, ("ranking", "embedder", "reranker")),
        ({"models": ModelSettings(reranker=THEIRS)}, ("embedder",)),
    ],
)
def test_choices_are_recipes_whose_model_is_asked(tmp_path: Any, given: dict[str, Any], wanted: tuple[str, ...]) -> None:
    assert loop(tmp_path, **given).choices == wanted


def test_every_choice_is_a_recipe() -> None:
    assert set(CHEAPEST_FIRST) < set(RECIPES)


def test_a_ranking_does_not_change_the_order_of_somebody_elses_reranker(tmp_path: Any) -> None:
    with pytest.raises(BadSettings, match="your own re-ranker"):
        loop(tmp_path, models=ModelSettings(reranker=THEIRS)).round("ranking")


def test_a_reason_that_recipes_have_in_common_is_said_once() -> None:
    lacks = "the training split holds no question with both a liked and a disliked passage."
    found = [("ranking", lacks), ("embedder", lacks), ("sft", "1 held-out question is not enough evidence."), ("reranker", lacks)]
    nothing = [(name, NothingToLearn(f"{name} is not trained: {why}")) for name, why in found]
    nothing.append(("kto", NothingToLearn("There is nothing that the recipe kto can learn from.")))
    assert reasons_together(nothing) == (
        f"ranking, embedder and reranker are not trained: {lacks} sft is not trained: 1 held-out question is not enough evidence."
        " There is nothing that the recipe kto can learn from."
    )
