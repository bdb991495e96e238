"""`mer-zoo recipes`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import command, emit, table

if TYPE_CHECKING:
    from mer_zoo.recipes import Recipe


@command("recipes")
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes that come along, or the settings and steps of one (a name, or a YAML file)."""
    from mer_zoo.recipes import builtin_recipes, find_recipe, load_recipe

    if name is None:
        known = {key: load_recipe(path) for key, path in builtin_recipes().items()}
        rows = [(key, recipe.paper, len(recipe.steps)) for key, recipe in known.items()]
        emit(
            [recipe.model_dump() for recipe in known.values()],
            lambda: table("", ["recipe", "paper", "steps"], rows),
        )
        return
    recipe = load_recipe(find_recipe(name))
    emit(recipe.model_dump(), lambda: _print(recipe))


def _print(recipe: "Recipe") -> None:
    click.echo(f"{recipe.name}: {recipe.paper}\n{recipe.about}")
    rows = [
        (name, "(must be given)" if setting.default is None else setting.default, setting.help)
        for name, setting in recipe.settings.items()
    ]
    table("\nsettings, changed by --set name=value", ["name", "default", "what"], rows)
    table(
        "\nsteps",
        ["", "what", "makes"],
        [(i, s.title, ", ".join(s.makes)) for i, s in enumerate(recipe.steps, 1)],
    )
