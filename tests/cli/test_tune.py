"""`mer-zoo tune`, end to end on a tiny encoder."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mer_cli.fs import main as fs
from mer_cli.zoo import main as zoo
from mer_featurestore import Clip, LabelLayer, Store
from mer_plugins.samples import voice, write_wav
from support.tiny import MAKERS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny HuBERT and a store of 12 labelled voices, one of them empty."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "base").mkdir()
    MAKERS["hubert-large"](folder / "base")
    store, label = Store.create(folder / "store"), {}
    for i in range(12):
        write_wav(folder / f"{i}.wav", voice(0.3, 110 + 110 * (i % 2)))
        label[f"k{i:02d}"] = ("sad", "happy")[i % 2]
    (folder / "11.wav").write_bytes(b"")
    store.clips.add(
        Clip(key=key, audio=str(folder / f"{i}.wav"), speaker=f"s{i // 3}", split="train")
        for i, key in enumerate(label)
    )
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), label))
    return folder


def run(place: Path, name: str, *more: str) -> Result:
    """Tune quickly."""
    said = ["tune", "hubert-large", "--model", str(place / "base"), "--as", name, "--layers", "4-5", *more]
    said += ["--store", str(place / "store"), "--work", str(place / name), "--device", "cpu"]
    return CliRunner().invoke(zoo, [*said, "--epochs", "1", "--lr", "0.01"])


def test_tune_prints_the_folds_and_what_to_type_next(place: Path) -> None:
    """A table with a line per fold, what was left out, and a command that works as printed."""
    done = run(place, "hubert-large-lora", "--folds", "4")
    assert done.exit_code == 0, done.output
    for told in ("fold-0", "fold-3", "all ", "held out, all folds", "1 clip left out", "k11: "):
        assert told in done.output
    line = next(line for line in done.output.splitlines() if line.startswith("next: "))
    assert line == f"next: mer-fs extract --plugin hubert-large-lora --model {place / 'base'}"
    shown = (
        CliRunner()
        .invoke(fs, ["adapters", "show", "hubert-large-lora", "--store", str(place / "store")])
        .stdout
    )
    assert all(told in shown for told in ("tuned with  hubert-large: ", "held out    UAR ", ", 11 clips"))
    words = [*line.split()[2:], "--store", str(place / "store"), "--device", "cpu"]
    extracted = CliRunner().invoke(fs, words)
    assert extracted.exit_code == 0, extracted.output
    assert "Note: " not in extracted.stderr
    assert len(Store.open(place / "store").features["hubert-large-lora-UTT"]) == 11
    other = CliRunner().invoke(fs, [*words, "--layers", "2", "--as", "other", "--dry-run"])
    assert "Note: adapter hubert-large-lora was tuned with layers [" in other.stderr
    assert "(here [2]); give the options" in other.stderr


def test_tune_as_json(place: Path) -> None:
    """`--json` has scores with intervals, parameters, layers and the next command for another name."""
    done = run(place, "mine", "--method", "bottleneck", "--bottleneck", "4", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["adapter"], found["layers"], [p["name"] for p in found["parts"]]) == (
        "mine",
        [4, 5],
        ["one"],
    )
    assert found["trainable"] == 2 * (4 * 32 + 4 + 32 * 4 + 32)
    assert found["parts"][0]["valid"]["intervals"]["uar"]
    assert set(found["left_out"]) == {"k11"}
    assert "--plugin hubert-large --adapter mine --as mine" in found["extract"]


def test_a_name_of_another_plugin(place: Path) -> None:
    """An adapter that happens to be called as a plugin of another base is still given to its own base."""
    for name in ("clip-vit-large-lora", "prosody"):
        done = run(place, name, "--json")
        assert done.exit_code == 0, done.output
        assert f"--plugin hubert-large --adapter {name} --as {name}" in json.loads(done.stdout)["extract"]


def test_a_taken_name_is_one_line(place: Path) -> None:
    """Errors are a line with a remedy, and exit code 1."""
    assert run(place, "twice").exit_code == 0
    done = run(place, "twice")
    assert done.exit_code == 1
    assert "there is an adapter 'twice' already" in done.output
    assert "choose another --as" in done.output
