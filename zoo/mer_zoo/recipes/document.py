"""A recipe as it is written: YAML, read as plain data and checked; complaints name file and line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.recipes.words import PLACEHOLDER, placeholders

ALWAYS = ("corpus", "store")
"""What every recipe can write without declaring it."""

_NAME = re.compile(r"[a-z][a-z0-9_]*$")
_KINDS = ("store", "clips", "features", "labels", "runs", "adapters", "probe", "file")


class RecipeError(ZooError):
    """A recipe that cannot be read, or a setting it does not take."""


def _text(value: Any) -> Any:
    """Take numbers for the text they are; YAML's booleans are nobody's intention."""
    if isinstance(value, bool):
        raise ValueError("YAML reads this as true or false: put it in quotes")  # noqa: TRY004 - pydantic's way
    return str(value) if isinstance(value, (int, float)) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _spelled(value: Any) -> Any:
    return value if isinstance(value, dict) else {"default": value}


Text = Annotated[str, BeforeValidator(_text)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(_Strict):
    """Something a user can choose: `default` is null when it must be given, empty when it can be left out."""

    default: Text | None = None
    help: str = ""


class StepText(_Strict):
    """One step as written: a command line with placeholders, and what is there once it is done."""

    title: str
    run: str
    makes: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.run.split()[:1] not in (["mer-fs"], ["mer-zoo"]):
            raise ValueError("run: must begin with mer-fs or mer-zoo")
        if self.run.split()[:2] == ["mer-zoo", "run"]:
            raise ValueError("run: a recipe runs no recipes; write their steps out")
        for made in self.makes:
            kind, _, rest = made.replace(":", "/", 1).partition("/")
            if kind not in _KINDS or bool(rest) == (kind in ("store", "clips")):
                raise ValueError(
                    f"makes: {made!r} must be store, clips, features/NAME, labels/NAME, runs/NAME, "
                    "adapters/NAME, probe/PLUGIN or file:PATH"
                )
        return self


class Recipe(_Strict):
    """A recipe file.

    Attributes:
        name: What it is called.
        about: What it does, for people.
        paper: Whose pipeline it spells.
        settings: Name -> what a user can choose.
        steps: In order.
    """

    name: str
    about: str = ""
    paper: str = ""
    settings: Mapping[str, Annotated[Setting, BeforeValidator(_spelled)]] = Field(default_factory=dict)
    steps: Annotated[tuple[StepText, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.settings:
            if not _NAME.match(name) or name in ALWAYS:
                raise ValueError(f"settings: {name!r} cannot be the name of a setting")
        known, used = {*self.settings, *ALWAYS}, set()
        for number, step in enumerate(self.steps, 1):
            here = {name for text in (step.run, *step.makes) for name in placeholders(text)}
            if here - known:
                unknown = min(here - known)
                raise ValueError(f"step {number} uses {{{unknown}}}, which is not one of the settings")
            used |= here
        if unused := sorted(set(self.settings) - used):
            raise ValueError(f"settings: no step uses {unused[0]!r}")
        return self


def builtin_recipes() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package."""
    here = Path(__file__).resolve()
    folders = (here.parent / "files", here.parents[3] / "recipes")  # installed; in a checkout
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: one that comes with the package by name, any other by its path.

    Raises:
        UnknownName: There is none of that name.
        RecipeError: There is no such file.
    """
    if "/" not in name and "\\" not in name and not name.endswith((".yaml", ".yml")):
        known = builtin_recipes()
        if name not in known:
            raise UnknownName("recipe", name, known)
        return known[name]
    if not Path(name).is_file():
        raise RecipeError(f"no such file: {name}", "check the path, or name one of mer-zoo recipes")
    return Path(name)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: It is not YAML, or not of the form a recipe has; names file and line.
    """
    try:
        text = path.read_text("utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8: {error.reason}", "save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(f"{where}: {problem}", "put quotes around text with ': ' or ' #' in it") from None
    for line, key in _twice(tree):
        raise RecipeError(f"{path}, line {line}: {key!r} is written twice", "remove one")
    if not isinstance(document, dict):
        raise RecipeError(
            f"{path}, line 1: a recipe has a name: and steps:",
            "docs/recipes.md says what a recipe looks like",
        )
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{path}, line {_line(tree, first['loc'])}: {f'{where}: ' if where else ''}{said}",
            "docs/recipes.md says what a recipe looks like",
        ) from None


def _twice(node: "yaml.Node | None") -> Iterator[tuple[int, str]]:
    """Yield line and key of what a mapping holds twice: YAML itself takes the last one and says nothing."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, key.value
            seen.add(key.value)
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)


def _line(node: "yaml.Node | None", parts: Sequence[int | str]) -> int:
    """Return the line (1-based) of the deepest part of a path into the document that exists."""
    if node is None:
        return 1
    line: int = node.start_mark.line + 1
    for part in parts:
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next((pair for pair in node.value if pair[0].value == part), None)
            line, node = (inner[0].start_mark.line + 1, inner[1]) if inner else (line, node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = node = node.value[part]
            line = node.start_mark.line + 1
        if inner is None:
            break
    return line


__all__ = ["ALWAYS", "PLACEHOLDER", "Recipe", "RecipeError", "builtin_recipes", "find_recipe", "load_recipe"]
