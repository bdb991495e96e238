"""Both papers' recipes, from the challenge's folder to the submission, with tiny checkpoints."""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mer_cli import zoo
from mer_featurestore import Store
from mer_plugins.synthetic import EMOTIONS, write_corpus
from support.tiny import MAKERS

TRAIN, UNLABELED = 18, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a generated corpus in the challenge's layout and three checkpoints.

    The labels are dealt in turn, so that three folds have every class: what is learnt does not matter here.
    """
    root = tmp_path_factory.mktemp("mer2024")
    catalogue = write_corpus(root / "made", train=TRAIN, unlabeled=UNLABELED, test=0, broken=0)
    with catalogue.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    corpus = root / "corpus"
    for kind, split in (("video-labeled", "train"), ("video-unlabeled", "unlabeled")):
        (corpus / kind).mkdir(parents=True)
        for row in rows:
            if row["split"] == split:
                (catalogue.parent / row["video"]).rename(corpus / kind / f"{row['key']}.mp4")
    labelled = [row["key"] for row in rows if row["split"] == "train"]
    dealt = zip(labelled, itertools.cycle(EMOTIONS))
    lines = ["name,discrete,valence", *(f"{key},{emotion},0" for key, emotion in dealt)]
    (corpus / "label-disdim.csv").write_text("\n".join(lines), encoding="utf-8")
    with (corpus / "transcription-merge.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("name", "chinese"), *((row["key"], row["text"]) for row in rows)])
    for name in ("hubert-large", "clip-vit-large", "baichuan-13b"):
        (root / name).mkdir()
        MAKERS[name](root / name)
    return root


Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a recipe, one epoch of everything, into a store of its name."""
    monkeypatch.setenv("COLUMNS", "200")
    settings = {
        "hubert": folder / "hubert-large", "clip": folder / "clip-vit-large",
        "baichuan": folder / "baichuan-13b", "folds": 3, "faces": "--option fps=1", "words": "",
        "extract": "--device cpu",
        "tune": "--epochs 1 --device cpu", "train": "--epochs 1 --device cpu",
    }  # fmt: skip

    def call(name: str, *more: str, **changes: Any) -> Result:
        chosen = settings | {"submission": folder / f"{name}.csv"} | changes
        words = ["run", name, "--corpus", str(folder / "corpus"), "--store", str(folder / f"store-{name}")]
        words += [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        return CliRunner().invoke(zoo.main, [*words, *more])

    return call


def submitted(path: Path) -> list[str]:
    """Return the clips of a submission, all of whose classes are emotions."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["emotion"] for row in rows} <= set(EMOTIONS)
    return [row["name"] for row in rows]


def unlabelled(folder: Path) -> list[str]:
    """Return the clips nobody labelled, as they lie in the corpus."""
    return sorted(path.stem for path in (folder / "corpus" / "video-unlabeled").iterdir())


def test_audio_guided_fusion(run: Run, folder: Path) -> None:
    """All twenty steps, stopped once by a threshold nobody reaches and taken up again; then nothing to do.

    The vote is the paper's, the adapters are out of fold, and the lineage of the vote leads to both.
    """
    stopped = run("agt-mer2024", threshold=0.99)
    assert stopped.exit_code == 1, stopped.output
    assert "Failed at step 11 of 20, First round of pseudo-labels." in stopped.stderr
    assert "none of 16 clips is sure enough" in stopped.stderr
    done = run("agt-mer2024", threshold=0.1)
    assert done.exit_code == 0, done.output
    assert "10 of 20 steps run, 10 there already" in done.stdout
    store = Store.open(folder / "store-agt-mer2024")
    for name in ("clip-vit-large-lora", "baichuan-13b-lora"):
        folds = store.adapters[name].json("card.json")["training"]["folds"]
        assert set(folds) == set(store.labels["gold"].keys)
        assert f"adapters/{name}" in store.features[f"{name}-UTT"].spec.parents
    final = store.labels["final"]
    assert final.attrs["vote_params"]["weights"] == {"hubert-round2": {"worried": 2.0, "sad": 2.0}}
    assert final.members == tuple(f"runs/{name}-round2" for name in ("agt", "attention", "hubert"))
    assert store.labels["round1"].kept.any()
    assert sorted(submitted(folder / "agt-mer2024.csv")) == unlabelled(folder)
    again = run("agt-mer2024", threshold=0.1)
    assert "0 of 20 steps run, 20 there already" in again.stdout
    assert Store.open(folder / "store-agt-mer2024").commit == store.commit


def test_acoustic_adaptation_and_visual_alignment(run: Run, folder: Path) -> None:
    """All eleven steps: the probe's band is adapted, and the faces end up in the acoustic space."""
    done = run("acoustic-visual-mer2024", align="--epochs 2 --batch-size 4", probe="--device cpu")
    assert done.exit_code == 0, done.output
    assert "11 of 11 steps run" in done.stdout
    store = Store.open(folder / "store-acoustic-visual-mer2024")
    first, last = store.runs["probe-1"].attrs["band"]
    card = store.adapters["hubert-large-lora"].json("card.json")
    assert card["layers"] == list(range(first - 1, last))
    acoustic, visual = (store.features[name].spec for name in ("hubert-large-lora-UTT", "clip-aligned-UTT"))
    assert acoustic.row_shape == visual.row_shape
    assert visual.modality == "video"
    assert "adapters/clip-aligned" in visual.parents
    assert sorted(submitted(folder / "acoustic-visual-mer2024.csv")) == unlabelled(folder)
    again = run("acoustic-visual-mer2024", align="--epochs 2 --batch-size 4", probe="--device cpu")
    assert "0 of 11 steps run, 11 there already" in again.stdout
