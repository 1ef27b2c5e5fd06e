"""The recipes by name, and which of them a data set can be trained with."""

from collections.abc import Callable
from typing import NamedTuple

from model.config import Kind
from training import paper_recipes, recipes
from training.config import TrainConfig
from training.recipes import DataFacts


class Recipe(NamedTuple):
    """A recipe and the kind of network that it trains."""

    kind: Kind
    make: Callable[[DataFacts], TrainConfig]

    @property
    def summary(self) -> str:
        """The first line of its description."""
        return (self.make.__doc__ or "").partition("\n")[0]


RECIPES = {
    "nuclei": Recipe("panoptic", recipes.nuclei),
    "small_panoptic": Recipe("panoptic", recipes.small_panoptic),
    "small_instance": Recipe("instance", recipes.small_instance),
    "small_semantic": Recipe("semantic", recipes.small_semantic),
    "panoptic_r50_1x": Recipe("panoptic", paper_recipes.panoptic_r50_1x),
    "panoptic_r50_3x": Recipe("panoptic", paper_recipes.panoptic_r50_3x),
    "instance_r50_1x": Recipe("instance", paper_recipes.instance_r50_1x),
    "instance_r50_3x": Recipe("instance", paper_recipes.instance_r50_3x),
    "semantic_r50_80k": Recipe("semantic", paper_recipes.semantic_r50_80k),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError where there is none."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; legal: {', '.join(RECIPES)}")
    return RECIPES[name]


def make_config(name: str, facts: DataFacts) -> TrainConfig:
    """What the recipe says for a data set.

    Raises:
        ValueError: there is no such recipe, or the annotation does not say what it trains.
    """
    recipe = find_recipe(name)
    if not facts.can_train(recipe.kind):
        legal = ", ".join(other for other, entry in RECIPES.items() if facts.can_train(entry.kind))
        annotated = "panoptic (no things)" if facts.kind == "panoptic" else facts.kind
        raise ValueError(
            f"recipe {name!r} trains a network of kind {recipe.kind}, for which data annotated as {annotated} "
            f"segmentation does not do; legal: {legal}"
        )
    return recipe.make(facts)
