"""A recipe with its settings filled in: command lines that can be typed as they are."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mer_featurestore.errors import UnknownName
from mer_zoo.recipes.document import Recipe
from mer_zoo.recipes.words import fill_line, fill_text


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a recipe.

    Attributes:
        number: From 1.
        title: What it is for.
        argv: The command line.
        makes: What is there once it is done, e.g. `runs/agt`; empty for a command that sees for itself.
    """

    number: int
    title: str
    argv: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command line as it is typed."""
        return shlex.join(self.argv)


def make_steps(recipe: Recipe, corpus: str, store: str, given: Mapping[str, str]) -> list[Step]:
    """Fill in a recipe.

    Args:
        recipe: The recipe.
        corpus: The corpus folder, `{corpus}`.
        store: The store, `{store}`; every line that does not name a store gets `--store`.
        given: The user's settings.

    Raises:
        UnknownName: A setting the recipe does not have.
        ZooError: A setting that must be given and was not.
    """
    for name in given:
        if name not in recipe.settings:
            raise UnknownName(f"setting of {recipe.name}", name, recipe.settings)
    values: dict[str, str | None] = {name: setting.default for name, setting in recipe.settings.items()}
    values |= {**given, "corpus": corpus, "store": store}
    steps = []
    for number, step in enumerate(recipe.steps, 1):
        argv = fill_line(step.run, values)
        if "--store" not in argv:
            argv = (*argv, "--store", store)
        steps.append(Step(number, step.title, argv, tuple(fill_text(made, values) for made in step.makes)))
    return steps


def start_at(steps: Sequence[Step], start: str) -> int:
    """Return the number of the step to start at, named by its number or by what it makes.

    Raises:
        UnknownName: There is no such step.
    """
    if not start:
        return 1
    for step in steps:
        names = {made.partition("/")[2] for made in step.makes}
        if start in (str(step.number), *step.makes, *names):
            return step.number
    known = [str(step.number) for step in steps] + [made for step in steps for made in step.makes]
    raise UnknownName("step", start, known)
