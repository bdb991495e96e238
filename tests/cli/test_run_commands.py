"""The commands of mer-zoo that compare, search, repeat, remove, export and submit runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli.zoo import main
from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store

CLASSES = ("angry", "happy", "sad")
QUICK = ("--folds", "2", "--epochs", "2")
SMALL = ("--param", "hidden=4", "--lr", "0.01")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store of 30 clips with two features and runs `a` and `b` on one each; test29 lacks both."""
    folder = tmp_path_factory.mktemp("runs") / "store"
    store, rng = Store.create(folder), np.random.default_rng(0)
    splits = ["train"] * 18 + ["test"] * 12
    keys = [f"{split}{i}" for i, split in enumerate(splits)]
    store.clips.add(
        Clip(key=key, split=split, speaker=f"s{i % 6}", audio="a", text="t")
        for i, (key, split) in enumerate(zip(keys, splits, strict=True))
    )
    for modality, name in (("audio", "sound-UTT"), ("text", "words-UTT")):
        spec = SpaceSpec(name=name, modality=modality, level="utt", row_shape=(4,))
        means = rng.normal(0, 3, (3, 4))
        with store.features.writer(spec) as writer:
            for i, key in enumerate(keys[:-1]):
                writer.add(key, means[i % 3] + rng.normal(0, 1, 4))
    store.labels.add(LabelLayer.human("gold", CLASSES, {key: CLASSES[i % 3] for i, key in enumerate(keys)}))
    for name, space in (("a", "sound-UTT"), ("b", "words-UTT")):
        done = run(str(folder), "train", "mlp", "--as", name, "--features", space, *QUICK, *SMALL)
        assert done.exit_code == 0, done.output
    return str(folder)


def run(url: str, *arguments: str) -> Result:
    """Run `mer-zoo` in this process."""
    return CliRunner().invoke(main, [arguments[0], *arguments[1:], "--store", url])


def as_json(url: str, *arguments: str) -> Any:
    """Return the document a command prints with --json."""
    done = run(url, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_compare(url: str) -> None:
    """Out of fold by default; a split goes on record."""
    done = run(url, "compare", "a", "b")
    assert done.exit_code == 0, done.output
    assert "18 clips out of fold, labels gold; 0 not predicted by both" in done.output
    assert "McNemar p = " in done.output
    assert "on record" not in done.output
    document = as_json(url, "compare", "a", "b", "--split", "test", "--labels", "gold")
    assert (document["n"], document["left_out"], document["record"]) == (11, 1, "comparison-1")
    assert set(document["scores"]) == {"waf", "uar", "accuracy", "macro_f1"}


def test_scores_are_shown_with_intervals(url: str) -> None:
    """`evaluate` and `show` print the 95 % interval beside each score; JSON has them too."""
    assert "[95 % intervals]" in run(url, "evaluate", "a").output
    assert "[95 % intervals]" in run(url, "show", "a").output
    low, high = as_json(url, "evaluate", "a")["intervals"]["waf"]
    assert low <= as_json(url, "evaluate", "a")["waf"] <= high
    assert set(as_json(url, "show", "a")["metrics"]["oof"]["intervals"]) == {
        "waf",
        "uar",
        "accuracy",
        "macro_f1",
    }


def test_search(url: str) -> None:
    """The table of distinct settings, the refitted run, and `show` of the record."""
    pytest.importorskip("optuna", reason="needs the extra `search`")
    arguments = (
        "search", "mlp", "--features", "sound-UTT", "--trials", "6", *QUICK, "--as", "best", "--prune",
        "--draw", "hidden=4,8", "--draw", "layers=1", "--fix", "lr=0.01", "--fix", "dropout=0.3",
        "--precision", "bfloat16",
    )  # fmt: skip
    done = run(url, *arguments)
    assert done.exit_code == 0, done.output
    assert "6 trials, 2 distinct of 2; mean ± standard deviation over 2 folds and seeds" in done.output
    assert "on record as best.search-1" in done.output
    assert "run 'best', the best setting" in done.output
    assert "6 trials, 2 distinct of 2" in run(url, "show", "best.search-1").output
    assert as_json(url, "show", "best.search-1")["run"] == "best"
    assert as_json(url, "show", "best")["config"]["settings"]["precision"] == "bfloat16"
    assert "best" in [found["name"] for found in as_json(url, "runs")]


def test_rerun_and_rm(url: str) -> None:
    """A run is repeated to the bit, and removed; what others stand on is not removed by accident."""
    done = run(url, "rerun", "a", "--as", "again")
    assert done.exit_code == 0, done.output
    assert "predictions are those of a, to the bit" in done.output
    assert as_json(url, "rerun", "again", "--as", "more")["identical"] is True
    assert "would remove runs/again" in run(url, "rm", "again", "--dry-run").output
    assert "removed runs/again" in run(url, "rm", "again").output
    assert as_json(url, "rm", "more")["ref"] == "runs/more"
    assert run(url, "show", "again").stderr.startswith("Error: no run named 'again'")


def test_tensorboard_and_strict_are_options_of_train(url: str, tmp_path: Path) -> None:
    """Event files are written where told."""
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    arguments = ("train", "mlp", "--features", "sound-UTT", *QUICK, *SMALL, "--strict", "--as", "logged")
    done = run(url, *arguments, "--tensorboard", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "logged").iterdir()} == {"fold-0", "fold-1"}


def test_export(url: str, tmp_path: Path) -> None:
    """A folder with weights, configuration and model card."""
    done = run(url, "export", "a", "--to", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "README.md" in done.output
    assert len(as_json(url, "export", "a", "--to", str(tmp_path / "more"))) == 4
    assert run(url, "export", "a", "--to", str(tmp_path / "out")).stderr.startswith(
        "Error: there is something at"
    )


def test_submit(url: str, tmp_path: Path) -> None:
    """A row per clip of the split; the clip without features is named with its fallback."""
    done = run(url, "submit", "a", "--split", "test", "--to", str(tmp_path / "s.csv"))
    assert done.exit_code == 0, done.output
    assert "1 clip without any of the run's features written as 'angry': test29" in done.stderr
    assert "wrote 12 rows" in done.output
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == "name,emotion"
    told = ("--format", "mer2024", "--columns", "clip,label", "--fallback", "sad")
    assert as_json(url, "submit", "a", "--to", str(tmp_path / "s.csv"), *told)["counts"]["sad"] >= 1
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == "clip,label"
    assert run(url, "submit", "a", "--to", str(tmp_path / "s.csv"), "--columns", "a").exit_code == 2
