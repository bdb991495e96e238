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
    assert "labels/gold, 1 clips" in mer_fs(store, "adapters", "show", "hubert-large-lora").stdout

    done = mer_fs(store, *plugin)
    assert "1 clips into hubert-large-lora-UTT" in done.stdout, done.output
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
