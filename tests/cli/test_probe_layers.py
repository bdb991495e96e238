"""`mer-zoo probe-layers`, as typed, with a tiny Whisper on the synthetic corpus."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli import fs, zoo
from mer_featurestore import Store
from mer_plugins.synthetic import write_corpus
from mer_zoo.experiments import keep, measure
from support import checkpoints

QUICK = ("--folds", "2", "--seeds", "2", "--epochs", "3", "--device", "cpu")
SHORT = ("--option", "context=5")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store with the catalogue of a small synthetic corpus."""
    folder = tmp_path_factory.mktemp("probe")
    write_corpus(folder / "corpus", train=12, unlabeled=1, test=1, broken=0)
    store = str(Store.create(folder / "store").url)
    done = CliRunner().invoke(fs.main, ["ingest", str(folder / "corpus" / "clips.csv"), "--store", store])
    assert done.exit_code == 0, done.output
    return store


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a Whisper of two blocks."""
    return str(
        checkpoints.whisper(tmp_path_factory.mktemp("models") / "tiny whisper", max_source_positions=400)
    )


def mer_zoo(url: str, *words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(zoo.main, [*words, "--store", url])


def test_as_typed(url: str, model: str, tmp_path: Path) -> None:
    """It extracts all layers of labelled clips, prints a line a layer and the mix, and says what to type."""
    figure = tmp_path / "curve.png"
    words = (
        "probe-layers", "whisper", "--labels", "gold", "--model", model, *SHORT, "--figure", str(figure)
    )  # fmt: skip
    done = mer_zoo(url, *words, *QUICK)
    assert done.exit_code == 0, done.output
    for line in ("layer 0", "layer 1", "layer 2", "mix", "best by UAR: layer", "on record as probe-1"):
        assert line in done.stdout
    how = f"--model '{model}' --option context=5"
    assert f"mer-zoo tune whisper {how} --layers best --as whisper-lora" in done.stdout
    assert f"mer-zoo tune whisper {how} --layers best" in mer_zoo(url, "show", "probe-1").stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
    store = Store.open(url)
    assert len(store.features["whisper-layers-UTT"]) == 12

    typed = next(line for line in done.stdout.splitlines() if "mer-fs extract" in line)
    weights = typed.split("--layers ")[1].split()[0]
    extract = ["extract", "--plugin", "whisper", "--model", model, "--layers", weights, "--as", "whisper-mix"]
    mixed = CliRunner().invoke(fs.main, [*extract, "--split", "train", "--store", url])
    assert mixed.exit_code == 0, mixed.output
    store.refresh()
    assert store.features["whisper-mix-UTT"].spec.row_shape == (8,)


def test_json(url: str, model: str) -> None:
    """With --json it prints lines, band and record for machines; the space that is there is taken."""
    mer_zoo(url, "probe-layers", "whisper", "--model", model, *SHORT, *QUICK)
    words = ("--space", "whisper-layers-UTT", "--layers", "1-2", "--band", "1", "--no-mix", "--hidden", "4")
    done = mer_zoo(url, "probe-layers", "whisper", *words, *QUICK, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [line["name"] for line in told["lines"]] == ["layer 1", "layer 2"]
    assert told["band"] in ([1, 1], [2, 2])
    assert (told["space"], told["weighted"]) == ("whisper-layers-UTT", "")
    document = Store.open(url).runs[told["record"]].json("lines.json")
    assert (document["hidden"], document["band"]) == (4, told["band"])


def test_shown_again(url: str, model: str) -> None:
    """`mer-zoo show` prints a probe on record as it was told, and any other experiment's table."""
    told = mer_zoo(url, "probe-layers", "whisper", "--model", model, *SHORT, *QUICK).stdout.splitlines()
    record = next(line for line in told if "on record as" in line).split()[-1]
    shown = mer_zoo(url, "show", record).stdout.splitlines()
    assert [line for line in told if line.startswith(("layer", "mix", "best"))] == [
        line for line in shown if line.startswith(("layer", "mix", "best"))
    ]
    assert json.loads(mer_zoo(url, "show", record, "--json").stdout)["plugin"] == "whisper"

    decided = {"one": np.array([[0, 1, 0]]), "other": np.array([[0, 1, 1]])}
    lines = measure(np.array([0, 1, 1]), decided, 2, {"other": {"threshold": 0.9}})
    keep(Store.open(url), "trial", "three clips", lines, parents=(), facts={})
    shown_trial = mer_zoo(url, "show", "trial-1").stdout
    for text in ("judged on three clips", "threshold", "other", "on record as trial-1"):
        assert text in shown_trial


def test_errors_say_what_to_do(url: str) -> None:
    """An extractor without layers, layers that are not there and a split of test are refused in a line."""
    assert "has no layers to choose from" in mer_zoo(url, "probe-layers", "prosody").stderr
    unknown = mer_zoo(url, "probe-layers", "whisper", "--space", "whisper-layers")
    assert "whisper-layers" in unknown.stderr
    assert unknown.exit_code == 1
    assert "test clips never train" in mer_zoo(url, "probe-layers", "whisper", "--split", "test").stderr
