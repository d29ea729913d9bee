"""The recipes, by name.

To add one: a module here with a subclass of `Recipe` (recipe.py), a TOML file with its settings beside it, and a line in
`_CLASSES`; also one in `CHEAPEST_FIRST` if `headrace train` may choose it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from headrace.errors import WrongUsage

if TYPE_CHECKING:  # the command line's help names the recipes without importing pydantic
    from headrace.training.recipe import Recipe

_CLASSES = {
    "ranking": ".ranking:RankingRecipe",
    "reranker": ".reranker:RerankerRecipe",
    "embedder": ".embedder:EmbedderRecipe",
    "sft": ".sft:Sft",
    "kto": ".kto:Kto",
    "grpo": ".grpo:Grpo",
    "online": ".online:Online",
}


AUTO = "auto"
"""In the place of a recipe's name: the first of `CHEAPEST_FIRST` that today's verdicts support."""
CHEAPEST_FIRST = ("ranking", "embedder", "reranker", "sft", "kto")
"""The recipes that are chosen among. Not those that draw answers from the generator: they take long and are named on purpose."""


class _Recipes(Mapping[str, "Recipe"]):
    """Imports a recipe's module on first use, so that the command line can name recipes quickly."""

    def __getitem__(self, name: str) -> Recipe:
        return _made(_CLASSES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


RECIPES = _Recipes()


@cache
def _made(where: str) -> Recipe:
    module, _, name = where.partition(":")
    recipe: Recipe = getattr(import_module(module, __package__), name)()
    return recipe


def recipe_of(name: str) -> Recipe:
    """The recipe of that name. Raises `WrongUsage`."""
    try:
        return RECIPES[name]
    except KeyError:
        raise WrongUsage(f"There is no recipe {name!r}.", hint=f"Recipes: {', '.join(RECIPES)}.") from None
