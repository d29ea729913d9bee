"""The recipes, by name.

To add one: a module here with a `Recipe` of its own (recipe.py says what it has to do), a file of its settings beside it, of at
most twenty lines, and a line below.
"""

from __future__ import annotations

from headrace.errors import WrongUsage
from headrace.training.recipe import Recipe
from headrace.training.recipes.embedder import EmbedderRecipe
from headrace.training.recipes.grpo import Grpo
from headrace.training.recipes.kto import Kto
from headrace.training.recipes.online import Online
from headrace.training.recipes.reranker import RerankerRecipe
from headrace.training.recipes.sft import Sft

RECIPES: dict[str, Recipe] = {
    "reranker": RerankerRecipe(),
    "embedder": EmbedderRecipe(),
    "sft": Sft(),
    "kto": Kto(),
    "grpo": Grpo(),
    "online": Online(),
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that name. Raises `WrongUsage`."""
    try:
        return RECIPES[name]
    except KeyError:
        raise WrongUsage(f"There is no recipe {name!r}.", hint=f"Those there are: {', '.join(RECIPES)}.") from None
