"""The commands of mer-zoo, end to end on a small store."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli.zoo import main
from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store

CLASSES = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store of 36 clips, audio and text features, with a run `a` and its evaluation."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    store, rng = Store.create(folder), np.random.default_rng(0)
    splits = ["train"] * 18 + ["unlabeled"] * 9 + ["test"] * 9
    store.clips.add(
        Clip(key=f"{split}{i}", split=split, speaker=f"s{i % 6}", audio="a", text="t")
        for i, split in enumerate(splits)
    )
    for modality, name in (("audio", "sound-UTT"), ("text", "words-UTT")):
        spec = SpaceSpec(name=name, modality=modality, level="utt", row_shape=(4,))
        means = rng.normal(0, 3, (3, 4))
        with store.features.writer(spec) as writer:
            for i, split in enumerate(splits):
                writer.add(f"{split}{i}", means[i % 3] + rng.normal(0, 1, 4))
    known = {f"{split}{i}": CLASSES[i % 3] for i, split in enumerate(splits) if split != "unlabeled"}
    store.labels.add(LabelLayer.human("gold", CLASSES, known))
    assert run(str(folder), "train", "mlp", "--as", "a", *QUICK).exit_code == 0
    assert run(str(folder), "evaluate", "a").exit_code == 0
    return str(folder)


QUICK = ("--folds", "3", "--epochs", "20", "--lr", "0.01", "--param", "hidden=16")


def run(url: str, *arguments: str) -> Result:
    """Run `mer-zoo` in this process."""
    return CliRunner().invoke(main, [arguments[0], *arguments[1:], "--store", url])


def as_json(url: str, *arguments: str) -> Any:
    """Return the document a command prints with --json."""
    done = run(url, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_train_prints_the_scores(url: str) -> None:
    """Training names the run, the folds, WAF and the spread over folds."""
    done = run(url, "train", "attention", *QUICK)
    assert done.exit_code == 0, done.output
    for text in ("run 'attention-1'", "18 labelled + 0 pseudo-labelled", "3 folds", "WAF", "mean over folds"):
        assert text in done.output
    assert next(iter(Store.open(url).log(1))).message.startswith("train attention on gold")


def test_train_takes_every_option(url: str) -> None:
    """All options together reach the run's configuration."""
    document = as_json(
        url, "train", "mlp", "--features", "sound-UTT", "--labels", "gold", "--as", "all-options", "--folds",
        "2", "--seed", "7", "--epochs", "2", "--patience", "1", "--batch-size", "4", "--lr", "0.002",
        "--weight-decay", "0", "--class-weights", "--label-smoothing", "0.1", "--param", "layers=2",
        "--max-frames", "5", "--split", "train", "--group-by", "none", "--no-standardise", "--soft-labels",
        "--confidence-weights", "--device", "cpu", "--precision", "bfloat16",
    )  # fmt: skip
    assert (document["run"], document["folds"], document["human"]) == ("all-options", 2, 18)
    config = as_json(url, "show", "all-options")["config"]
    assert config["settings"] == {
        "epochs": 2, "batch_size": 4, "lr": 0.002, "weight_decay": 0.0, "patience": 1,
        "class_weights": True, "label_smoothing": 0.1, "precision": "bfloat16",
    }  # fmt: skip
    assert config["params"] == {"hidden": 128, "layers": 2, "dropout": 0.3}
    assert (config["seed"], config["grouped_by"], config["standardise"]) == (7, "none", False)
    assert (config["soft_labels"], config["confidence_weights"]) == (True, True)
    assert config["inputs"]["max_frames"] == 5


def test_runs_and_show(url: str) -> None:
    """Runs are listed with scores and evaluations; show prints configuration, classes and folds."""
    listed = {r["name"]: r for r in as_json(url, "runs")}
    assert listed["a"]["evaluations"][0]["split"] == "test"
    assert "a.test-1" not in listed
    shown = run(url, "show", "a").output
    for text in ("mlp hidden=16", "sound-UTT", "gold: 18 of train", "angry", "fold-2", "evaluated on test"):
        assert text in shown
    assert "test" in run(url, "runs").output


def test_predict(url: str, tmp_path: Path) -> None:
    """Predictions are printed, or written as CSV."""
    found = as_json(url, "predict", "a", "--split", "unlabeled")
    assert len(found["predictions"]) == 9
    done = run(url, "predict", "a", "--split", "test", "--to", str(tmp_path / "p.csv"))
    assert "9 predictions written" in done.output
    assert (tmp_path / "p.csv").read_text().startswith("key,label,confidence,p_angry,p_happy,p_sad,origin\n")
    assert "out-of-fold" in json.dumps(as_json(url, "predict", "a", "--split", "train"))
    assert "and 16 more" in run(url, "predict", "a").output


def test_evaluate(url: str) -> None:
    """Evaluation prints scores and the confusion, and goes on record."""
    done = run(url, "evaluate", "a", "--split", "test", "--labels", "gold")
    assert "a on test (gold): WAF" in done.output
    assert "on record as a.test-" in done.output
    assert as_json(url, "evaluate", "a")["waf"] > 0.6


def test_a_round_from_the_command_line(url: str) -> None:
    """Two members vote, the layer is published, and training takes it as typed."""
    assert run(url, "train", "mlp", "--features", "words-UTT", "--as", "b", *QUICK).exit_code == 0
    done = run(url, "pseudo-label", "--run", "a", "--run", "b", "--threshold", "0.4", "--as", "round1")
    assert done.exit_code == 0, done.output
    assert "layer 'round1' over 'gold': kept" in done.output
    result = as_json(url, "train", "mlp", "--labels", "round1", *QUICK)
    assert (result["human"], result["pseudo"]) == (18, len(Store.open(url).labels.resolve("round1")) - 27)


def test_models_are_listed(url: str) -> None:
    """Each model shows its paper and parameters."""
    output = CliRunner().invoke(main, ["models"]).output
    assert "agt: " in output
    assert "2409.05007" in output
    assert "guide=audio" in output
    cards = json.loads(CliRunner().invoke(main, ["models", "--json"]).output)
    assert {"agt", "attention", "mlp"} <= {card["name"] for card in cards}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "agtt"), "no model named 'agtt'; did you mean 'agt'"),
        (("train", "mlp", "--labels", "golt"), "no label layer named 'golt'; did you mean 'gold'?"),
        (("train", "mlp", "--features", "sound"), "no feature space named 'sound'; did you mean 'sound-UTT'"),
        (("train", "mlp", "--param", "hiden=3"), "no parameter of mlp named 'hiden'; did you mean 'hidden'?"),
        (("train", "mlp", "--folds", "1"), "cannot cross-validate with 1 folds; use --folds 2 or more"),
        (("train", "mlp", "--epochs", "0"), "epochs is 0; use 1 or more"),
        (("train", "mlp", "--split", "test"), "test clips never train; choose another --split"),
        (("train", "mlp", "--split", "unlabeled"), "no clip of split 'unlabeled' has a human label in"),
        (("show", "aa"), "no run named 'aa'; did you mean 'a'?"),
        (("predict", "a", "--split", "tst"), "no split named 'tst'; did you mean 'test'?"),
        (("evaluate", "a", "--labels", "glod"), "no label layer named 'glod'; did you mean 'gold'?"),
        (("pseudo-label", "--run", "c", "--as", "x"), "no run named 'c'"),
        (("pseudo-label", "--run", "a", "--as", "gold"), "there is a label layer 'gold' already"),
        (("pseudo-label", "--run", "a", "--as", "x", "--threshold", "1"), "none of 9 clips is sure enough"),
        (("pseudo-label", "--run", "a", "--as", "x", "--vote", "sofft"), "did you mean 'soft'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(url: str, arguments: tuple[str, ...], message: str) -> None:
    """Every mistake exits with 1 and one line on stderr that says what to do."""
    done = run(url, *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_param_must_be_a_pair(url: str) -> None:
    """`--param hidden` is a usage error with an example."""
    done = run(url, "train", "mlp", "--param", "hidden")
    assert done.exit_code == 2
    assert "NAME=VALUE, e.g. hidden=64" in done.stderr


@pytest.mark.parametrize("arguments", [("models",), ("runs",), ("show", "a")])
def test_listing_imports_no_torch(url: str, arguments: tuple[str, ...]) -> None:
    """Listing models and runs, and showing one, leaves torch and scikit-learn alone."""
    command = [*arguments, *(("--store", url) if arguments != ("models",) else ())]
    code = (
        "import sys\nfrom mer_cli.zoo import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as done:\n    assert not done.code\n"
        "print([m for m in ('torch', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
