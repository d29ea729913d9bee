"""A recipe: how a model is trained from one kind of verdicts.

A `GradientRecipe` defines the loss that the trainer minimises step by step, a `FittedRecipe` fits at once, in seconds.
"""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from headrace.errors import BadSettings
from headrace.settings import Section

if TYPE_CHECKING:  # torch takes seconds to import, and most of training/ does not need it
    import torch


class RecipeSettings(Section):
    """Settings of every recipe; each recipe adds its own. The values come from the recipe's file."""

    start: Literal["packaged", "served"]
    """The weights that training starts from: the packaged or the served ones."""


class GradientSettings(RecipeSettings):
    """The parameters of every recipe that trains step by step."""

    epochs: int = Field(ge=1)
    """Passes over the training examples."""
    batch: int = Field(ge=1)
    """Items per optimizer step."""
    most_steps: int = Field(ge=1)
    """Maximum optimizer steps, even if items are left."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it falls to zero over the others."""
    clip: float = Field(gt=0)
    """Norm to which gradients are clipped."""
    max_tokens: int = Field(ge=16, le=8192)
    """Maximum tokens of an item; longer ones are cut."""
    checkpoint_steps: int = Field(ge=1)
    """Optimizer steps between checkpoints."""


@dataclass
class Policy:
    """The model in training. Parameters without `requires_grad` are not trained and not written to checkpoints.

    `extra` holds what a recipe needs besides, e.g. a reference model.
    """

    model: torch.nn.Module
    tokenizer: Any
    extra: dict[str, Any] = field(default_factory=dict)


class Recipe(ABC):
    """One way of training one model. It has no state."""

    name: ClassVar[str]
    model: ClassVar[str]
    """The model that it trains."""
    about: ClassVar[str]
    """One sentence for people."""
    learns_from: ClassVar[str]
    """What a training split must hold for it, in words."""
    settings_type: ClassVar[type[RecipeSettings]]

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: Any) -> dict[str, int]:
        """Rows of the dataset that this recipe cannot learn from, by reason."""
        return {}

    def settings(self, values: Mapping[str, object]) -> Any:
        """The settings in the recipe's file, overridden by `values`. Raises `BadSettings`."""
        defaults = tomllib.loads(files("headrace.training.recipes").joinpath(f"{self.name}.toml").read_text(encoding="utf-8"))
        try:
            return self.settings_type(**{**defaults, **values})
        except ValidationError as error:
            faults = [f"  training.recipe.{self.name}.{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
            raise BadSettings(
                "The settings are invalid:\n" + "\n".join(faults), hint="See docs/explanation/training.md."
            ) from None


class GradientRecipe(Recipe):
    """Trains step by step. What a step depends on is the policy, its items and torch's RNG."""

    @abstractmethod
    def fresh(self, parent: Path | None, settings: Any, seed: int) -> Policy:
        """The policy before the first step: from a released version's folder, or from the package."""

    @abstractmethod
    def items(self, rows: Sequence[Mapping[str, Any]], settings: Any) -> list[Any]:
        """The training items from the dataset's rows, in an order that depends on the rows only."""

    @abstractmethod
    def loss(self, policy: Policy, items: Sequence[Any], settings: Any, step_seed: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss (a scalar) and figures to report. Randomness must come from torch's RNG or `step_seed`."""

    @abstractmethod
    def save(self, policy: Policy, folder: Path) -> None:
        """Write the files to release."""


@dataclass(frozen=True)
class Fit:
    """What fitting came to: questions learned from, and the mean loss over them before and after."""

    questions: int
    loss_before: float
    loss_after: float


class FittedRecipe(Recipe):
    """Fits all rows of a dataset in one go, and each fold of them without the others: it is judged by cross-fitting."""

    @abstractmethod
    def fit(self, rows: Sequence[Mapping[str, Any]], settings: Any, folder: Path) -> Fit | None:
        """Fit the rows of every split and write what is released; `None` where they hold nothing to learn from."""
