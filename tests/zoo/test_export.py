"""Runs leave the store: as weights with a model card, and as a challenge's CSV."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, Store
from mer_featurestore.errors import BadInput, UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.export import export_run, model_card
from mer_zoo.exported import Exported, load
from mer_zoo.predict import predict
from mer_zoo.pseudo_label import pseudo_label
from mer_zoo.runs import find_run
from mer_zoo.settings import Settings
from mer_zoo.submit import submit
from mer_zoo.train import train

ToyStore = Callable[[Path], Store]
SMALL = {"hidden": 8}
ONCE = Settings(epochs=2, lr=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: ToyStore) -> Store:
    """Return a store with runs on single vectors, on frames (thinned), and on frames that are averaged."""
    store = toy(tmp_path_factory.mktemp("export") / "store")
    train(store, "attention", folds=2, params=SMALL, settings=ONCE, name="vectors")
    train(
        store,
        "agt",
        folds=2,
        params={**SMALL, "heads": 2},
        settings=ONCE,
        name="frames",
        level="frame",
        max_frames=4,
    )
    train(
        store,
        "mlp",
        features=["sound-FRA"],
        folds=2,
        params=SMALL,
        settings=ONCE,
        name="means",
        standardise=False,
    )
    evaluate(store, "vectors")
    return store


def given(store: Store, run: str, keys: list[str]) -> dict[str, list[np.ndarray | None]]:
    """Return the features of clips as a user of an exported run would have them."""
    found: dict[str, list[np.ndarray | None]] = {}
    for name, chosen in find_run(store, run).config.inputs.chosen.items():
        space = store.features[chosen.space]
        lacking = set(space.missing(keys))
        found[name] = [None if key in lacking else space[key] for key in keys]
    return found


@pytest.mark.parametrize("name", ["vectors", "frames", "means"])
def test_an_exported_run_predicts_as_the_run(trained: Store, tmp_path: Path, name: str) -> None:
    """Loaded from the folder alone, it gives the store's predictions, missing modalities included."""
    files = export_run(trained, name, tmp_path / "out")
    assert {path.name for path in files} == {
        "README.md",
        "config.json",
        "fold-0.safetensors",
        "fold-1.safetensors",
    }
    expected = predict(trained, name, "test")
    model = load(tmp_path / "out")
    found = model.predict(given(trained, name, list(expected.keys)))
    assert model.classes == expected.classes
    assert "Linear" not in repr(model)  # a notebook's cell stays readable
    np.testing.assert_allclose(found, expected.probs, atol=1e-6)
    one = model.predict(
        {input_: rows[:1] for input_, rows in given(trained, name, list(expected.keys)).items()}
    )
    np.testing.assert_allclose(one, expected.probs[:1], atol=1e-6)


def test_the_card_s_snippet_works_in_a_fresh_process(trained: Store, tmp_path: Path) -> None:
    """The code in README.md, pasted into a new Python in that folder, prints a probability per class."""
    export_run(trained, "frames", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(done.stdout.replace("'", '"'))
    assert list(printed) == ["angry", "happy", "sad"]
    assert sum(printed.values()) == pytest.approx(1, abs=2e-3)


def test_the_card_says_what_it_is(trained: Store) -> None:
    """Inputs with fingerprints, training, scores with intervals, and every evaluation on record."""
    card = model_card(trained, find_run(trained, "vectors"))
    assert card.startswith("---\nlibrary_name: mer-fs\n")
    run = find_run(trained, "vectors")
    for chosen in run.config.inputs.chosen.values():
        assert chosen.fingerprint[:16] in card
    for text in (
        "| audio | sound-UTT | utt | 6 |",
        "48 clips labelled by people (layer `gold`)",
        "there was 1.",
        "v 1",
    ):
        assert text in card
    assert f"| WAF | {run.scores.waf:.4f} | {run.scores.intervals['waf'].low:.4f}" in card
    assert "Evaluations" not in model_card(trained, find_run(trained, "means"))


def test_nobody_s_clips_are_exported(trained: Store, tmp_path: Path) -> None:
    """No key of a clip is in any of the files."""
    for path in export_run(trained, "vectors", tmp_path / "out"):
        assert b"train-0" not in path.read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(trained: Store, tmp_path: Path) -> None:
    """Only an empty or new folder is written to."""
    (tmp_path / "mine.txt").write_text("x")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ZooError, match="give an empty or a new folder"):
            export_run(trained, "vectors", taken)


def test_what_an_exported_run_refuses(trained: Store, tmp_path: Path) -> None:
    """Foreign inputs, shapes, counts and folders are each one error with a remedy."""
    export_run(trained, "vectors", tmp_path / "out")
    model: Exported = load(tmp_path / "out")
    with pytest.raises(UnknownName, match="did you mean 'audio'"):
        model.predict({"adio": [np.ones(6)]})
    with pytest.raises(BadInput, match=r"audio of clip 1 has the shape \(7,\); give \[T, 6\] or \[6\]"):
        model.predict({"audio": [np.ones(6), np.ones(7)]})
    with pytest.raises(BadInput, match="audio: 2, video: 1"):
        model.predict({"audio": [np.ones(6)] * 2, "video": [np.ones(5)]})
    with pytest.raises(ZooError, match="clip 1 has no features at all"):
        model.predict({"audio": [np.ones(6), None]})
    with pytest.raises(ZooError, match="no clip to predict"):
        model.predict({"audio": []})
    with pytest.raises(ZooError, match="is no exported run"):
        load(tmp_path)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ZooError, match="upgrade"):
        load(tmp_path / "out")


def read(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_submission_has_every_clip_of_the_split_by_key(trained: Store, tmp_path: Path) -> None:
    """Each clip has one row with its own prediction; those without features the fallback, and are named."""
    found = submit(trained, "means", tmp_path / "s.csv")
    rows = read(tmp_path / "s.csv")
    assert rows[0] == ["name", "emotion"]
    assert [key for key, _ in rows[1:]] == [clip.key for clip in trained.clips.select(split="test")]
    predicted = predict(trained, "means", "test")
    said = dict(zip(predicted.keys, predicted.labels, strict=True))
    assert {key: emotion for key, emotion in rows[1:] if key in said} == said
    assert found.fell_back == predicted.missing != ()
    run = find_run(trained, "means")
    commonest = max(run.scores.per_class.values(), key=lambda c: c.support).support
    assert run.scores.per_class[found.fallback].support == commonest
    assert {emotion for key, emotion in rows[1:] if key in found.fell_back} == {found.fallback}
    assert (found.rows, sum(found.counts.values())) == (24, 24)


def test_a_submission_as_told(trained: Store, tmp_path: Path) -> None:
    """Columns, split and fallback are the user's; keys with commas and quotes survive."""
    trained.clips.add([Clip(key='odd, "key"', split="extra", text="t")])
    trained.clips.add([Clip(key="fine", split="extra", audio="a")])
    with trained.features.writer(trained.features["sound-FRA"].spec) as writer:
        writer.add("fine", np.ones((2, 6), np.float32))
    found = submit(trained, "means", tmp_path / "s.csv", "extra", columns=("id", "label"), fallback="sad")
    rows = read(tmp_path / "s.csv")
    assert rows[0] == ["id", "label"]
    assert ['odd, "key"', "sad"] in rows
    assert found.fell_back == ('odd, "key"',)


def test_a_layer_and_a_list_are_submitted(trained: Store, tmp_path: Path) -> None:
    """A vote is written row by row, kept or not, for the clips a list names, in its order, and no others."""
    keys = [clip.key for clip in trained.clips.select(split="unlabeled")]
    pseudo_label(trained, ["means"], None, "unlabeled", name="final", threshold=0.45)
    layer = trained.labels["final"]
    (tmp_path / "list.csv").write_text("name,x\n" + "".join(f"{key},1\n" for key in reversed(keys[:3])))
    found = submit(trained, "final", tmp_path / "s.csv", rows=tmp_path / "list.csv")
    rows = read(tmp_path / "s.csv")[1:]
    assert [key for key, _ in rows] == keys[2::-1]
    known = {key: layer[key] for key in layer.keys if layer[key]}
    assert not layer.kept.all()
    assert all(emotion == known.get(key, found.fallback) for key, emotion in rows)
    assert (found.run, found.fell_back) == ("labels/final", tuple(k for k, _ in rows if k not in known))
    by_run = submit(trained, "means", tmp_path / "r.csv", rows=tmp_path / "list.csv")
    assert [key for key, _ in read(tmp_path / "r.csv")[1:]] == keys[2::-1]
    assert by_run.run == "means"
    for text, match in (("clip\nx\n", "no column name or key"), ("name\nx\n", "line 2, column name.*'x'")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises((BadInput, UnknownName), match=match):
            submit(trained, "means", tmp_path / "s.csv", rows=tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fallback": "bored"}, "no class of means named 'bored'"),
        ({"form": "mer24"}, "did you mean 'mer2024'"),
        ({"columns": ("a", "a")}, "both columns would be named 'a'"),
        ({"split": "tst"}, "did you mean 'test'"),
    ],
)
def test_what_cannot_be_submitted(
    trained: Store, tmp_path: Path, options: dict[str, object], match: str
) -> None:
    """A mistake is one error, and no file is left."""
    with pytest.raises((UnknownName, ZooError), match=match):
        submit(trained, "means", tmp_path / "s.csv", **options)  # type: ignore[arg-type]  # a test's shorthand
    assert not (tmp_path / "s.csv").exists()
