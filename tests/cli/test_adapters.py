"""`mer-fs adapters` and `mer-fs extract --adapter`."""

import json
from pathlib import Path

import peft
import pytest
import transformers
from click.testing import CliRunner, Result

from mer_cli.fs import main
from mer_featurestore import Clip, LabelLayer, Store
from mer_plugins.samples import voice, write_wav
from support import adapting
from support.tiny import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of one labelled voice."""
    store = Store.create(tmp_path / "store")
    store.clips.add([Clip(key="k", audio=str(write_wav(tmp_path / "k.wav", voice(0.4))))])
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), {"k": "sad"}))
    return store


def mer_fs(store: Store, *words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [*words, "--store", store.url])


def test_from_peft_to_features(store: Store, tmp_path: Path) -> None:
    """The docs as typed: add, list, show, extract, export; without an adapter, how to make one."""
    model = tmp_path / "hubert-large-ll60k"
    model.mkdir()
    MAKERS["hubert-large"](model)
    plugin = ("extract", "--plugin", "hubert-large-lora", "--model", str(model))
    refused = mer_fs(store, *plugin)
    assert refused.exit_code == 1
    assert "mer-fs adapters add FOLDER --as hubert-large-lora" in refused.stderr
    assert "no adapters yet" in mer_fs(store, "adapters").stdout

    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    net = transformers.HubertForSequenceClassification.from_pretrained(model)
    peft.get_peft_model(net, config).save_pretrained(tmp_path / "lora")
    add = ("adapters", "add", str(tmp_path / "lora"), "--as", "hubert-large-lora", "--labels", "gold")
    assert "adapters/hubert-large-lora: LORA for hubert-large-ll60k" in mer_fs(store, *add).stdout
    listed = mer_fs(store, "adapters").stdout
    assert all(word in listed for word in ("hubert-large-lora", "LORA", "0-4", "q_proj", "gold"))
    assert json.loads(mer_fs(store, "adapters", "list", "--json").stdout)[0]["rank"] == 4
    assert "labels/gold, 1 clip" in mer_fs(store, "adapters", "show", "hubert-large-lora").stdout

    done = mer_fs(store, *plugin)
    assert "1 clip into hubert-large-lora-UTT" in done.stdout, done.output
    lineage = mer_fs(store, "lineage", "hubert-large-lora-UTT").stdout
    assert "adapters/hubert-large-lora" in lineage
    assert "labels/gold" in lineage
    by_path = mer_fs(store, *plugin, "--adapter", str(tmp_path / "lora"), "--dry-run", "--json")
    assert json.loads(by_path.stdout)["done"] == 1
    mer_fs(store, "adapters", "export", "hubert-large-lora", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_options_before_the_command(store: Store) -> None:
    """`--store` before the subcommand, where it would be ignored, is refused with the right order."""
    result = CliRunner().invoke(main, ["adapters", "--store", store.url, "show", "x"])
    assert "put --store and --at behind the command" in result.stderr


def test_folds_as_typed(store: Store, tmp_path: Path) -> None:
    """An adapter with folds and a projection: added, listed, shown, extracted with `--others`, exported."""
    (tmp_path / "model").mkdir()
    MAKERS["hubert-large"](tmp_path / "model")
    wave = str(tmp_path / "k.wav")
    store.clips.add([Clip(key="l", audio=wave), Clip(key="m", audio=wave)])
    folds = {"k": 0, "l": 1}
    folder = adapting.marked_folds(tmp_path / "a", tmp_path / "model", folds, ["k", "l"], everything=True)
    adapting.projection(folder, 32, 5)
    added = mer_fs(store, "adapters", "add", str(folder), "--as", "out-of-fold")
    assert "adapters/out-of-fold: BOTTLENECK for model" in added.stdout, added.output
    listed = json.loads(mer_fs(store, "adapters", "list", "--json").stdout)
    assert (listed[0]["folds"], listed[0]["projection"], listed[0]["labels"]) == (2, [32, 5], "gold")
    shown = mer_fs(store, "adapters", "show", "out-of-fold").stdout
    assert all(
        line in shown
        for line in (
            "BOTTLENECK, size 4", "what comes out in blocks 2\n", "rows of 32 to 5",
            "2, and weights trained on all data",
            "labels/gold, 2 clips, 2 of them in folds that have not seen theirs",
        )
    )  # fmt: skip
    plain = ("extract", "--plugin", "hf-audio", "--model", str(tmp_path / "model"))
    plugin = (*plain, "--adapter", "out-of-fold")
    assert "3 clips into hf-audio-UTT" in mer_fs(store, *plugin).stdout
    assert "other" in mer_fs(store, *plugin, "--others", "mean").stderr
    mean = mer_fs(store, *plugin, "--others", "mean", "--as", "mean")
    assert "3 clips into mean-UTT" in mean.stdout, mean.output
    rows = {space: store_of(store).features[space]["m"] for space in ("hf-audio-UTT", "mean-UTT")}
    assert rows["mean-UTT"].shape == (1, 5)
    assert (rows["mean-UTT"] != rows["hf-audio-UTT"]).all()
    assert "leave --others out" in mer_fs(store, *plain, "--others", "mean").stderr
    mer_fs(store, "adapters", "export", "out-of-fold", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "fold-1" / "adapter_model.safetensors").is_file()
    again = mer_fs(store, "adapters", "add", str(tmp_path / "out"), "--as", "again", "--json")
    assert json.loads(again.stdout)["training"]["folds"] == folds


def store_of(store: Store) -> Store:
    """Return the store as it is now."""
    return Store.open(store.url)


def test_conformance_with_an_adapter(store: Store, tmp_path: Path) -> None:
    """`mer-fs plugin check` runs the kit on an encoder with an adapter, by folder or by name."""
    (tmp_path / "model").mkdir()
    MAKERS["hubert-large"](tmp_path / "model")
    folder = adapting.marked_folds(tmp_path / "a", tmp_path / "model", {"k": 0, "l": 1}, ["k", "l"])
    adapting.projection(folder, 32, 5)
    mer_fs(store, "adapters", "add", str(folder), "--as", "x")
    check = ("plugin", "check", "hf-audio", "--model", str(tmp_path / "model"), "--device", "cpu", "--json")
    for which in (str(folder), "x"):
        done = mer_fs(store, *check, "--adapter", which)
        assert done.exit_code == 0, done.output
        assert {one["outcome"] for one in json.loads(done.stdout)} == {"passed"}
    missing = mer_fs(store, *check, "--adapter", "y")
    assert missing.exit_code == 1
    assert "no adapter named 'y'" in missing.output
