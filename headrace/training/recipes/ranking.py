"""The ranking: weights of a few features of question and passage, from verdicts on passages and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from headrace.models import RANKING
from headrace.models.pointer import NONE
from headrace.training import ranker
from headrace.training.data.dataset import fewer
from headrace.training.recipe import Fit, FittedRecipe, RecipeSettings


class RankingSettings(RecipeSettings):
    """The ranking's settings."""

    folds: int = Field(ge=2, le=20)
    """Parts of the questions, each judged by weights that were learned from the others."""
    most_questions: int = Field(ge=1)
    """Judged questions that are learned from; of more, those are taken that a hash chooses."""
    reranker: str = NONE
    """The re-ranker's version, whose logits are a feature; a round takes it from the pointer."""


class RankingRecipe(FittedRecipe):
    """Listwise logistic regression with a ridge towards retrieval's order: see ranker.py.

    With a re-ranker it learns from the passages which that version scored when it answered: what it learned itself it has not
    seen the verdicts of, and nothing has to be scored again.
    """

    name = "ranking"
    model = RANKING
    about = "Fits the weights by which passages are ordered; the cheapest learner, judged on every question."
    learns_from = "question with both a liked and a disliked passage"
    settings_type = RankingSettings

    def fit(self, rows: Sequence[Mapping[str, Any]], settings: RankingSettings, folder: Path) -> Fit | None:
        questions = ranker.judged(fewer(rows, settings.most_questions), settings.reranker)
        if not questions:
            return None
        learned = ranker.learn(questions, settings.folds, settings.reranker)
        (folder / ranker.FILE).write_text(learned.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return Fit(learned.questions, learned.prior_loss, learned.loss)

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: RankingSettings) -> dict[str, int]:
        """Passages that the re-ranker did not score when it answered, or that were scored by another version."""
        lost = ranker.unscored(rows, settings.reranker)
        return {f"passages that the re-ranker {settings.reranker} did not score": lost} if lost else {}
