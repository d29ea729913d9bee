"""A recipe: how one kind of verdict becomes one kind of better model.

A `GradientRecipe` says what a step of the trainer makes smaller, a `FittedRecipe` fits in one go, in seconds.
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

if TYPE_CHECKING:  # torch takes seconds to import: the rest of the training room does without
    import torch


class RecipeSettings(Section):
    """What every recipe is told; each adds its own. The values come from the recipe's file."""

    start: Literal["packaged", "served"]
    """Which weights training starts from: those in the package, or those that answer now."""


class GradientSettings(RecipeSettings):
    """What every recipe is told that trains step by step."""

    epochs: int = Field(ge=1)
    """Times the training examples are seen."""
    batch: int = Field(ge=1)
    """Items per optimizer step."""
    most_steps: int = Field(ge=1)
    """Optimizer steps after which training ends, however many items are left."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it falls to zero over the others."""
    clip: float = Field(gt=0)
    """Norm to which gradients are clipped."""
    max_tokens: int = Field(ge=16, le=8192)
    """Tokens of an item; what is longer is cut."""
    checkpoint_steps: int = Field(ge=1)
    """Optimizer steps between checkpoints."""


@dataclass
class Policy:
    """What is trained: parameters with `requires_grad` are, the others are not written to checkpoints.

    `extra` holds what a recipe needs beside it (a reference model, say).
    """

    model: torch.nn.Module
    tokenizer: Any
    extra: dict[str, Any] = field(default_factory=dict)


class Recipe(ABC):
    """One way of training one model. Holds no state."""

    name: ClassVar[str]
    model: ClassVar[str]
    """The served model that it makes a challenger of."""
    about: ClassVar[str]
    """One sentence for people."""
    settings_type: ClassVar[type[RecipeSettings]]

    def left_out(self, rows: Sequence[Mapping[str, Any]], settings: Any) -> dict[str, int]:
        """Rows of the dataset that this recipe cannot learn from, by reason."""
        return {}

    def settings(self, values: Mapping[str, object]) -> Any:
        """The recipe's settings: its file, and over it what is `values`. Raises `BadSettings`."""
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
        """What is learned from, out of the dataset's training rows, in an order that depends on the rows only."""

    @abstractmethod
    def loss(self, policy: Policy, items: Sequence[Any], settings: Any, step_seed: int) -> tuple[torch.Tensor, dict[str, float]]:
        """What a step makes smaller (a scalar), and figures to be told. Random only by torch's RNG or `step_seed`."""

    @abstractmethod
    def save(self, policy: Policy, folder: Path) -> None:
        """Write what is released."""


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
