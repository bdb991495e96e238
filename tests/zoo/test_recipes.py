"""Recipes as files: how settings are filled in, what is refused and where, what counts as made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.recipes import (
    Outcome,
    Recipe,
    State,
    Step,
    builtin_recipes,
    find_recipe,
    load_recipe,
    make_steps,
    run_steps,
    start_at,
)  # fmt: skip
from mer_zoo.recipes.document import RecipeError
from mer_zoo.recipes.words import fill_line
from support.features import make_spec, write

MINIMAL = """
name: tiny
settings:
  model: ""
  epochs: 3
  name: {default: null, help: of the run}
steps:
  - title: Make a store
    run: mer-fs init
    makes: store
  - title: Train
    run: mer-zoo train mlp [--param "x={model}"] --epochs {epochs} --as {name}
    makes: runs/{name}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Return a small recipe."""
    return load_recipe(written(tmp_path, MINIMAL))


def written(folder: Path, text: str) -> Path:
    """Write a recipe file."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_are_filled_in(recipe: Recipe) -> None:
    """Defaults and --set, optional parts dropped, spaces stay in one word, --store where it is not said."""
    steps = make_steps(recipe, "/c", "my store", {"name": "a b"})
    assert steps[0].line == "mer-fs init --store 'my store'"
    assert steps[1].argv == (
        "mer-zoo", "train", "mlp", "--epochs", "3", "--as", "a b", "--store", "my store"
    )  # fmt: skip
    assert steps[1].makes == ("runs/a b",)
    steps = make_steps(recipe, "/c", "s", {"name": "n", "model": "$(rm -rf x); `y`", "epochs": "9"})
    assert steps[1].argv[3:7] == ("--param", "x=$(rm -rf x); `y`", "--epochs", "9")


def test_settings_that_are_missing_or_unknown(recipe: Recipe) -> None:
    """A setting without a default must be given; an unknown one has a near name."""
    with pytest.raises(ZooError, match="the setting name must be given; add --set name=VALUE"):
        make_steps(recipe, "/c", "s", {})
    with pytest.raises(UnknownName, match="no setting of tiny named 'epoch'; did you mean 'epochs'"):
        make_steps(recipe, "/c", "s", {"epoch": "3", "name": "n"})


def test_lines_are_divided_before_they_are_filled() -> None:
    """`{*name}` gives several words or none; a group goes when any of its settings is empty."""
    values = {"a": "1 2", "b": "", "c": "--x 'y z'"}
    assert fill_line("mer-fs x {a} '{a} {a}' {*c} {*b} end", values) == (
        "mer-fs", "x", "1 2", "1 2 1 2", "--x", "y z", "end",
    )  # fmt: skip
    assert fill_line("m [--a {a}] [--b {b}] [--both {a} {b}] [{*c}]", values) == (
        "m", "--a", "1 2", "--x", "y z",
    )  # fmt: skip
    for wrong in ("m [--a {a}", "m --a {a}]", "m [--a [--b]]", "m 'x"):
        with pytest.raises(ZooError, match=r"bracket|quot"):
            fill_line(wrong, values)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: x\nsteps: []\n", r"line 2: steps: Tuple should have at least 1 item"),
        ("name: x\nsteps:\n  - title: t\n", r"line 3: steps.1.run: Field required"),
        ("name: x\nsteps:\n  - {title: t, run: mer-fs init, make: store}\n", r"line 3: steps.1.make: Extra"),
        (
            "name: x\nsteps:\n  - title: t\n    run: rm -rf /\n",
            r"line 3: steps.1: run: must begin with mer-fs",
        ),
        (
            "name: x\nsteps:\n  - {title: t, run: mer-fs init, makes: run/x}\n",
            "makes: 'run/x' must be store, ",
        ),
        ("name: x\nsteps:\n  - {title: t, run: 'mer-fs init {y}'}\n", r"step 1 uses {y}, which is not one"),
        ("name: x\nsettings: {y: 1}\nsteps:\n  - {title: t, run: mer-fs init}\n", "no step uses 'y'"),
        ("name: x\nsettings: {y: no}\nsteps:\n  - {title: t, run: 'mer-fs {y}'}\n", "put it in quotes"),
        ("name: x\nname: y\nsteps:\n  - {title: t, run: mer-fs init}\n", "line 2: 'name' is written twice"),
        ("name: x\nsteps: [\n", r"r.yaml, line 3: expected"),
        (
            "name: x\nsteps: !!python/object/apply:os.getcwd []\n",
            r"line 2: could not determine a constructor",
        ),
        (
            "name: x\nsteps:\n  - {title: t, run: mer-zoo run x.yaml}\n",
            "line 3: steps.1: run: a recipe runs no",
        ),
        ("- 1\n", "line 1: a recipe has a name: and steps:"),
        ("", "line 1: a recipe has a name: and steps:"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    """Missing and unknown fields, foreign programs, unknown placeholders, YAML's traps, code: all refused."""
    with pytest.raises(RecipeError, match=match):
        load_recipe(written(tmp_path, text))


def test_recipes_are_found_by_name_or_path(tmp_path: Path) -> None:
    """Those that come along by name, others by path; a wrong name offers the near one."""
    assert {"agt-mer2024", "acoustic-visual-mer2024"} <= set(builtin_recipes())
    assert find_recipe("agt-mer2024") == builtin_recipes()["agt-mer2024"]
    path = written(tmp_path, MINIMAL)
    assert find_recipe(str(path)) == path
    with pytest.raises(UnknownName, match="did you mean 'agt-mer2024'"):
        find_recipe("agt-mer2023")
    with pytest.raises(RecipeError, match=r"no such file: nowhere.yaml"):
        find_recipe("nowhere.yaml")


@pytest.mark.parametrize("name", builtin_recipes())
def test_recipes_that_come_along_name_themselves(name: str) -> None:
    """Each is valid, called as its file, tells its paper, and fills in with what has no default."""
    found = load_recipe(builtin_recipes()[name])
    needed = {key: "x" for key, setting in found.settings.items() if setting.default is None}
    assert found.name == name
    assert "arXiv" in found.paper
    assert all(step.makes for step in make_steps(found, "c", "s", needed))


def step(number: int, *makes: str, argv: Sequence[str] = ("mer-fs", "log")) -> Step:
    """Return a step that makes something."""
    return Step(number, f"step {number}", tuple(argv), makes)


def nothing(argv: Sequence[str]) -> None:
    """Run nothing."""


def test_what_is_in_the_store_is_passed_over(tmp_path: Path) -> None:
    """A step is skipped when all it makes is there, and must make it; nothing runs in a dry run."""
    url, ran = str(tmp_path / "s"), []

    def execute(argv: Sequence[str]) -> None:
        ran.append(argv[1])
        if argv[1] == "init":
            Store.create(url)
        else:
            layer = LabelLayer.human("gold", ["a", "b"], {"x": "a"})
            store = Store.open(url)
            store.clips.add([Clip(key="x", text="t")])
            store.labels.add(layer, command="mer-fs ingest other.csv")

    steps = [
        step(1, "store", argv=("mer-fs", "init")),
        step(2, "clips", "labels/gold", argv=("mer-fs", "ingest", "--store", url)),
    ]
    assert [o.status for o in run_steps(steps, State(url), execute, dry_run=True)] == ["to do", "to do"]
    assert ran == []
    assert [o.status for o in run_steps(steps, State(url), execute)] == ["done", "done"]
    again = run_steps(steps, State(url), execute)
    assert [o.status for o in again] == ["there", "there"]
    assert ran == ["init", "ingest"]
    assert again[1].note == "clips (commit 1), labels/gold (commit 2)"
    assert again[1].warning == "labels/gold was made by another command: mer-fs ingest other.csv"
    with pytest.raises(ZooError, match="step 3 ended without making runs/never"):
        run_steps([step(3, "runs/never")], State(url), nothing)


def test_a_space_counts_when_it_is_whole(tmp_path: Path) -> None:
    """An extraction that was cut short goes on; clips in quarantine, or not in the source, do not count."""
    url = str(tmp_path / "s")
    store = Store.create(url)
    store.clips.add(Clip(key=key, text="t", audio="a" if key != "c" else None) for key in "abc")
    spec = make_spec("x-UTT")
    derived = make_spec("y-UTT", parents=("features/x-UTT",), made_by={"y": 1})
    one = np.zeros((1, 6), np.float16)
    write(store, spec, {"a": one})
    outcome = run_steps([step(1, "features/x-UTT")], State(url), nothing, dry_run=True)[0]
    assert (outcome.status, outcome.note) == ("to do", "features/x-UTT lacks 1 clip")
    with store.features.writer(spec) as writer:
        writer.quarantine("b", "broken")
    write(store, derived, {"a": one})
    steps = [step(1, "features/x-UTT"), step(2, "features/y-UTT"), step(3, f"file:{tmp_path}/no.csv")]
    outcomes = run_steps(steps, State(url), nothing, dry_run=True)
    assert [o.status for o in outcomes] == ["there", "there", "to do"]


def test_a_step_that_fails_ends_the_run(tmp_path: Path) -> None:
    """Its error comes through, whoever listens hears of it with its time, and later steps do not run."""
    heard: list[Outcome] = []

    def execute(argv: Sequence[str]) -> None:
        raise KeyboardInterrupt if argv[1] == "stop" else ZooError("no", "yes")

    for word, status, error in (("fail", "failed", ZooError), ("stop", "stopped", KeyboardInterrupt)):
        steps = [step(1, argv=("mer-fs", word)), step(2)]
        heard.clear()
        with pytest.raises(error):
            run_steps(steps, State(str(tmp_path / "s")), execute, told=lambda o, _: heard.append(o))
        assert [o.status for o in heard] == ["to do", status]


def test_starting_later(tmp_path: Path) -> None:
    """A step is named by its number or by what it makes; what is before is not looked at."""
    steps = [step(1, "runs/a"), step(2, "runs/b", "labels/c"), step(3)]
    assert [start_at(steps, name) for name in ("", "2", "b", "labels/c", "3")] == [1, 2, 2, 2, 3]
    with pytest.raises(UnknownName, match="no step named 'runs/d'; did you mean"):
        start_at(steps, "runs/d")
    ran: list[int] = []
    outcomes = run_steps(steps[2:], State(str(tmp_path / "s")), lambda _: ran.append(1), start=3)
    assert ([o.status for o in outcomes], ran) == (["done"], [1])
    passed = run_steps(steps, State(str(tmp_path / "s")), nothing, start=4)
    assert {o.status for o in passed} == {"passed over"}
