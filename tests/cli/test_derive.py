"""`mer-fs derive` and `mer-zoo align`."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli import fs, zoo
from mer_cli.commands.align import extraction
from mer_cli.lines import check_line
from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_plugins.contract import Options
from mer_plugins.samples import sample_clips
from support.tiny import clip as tiny_clip

N = 120


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store whose `clip-vit-large-UTT` and `hubert-large-lora-UTT` show the same hidden numbers."""
    random = np.random.default_rng(0)
    store = Store.create(tmp_path / "store")
    split = ["train" if i % 4 == 0 else "unlabeled" for i in range(N)]
    store.clips.add(
        Clip(key=f"c{i:03d}", split=s, speaker=f"{s}{i % 7}", video="v", audio="a")
        for i, s in enumerate(split)
    )
    hidden = random.normal(size=(N, 4))
    facts: tuple[tuple[str, Any, tuple[int, ...]], ...] = (
        ("clip-vit-large-UTT", "video", (9,)),
        ("hubert-large-lora-UTT", "audio", (7,)),
        ("deep-UTT", "audio", (3, 5)),
    )
    for name, modality, shape in facts:
        rows = (hidden @ random.normal(size=(4, int(np.prod(shape))))).reshape(N, *shape)
        spec = SpaceSpec(name=name, modality=modality, level="utt", row_shape=shape, made_by={"plugin": name})
        with store.features.writer(spec) as writer:
            for i, row in enumerate(rows):
                writer.add(f"c{i:03d}", row)
    spec = SpaceSpec(name="x-FRA", modality="audio", level="frame", row_shape=(2,), made_by={"plugin": "x"})
    with store.features.writer(spec) as writer:
        writer.add("c000", np.array([[0.0, 1], [2, 3]]))
    store.labels.add(
        LabelLayer.human("gold", ("a", "b"), {f"c{i:03d}": "ab"[i // 4 % 2] for i in range(0, N, 4)})
    )
    return store


def run(store: Store, program: str, *words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(
        {"mer-fs": fs.main, "mer-zoo": zoo.main}[program], [*words, "--store", store.url]
    )


def test_derive_and_again(store: Store) -> None:
    """The first run says what it did, the second that nothing is to do; what was fitted is an adapter."""
    words = ("derive", "clip-vit-large-UTT", "--pca", "3", "--whiten", "--as", "small")
    first = run(store, "mer-fs", *words)
    assert first.exit_code == 0, first.output
    assert f"{N} clips into small-UTT: rows of 3, from clip-vit-large-UTT." in first.stdout
    assert "by adapter small" in first.stdout
    again = run(store, "mer-fs", *words)
    assert again.stdout.startswith(f"Nothing to do: {N} clips of clip-vit-large-UTT in small-UTT already.")
    assert json.loads(run(store, "mer-fs", *words, "--json").stdout)["there"] == N
    assert "adapters/small" in run(store, "mer-fs", "lineage", "features/small-UTT").stdout
    shown = run(store, "mer-fs", "adapters", "show", "small").stdout
    assert f"to {N} clips of train and unlabeled in features/clip-vit-large-UTT, " in shown
    assert "of the variance kept" in shown
    assert "not known" not in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "words", "row"),
    [
        ("deep-UTT", ("--layers", "0-1"), [5]),
        ("deep-UTT", ("--layers", "weighted:1,0,2"), [5]),
        ("x-FRA", ("--pool", "mean-std"), [4]),
        ("clip-vit-large-UTT", ("--standardize", "--fit-on", "train"), [9]),
    ],
)
def test_every_way_to_derive(store: Store, source: str, words: tuple[str, ...], row: list[int]) -> None:
    """Layers, pooling and standardisation work as typed, and say so in JSON."""
    found = json.loads(run(store, "mer-fs", "derive", source, *words, "--as", "new", "--json").stdout)
    assert (found["space"], found["row_shape"]) == ("new-UTT", row)
    assert found["added"] == len(store.features[source])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say one of --adapter, --pca"),
        (("--pool", "mean", "--pca", "2"), "say one of"),
        (("--pool", "mean", "--whiten"), "--whiten goes with --pca"),
        (("--pool", "mean", "--fit-on", "train"), "--fit-on goes with"),
        (("--adapter", "nobody"), "no adapter named 'nobody'"),
        (("--pca", "3", "--fit-on", "tset"), "no split named 'tset'"),
    ],
)
def test_what_derive_refuses(store: Store, words: tuple[str, ...], told: str) -> None:
    """Options that contradict each other and names that do not exist are told in one line."""
    found = run(store, "mer-fs", "derive", "clip-vit-large-UTT", *words, "--as", "new")
    assert found.exit_code != 0
    assert told in found.stderr


def test_align_as_the_issue_types_it(store: Store) -> None:
    """A plugin's name means its space; retrieval, gains and the probe are shown; derive writes the space."""
    words = (
        "align", "clip-vit-large", "--to", "hubert-large-lora-UTT", "--split", "unlabeled",
        "--as", "clip-aligned", "--epochs", "30", "--lr", "0.01", "--labels", "gold",
    )  # fmt: skip
    found = run(store, "mer-zoo", *words)
    assert found.exit_code == 0, found.output
    assert "clip-vit-large-UTT to hubert-large-lora-UTT" in found.stdout
    for told in (
        "R@10",
        "chance",
        "above random",
        "probe of",
        "adapter clip-aligned, on record as alignment-1",
        "derived as clip-aligned-UTT",
    ):
        assert told in found.stdout
    derived = run(
        store, "mer-fs", "derive", "clip-vit-large-UTT", "--adapter", "clip-aligned", "--as", "clip-aligned"
    )
    assert derived.stdout.startswith(f"Nothing to do: {N} clips")  # --labels derived it
    shown = run(store, "mer-fs", "adapters", "show", "clip-aligned")
    assert shown.exit_code == 0, shown.output
    assert "clip-aligned" in run(store, "mer-fs", "adapters").stdout
    again = run(store, "mer-zoo", *words)
    assert again.exit_code == 1
    assert "choose another --as" in again.stderr


def test_what_extracts_with_an_adapted_encoder_can_be_typed() -> None:
    """`align --encoder` ends with a command that parses, with the options of the plugin that were typed."""
    said = Options(model="/models/a clip", layers="last4", extra={"face": "none"})
    line = extraction("hf-image", "aligned", said)
    options = check_line(shlex.split(line)).params
    assert (options["plugin"], options["model"], options["layers"]) == ("hf-image", "/models/a clip", "last4")
    assert (options["adapter"], options["name"]) == ("aligned", "aligned")
    assert ("face", "none") in dict(options["extra"]).items()
    assert extraction("hf-image", "a", Options()) == "mer-fs extract --plugin hf-image --adapter a --as a"


def test_align_in_json(store: Store) -> None:
    """`--json` has the metrics as they are on record."""
    words = (
        "clip-vit-large-UTT",
        "--to",
        "hubert-large-lora",
        "--as",
        "a",
        "--loss",
        "cosine",
        "--epochs",
        "2",
    )
    found = json.loads(run(store, "mer-zoo", "align", *words, "--held-out", "train", "--json").stdout)
    store.refresh()
    recorded = store.runs[found["record"]].json("metrics.json")
    assert found["retrieval"] == recorded["retrieval"]
    assert found["settings"]["loss"] == "cosine"
    assert found["held_out"] == "train"


def test_options_of_the_encoder_go_with_it(store: Store) -> None:
    """What is said of an encoder is refused where none is adapted, and a plugin without one is told."""
    words = ("align", "clip-vit-large", "--to", "hubert-large-lora-UTT", "--as", "a")
    found = run(store, "mer-zoo", *words, "--rank", "4", "--option", "fps=2")
    assert found.exit_code == 2
    assert "--rank, --option goes with --encoder" in found.stderr
    found = run(store, "mer-zoo", "align", "face-pixels", *words[2:], "--encoder")
    assert found.exit_code == 1
    assert "face-pixels is no base encoder that can be adapted" in found.stderr


def test_an_encoder_is_aligned_as_typed(tmp_path: Path) -> None:
    """`--encoder` with a checkpoint on disk adapts it from media, and extract --adapter writes the space."""
    tiny_clip(tmp_path / "clip")
    films = [clip.video for clip in sample_clips(tmp_path, "video")]
    store = Store.create(tmp_path / "store")
    store.clips.add(
        Clip(key=f"c{i:02d}", split="unlabeled", speaker=str(i % 5), video=films[i % len(films)])
        for i in range(20)
    )
    spec = SpaceSpec(name="v-UTT", modality="audio", level="utt", row_shape=(3,), made_by={"plugin": "v"})
    with store.features.writer(spec) as writer:
        for i in range(20):
            writer.add(f"c{i:02d}", np.random.default_rng(i).normal(size=3))
    own = ("--model", str(tmp_path / "clip"), "--option", "face=none", "--device", "cpu")
    found = run(
        store, "mer-zoo", "align", "hf-image", "--to", "v", "--as", "seen", "--encoder", "--layers", "4",
        "--encoder-epochs", "1", "--epochs", "2", "--work", str(tmp_path / "work"), *own,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "above head alone" in found.stdout
    extracted = run(
        store, "mer-fs", "extract", "--plugin", "hf-image", "--adapter", "seen", "--as", "seen", *own
    )
    assert extracted.exit_code == 0, extracted.output
    store.refresh()
    assert store.features["seen-UTT"].spec.row_shape == (3,)
