"""`mer-zoo run` and `mer-zoo recipes` as typed, with commands that need no weights."""

import csv
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mer_cli import zoo
from mer_cli.lines import check_line
from mer_featurestore import Store
from mer_zoo.recipes import builtin_recipes, load_recipe, make_steps

RECIPE = """
name: words
about: char-ngrams, a probe, a round of pseudo-labels
settings:
  epochs: 2
  threshold: 0.1
  candidates: ""
steps:
  - {title: Make a store, run: mer-fs init, makes: store}
  - title: Take it in
    run: mer-fs ingest {corpus} --layout mer2024 --label-split train
    makes: [clips, labels/gold]
  - {title: Describe, run: mer-fs extract --plugin char-ngrams --level utt, makes: features/char-ngrams-UTT}
  - title: Train
    run: mer-zoo train mlp --labels gold --folds 2 --epochs {epochs} --as first
    makes: runs/first
  - title: Label
    run: mer-zoo pseudo-label --run first --threshold {threshold} --as round1
    makes: labels/round1
  - title: Submit
    run: mer-zoo submit labels/round1 --split unlabeled [--rows {candidates}] --to {corpus}/out.csv
    makes: file:{corpus}/out.csv
"""
WORDS = {"happy": "what a lovely day", "sad": "i miss her so much", "angry": "go away now"}

Run = Callable[..., Result]


def corpus(folder: Path) -> Path:
    """Write a corpus in the challenge's layout, of words: twelve labelled clips and four others."""
    (folder / "video").mkdir(parents=True)
    labels, texts = ["name,discrete"], ["name,chinese"]
    for i in range(16):
        label = list(WORDS)[i % 3]
        (folder / "video" / f"s{i:02d}.mp4").write_text(f"film {i}")
        texts.append(f"s{i:02d},{WORDS[label]} {i}")
        labels += [f"s{i:02d},{label}"] if i < 12 else []
    (folder / "label-disdim.csv").write_text("\n".join(labels))
    (folder / "transcription-merge.csv").write_text("\n".join(texts))
    (folder / "candidate.csv").write_text("name\ns15\ns13\n")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs the recipe on the corpus, into one store."""
    recipe, folder = tmp_path / "words.yaml", corpus(tmp_path / "my corpus")
    recipe.write_text(RECIPE)

    def call(*more: str) -> Result:
        words = ["run", str(recipe), "--corpus", str(folder), "--store", str(tmp_path / "s"), *more]
        return CliRunner().invoke(zoo.main, words)

    return call


def test_a_recipe_runs_and_then_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    """Every step once, printed as it can be typed, with a table; again, all are skipped and say why."""
    done = run()
    assert done.exit_code == 0, done.output
    store = Store.open(tmp_path / "s")
    assert "6 of 6 steps run, 0 there already" in done.stdout
    assert (
        f"$ mer-fs ingest '{tmp_path}/my corpus' --layout mer2024 --label-split train --store {tmp_path}/s"
        in done.stdout
    )
    journal = [commit.command for commit in store.log()]
    assert all(f"$ {command}\n" in done.stdout for command in journal if command)
    again = run()
    assert again.exit_code == 0, again.output
    assert "0 of 6 steps run, 6 there already" in again.stdout
    assert "skipped, there already: runs/first (commit 3)" in again.stdout
    assert "Note:" not in again.stderr
    assert Store.open(tmp_path / "s").commit == store.commit
    with (tmp_path / "my corpus" / "out.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["s12", "s13", "s14", "s15"]


def test_dry_run_settings_and_json(run: Run, tmp_path: Path) -> None:
    """Nothing is made in a dry run; what was made by another line is told; --from passes steps over."""
    dry = run("--dry-run", "--set", "epochs=7", "--json")
    assert dry.exit_code == 0, dry.output
    steps = json.loads(dry.stdout)["steps"]
    assert [step["status"] for step in steps] == ["to do"] * 6
    assert "--epochs 7" in steps[3]["command"]
    assert not (tmp_path / "s").exists()
    candidates = str(tmp_path / "my corpus" / "candidate.csv")
    assert run("--set", f"candidates={candidates}", "--json").exit_code == 0
    assert (tmp_path / "my corpus" / "out.csv").read_text().splitlines()[1][:3] == "s15"
    other = run("--set", "epochs=7")
    assert "Note: runs/first was made by another command: mer-zoo train mlp" in other.stderr
    later = json.loads(run("--from", "round1", "--json").stdout)["steps"]
    assert [step["status"] for step in later] == ["passed over"] * 4 + ["there"] * 2


def test_a_failed_step_stops_and_the_next_run_goes_on(run: Run, tmp_path: Path) -> None:
    """The error, the step's number and its line alone; what was done is kept and is not done again."""
    failed = run("--set", "threshold=1")
    assert failed.exit_code == 1
    assert (
        "Failed at step 5 of 6, Label. Alone: mer-zoo pseudo-label --run first --threshold 1 "
        in failed.stderr
    )
    assert failed.stderr.splitlines()[-1].startswith("Error: none of 4 clips is sure enough")
    assert "labels/round1" not in [f"labels/{name}" for name in Store.open(tmp_path / "s").labels]
    on = run()
    assert on.exit_code == 0, on.output
    assert "2 of 6 steps run, 4 there already" in on.stdout


def test_an_interrupted_step_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C within a step ends with 130, says where, and the same command finishes."""
    from mer_zoo import train

    def stop(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "train", stop)
        stopped = run()
    assert stopped.exit_code == 130
    assert "Stopped at step 4 of 6, Train." in stopped.stderr
    on = run()
    assert "3 of 6 steps run, 3 there already" in on.stdout


def test_a_killed_run_goes_on(run: Run, tmp_path: Path) -> None:
    """Kill -9 in the middle of a step: the steps before it are not done again, and the rest is."""
    words = ["run", "words.yaml", "--corpus", "my corpus", "--store", "s", "--set", "epochs=100000"]
    argv = [sys.executable, "-u", "-c", "from mer_cli.zoo import main; main()", *words]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        told = list(itertools.takewhile(lambda line: not line.startswith("[4/6]"), process.stdout or ()))
        process.kill()
    assert sum("done in" in line for line in told) == 3
    assert process.returncode == -signal.SIGKILL
    assert "runs/first" not in [f"runs/{name}" for name in Store.open(tmp_path / "s").runs]
    on = run()
    assert on.exit_code == 0, on.output
    assert "3 of 6 steps run, 3 there already" in on.stdout


def test_lines_are_checked_before_anything_runs(run: Run, tmp_path: Path) -> None:
    """A command or an option that does not exist is found before the first step, with the step named."""
    recipe = tmp_path / "words.yaml"
    for wrong, match in (("mer-zoo trian", "did you mean 'train'"), ("mer-zoo train --epoch 2 ", "--epoch")):
        recipe.write_text(RECIPE.replace("mer-zoo train", wrong))
        result = run()
        assert result.exit_code == 2
        assert "step 4, mer-zoo" in result.stderr
        assert match in result.stderr
        assert not (tmp_path / "s").exists()
        recipe.write_text(RECIPE)
    assert "no setting of words named 'epoch'; did you mean 'epochs'" in run("--set", "epoch=2").stderr
    assert "no step named 'nine'" in run("--from", "nine").stderr


def test_every_line_of_the_recipes_can_be_typed(tmp_path: Path) -> None:
    """Recipes that come along, and the one in the documents, are commands with such options."""
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    (tmp_path / "words.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    for path in (tmp_path / "words.yaml", *builtin_recipes().values()):
        recipe = load_recipe(path)
        given = {name: "x" for name, setting in recipe.settings.items() if setting.default is None}
        for step in make_steps(recipe, "my corpus", "my store", given):
            assert check_line(step.argv).params["store_url"] == "my store"


def test_recipes_are_listed_and_shown() -> None:
    """All that come along, and of one its settings and steps."""
    listed = CliRunner().invoke(zoo.main, ["recipes"])
    assert "agt-mer2024" in listed.output
    shown = CliRunner().invoke(zoo.main, ["recipes", "agt-mer2024"])
    assert "threshold" in shown.output
    assert "labels/final" in shown.output
    document = json.loads(CliRunner().invoke(zoo.main, ["recipes", "agt-mer2024", "--json"]).output)
    assert document["settings"]["threshold"]["default"] == "0.9"
