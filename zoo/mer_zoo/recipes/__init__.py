"""Recipes: whole pipelines as plain files of command lines, run step by step, resumed where they stopped."""

from mer_zoo.recipes.document import Recipe, builtin_recipes, find_recipe, load_recipe
from mer_zoo.recipes.lines import Step, make_steps, start_at
from mer_zoo.recipes.running import Outcome, run_steps
from mer_zoo.recipes.state import State

__all__ = [
    "Outcome", "Recipe", "State", "Step", "builtin_recipes", "find_recipe", "load_recipe", "make_steps",
    "run_steps", "start_at",
]  # fmt: skip
