"""Rounds of pseudo-labels from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli.commands.extract import extract
from mer_cli.zoo import main
from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.wording import plural
from mer_plugins.samples import voice, write_wav

CLASSES = ("angry", "happy", "sad")
QUICK = ("--folds", "3", "--epochs", "20", "--lr", "0.02", "--param", "hidden=16")


def make_store(folder: Path) -> Store:
    """Make a store of 60 clips with features of two modalities, labels, and the truth of all clips."""
    store, rng = Store.create(folder), np.random.default_rng(0)
    splits = ["train"] * 30 + ["unlabeled"] * 18 + ["test"] * 12
    keys = [f"{split}{i}" for i, split in enumerate(splits)]
    store.clips.add(
        Clip(key=key, split=split, speaker=f"s{i % 6}", audio="a", text="t")
        for i, (key, split) in enumerate(zip(keys, splits, strict=True))
    )
    for modality, name in (("audio", "sound-UTT"), ("text", "words-UTT")):
        means = rng.normal(0, 2, (3, 4))
        with store.features.writer(
            SpaceSpec(name=name, modality=modality, level="utt", row_shape=(4,))
        ) as writer:
            for i, key in enumerate(keys):
                writer.add(key, means[i % 3] + rng.normal(0, 1, 4))
    truth = {key: CLASSES[i % 3] for i, key in enumerate(keys)}
    known = {key: label for key, label in truth.items() if not key.startswith("unlabeled")}
    store.labels.add(LabelLayer.human("gold", CLASSES, known))
    store.labels.add(LabelLayer.human("truth", CLASSES, truth))
    return store


def run(url: str, *arguments: str) -> Result:
    """Run `mer-zoo` in this process."""
    return CliRunner().invoke(main, [arguments[0], *arguments[1:], "--store", url])


def as_json(url: str, *arguments: str) -> Any:
    """Return the document a command prints with --json."""
    done = run(url, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return such a store with the runs `a` and `b`."""
    folder = tmp_path_factory.mktemp("rounds") / "store"
    make_store(folder)
    for name, space in (("a", "sound-UTT"), ("b", "words-UTT")):
        assert run(str(folder), "train", "mlp", "--as", name, "--features", space, *QUICK).exit_code == 0
    return str(folder)


def test_every_rule_reaches_the_layer(url: str) -> None:
    """Experts, class thresholds and calibration are kept with the layer, with what they found out."""
    done = run(
        url, "pseudo-label", "--run", "a", "--run", "b", "--as", "expert", "--expert", "a",
        "--expert-classes", "sad,angry", "--expert-weight", "3", "--class-threshold", "sad=0.4",
        "--threshold", "0.5",
        "--calibrate", "temperature",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    attrs = Store.open(url).labels["expert"].attrs
    assert attrs["vote_params"] == {"weights": {"a": {"sad": 3.0, "angry": 3.0}}}
    assert (attrs["vote"], attrs["select"]) == ("weighted", "per-class")
    assert attrs["select_facts"]["thresholds"] == {"angry": 0.5, "happy": 0.5, "sad": 0.4}
    assert set(attrs["calibration"]) == {"a", "b"}
    assert attrs["calibration"]["a"]["method"] == "temperature"
    assert attrs["members"] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prior", ("--vote", "prior", "--threshold", "0.5")),
        ("skilled", ("--vote", "dawid-skene", "--vote-param", "smoothing=2", "--select", "freematch")),
        ("picked", ("--select", "top-k", "--select-param", 'target={"sad": 0.5, "angry": 0.5}')),
        ("agreed", ("--select", "agreement", "--vote", "majority")),
        ("soft", ("--select", "softmatch", "--calibrate", "bcts")),
        ("sure", ("--select", "confident")),
    ],
)
def test_strategies_as_typed(url: str, name: str, options: tuple[str, ...]) -> None:
    """Strategies and their parameters can be typed, and what they found out is on record."""
    document = as_json(url, "pseudo-label", "--run", "a", "--run", "b", "--as", name, *options)
    assert document["kept"] > 0
    layer = Store.open(url).labels[name]
    assert layer.attrs["kept"] == document["kept"] == int(layer.kept.sum())
    if name == "prior":
        assert sum(layer.attrs["vote_facts"]["prior"].values()) == pytest.approx(1)
    if name == "soft":
        assert layer.confidence[layer.kept].max() == 1
        weighted = ("--labels", "soft", "--soft-labels", "--confidence-weights")
        assert run(url, "train", "mlp", *weighted, *QUICK).exit_code == 0


def test_strategies_are_listed() -> None:
    """Each way of voting and selecting is shown with its parameters."""
    output = CliRunner().invoke(main, ["strategies"]).output
    assert "--vote dawid-skene: " in output
    assert "iterations=100 smoothing=1.0 anchored=True" in output
    assert "--select softmatch: " in output
    document = json.loads(CliRunner().invoke(main, ["strategies", "--json"]).output)
    assert {"soft", "majority", "weighted", "prior"} <= {card["name"] for card in document["vote"]}


def test_calibrate(url: str, tmp_path: Path) -> None:
    """ECE before and after, and whether p > 0.9 means it, in a table and a figure."""
    done = run(url, "calibrate", "a", "--calibrate", "vector", "--figure", str(tmp_path / "r.png"))
    assert done.exit_code == 0, done.output
    for text in ("30 clips", "as trained", "vector", "ECE", "p > 0.9 means right 9 times of 10"):
        assert text in done.output
    assert (tmp_path / "r.png").exists()
    assert len(as_json(url, "calibrate", "a")["ece"]) == 2
    judged = run(url, "calibrate", "a", "--split", "test").output
    assert "12 clips, test" in judged
    assert "on record as a.calibration-1" in judged


def test_suspects(tmp_path: Path) -> None:
    """A label swapped on purpose is doubted, and for the right class; nothing is written."""
    store = make_store(tmp_path / "store")
    known = {key: store.labels["truth"][key] for key in store.labels["truth"].keys if key.startswith("train")}
    known["train4"] = next(name for name in CLASSES if name != known["train4"])
    store.labels.add(LabelLayer.human("swapped", CLASSES, known))
    assert run(store.url, "train", "mlp", "--labels", "swapped", "--as", "a", *QUICK).exit_code == 0
    before = Store.open(store.url).commit
    listed = {row["key"]: row for row in as_json(store.url, "suspects", "a")}
    assert listed["train4"]["taken_for"] == store.labels["truth"]["train4"]
    assert listed["train4"]["own"] < listed["train4"]["other"]
    assert f"doubted: {plural(len(listed), 'label')}" in run(store.url, "suspects", "a").output
    assert Store.open(store.url).commit == before


def test_priors(url: str, tmp_path: Path) -> None:
    """Training, estimated and true shares, in a table and a figure."""
    done = run(
        url, "priors", "a", "--truth", "truth", "--resamples", "10", "--figure", str(tmp_path / "p.png")
    )
    assert done.exit_code == 0, done.output
    for text in ("18 clips of unlabeled by a", "BBSE", "0.333", "total variation from the truth (18 clips)"):
        assert text in done.output
    assert (tmp_path / "p.png").exists()
    assert as_json(url, "priors", "a", "--resamples", "5")["n"] == 18


def test_predictions_can_be_adjusted(url: str) -> None:
    """`--adjust-logits` changes probabilities of new clips only."""
    plain, adjusted = (
        as_json(url, "predict", "a", "--split", "test", *options)["predictions"]
        for options in ((), ("--calibrate", "bcts", "--adjust-logits"))
    )
    assert [row["key"] for row in plain] == [row["key"] for row in adjusted]
    assert plain != adjusted


def test_self_train(tmp_path: Path) -> None:
    """The loop as typed: a table a round, precision per class against an audit layer; again for nothing."""
    url = make_store(tmp_path / "store").url
    line = (
        "self-train", "mlp", "--features", "sound-UTT", "--member", "mlp:words-UTT", "--rounds", "1",
        "--audit", "truth", "--threshold", "0.4", "--expert", "mlp:words-UTT", "--expert-classes", "sad",
        *QUICK,
    )  # fmt: skip
    done = run(url, *line)
    assert done.exit_code == 0, done.output
    for text in ("trained round0-mlp-words-UTT", "published round1: ", "measured", "the best is ", "/18"):
        assert text in done.output
    before = Store.open(url).commit
    document = as_json(url, *line)
    assert Store.open(url).commit == before
    assert document["stages"][1]["layer"] == "round1"
    known = sum(m["known"] for m in document["stages"][1]["measured"].values())
    assert known == document["stages"][1]["kept"]
    refused = run(url, *line, "--seed", "1")
    assert refused.exit_code == 1
    assert "begun with other options: training.seed was 0 and is 1" in refused.stderr


def test_warm_as_typed(tmp_path: Path) -> None:
    """A loop and a single run go on from earlier weights; a run that does not fit is refused in one line."""
    url = make_store(tmp_path / "store").url
    line = (
        "self-train",
        "mlp",
        "--features",
        "sound-UTT",
        "--rounds",
        "1",
        "--threshold",
        "0.4",
        "--warm",
        *QUICK,
    )
    assert run(url, *line).exit_code == 0
    assert as_json(url, "show", "round1-mlp-sound-UTT")["config"]["warm"] == "round0-mlp-sound-UTT"
    on = ("train", "mlp", "--features", "sound-UTT", "--labels", "round1", "--warm", "round1-mlp-sound-UTT")
    assert run(url, *on, *QUICK, "--as", "on").exit_code == 0
    assert "began with the weights of round1-mlp-sound-UTT" in run(url, "show", "on").output
    refused = run(url, *on, *QUICK, "--seed", "5")
    assert refused.exit_code == 1
    assert "use --folds 3 --seed 0" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_experiments(url: str, tmp_path: Path) -> None:
    """Each experiment as typed prints a table, goes on record, and its figure can be copied out."""
    quick = ("--folds", "2", "--epochs", "2", "--lr", "0.02")
    lines = [
        ("robustness", "a", "--snr", "0", "--seeds", "1"),
        ("vote-shift", "--run", "a", "--run", "b", "--draws", "3", "--vote", "majority,soft"),
        (
            "sweep-threshold",
            "0.4,0.5",
            "--run",
            "a",
            "--audit",
            "truth",
            "--model",
            "mlp",
            "--as",
            "sweep",
            *quick,
        ),
        ("ablate", "--as", "abl", *quick),
    ]
    for line in lines:
        figure = tmp_path / f"{line[0]}.png"
        done = run(url, *line, "--figure", str(figure))
        assert done.exit_code == 0, done.output
        assert "judged on test (gold)" in done.output
        assert "on record as " in done.output
        assert figure.stat().st_size > 5000
    document = as_json(url, *lines[2])
    assert document["lines"][1]["kept"] <= document["lines"][1]["judged"] == 18
    assert len(document["lines"][1]["precision"]) == 3


def test_robustness_media(tmp_path: Path) -> None:
    """Noise goes into the media when the options of the extraction are repeated; others are refused."""
    store = Store.create(tmp_path / "store")
    sounds = [str(write_wav(tmp_path / f"{i}.wav", voice(0.4, 100 + 15 * i))) for i in range(9)]
    store.clips.add(
        Clip(key=f"k{i}", split="test" if i > 5 else "train", audio=sound) for i, sound in enumerate(sounds)
    )
    store.labels.add(LabelLayer.human("gold", ("a", "b"), {f"k{i}": "ab"[i % 2] for i in range(9)}))
    extraction = ("--plugin", "prosody", "--option", "deltas=0", "--level", "utt")
    assert CliRunner().invoke(extract, [*extraction, "--store", store.url]).exit_code == 0
    assert run(store.url, "train", "mlp", "--as", "m", "--folds", "2", "--epochs", "2").exit_code == 0
    done = run(store.url, "robustness-media", "m", *extraction, "--snr", "5")
    assert done.exit_code == 0, done.output
    assert "audio, noise at 5 dB in the media" in done.output
    assert "audio, silent for 50% of the time" in done.output
    assert "audio, silent throughout" in done.output
    assert "clips without" in done.output
    nonsense = run(store.url, "robustness-media", "m", *extraction, "--masked", "2")
    assert nonsense.exit_code == 1
    assert "use 1 stretch or more, and shares above 0" in nonsense.stderr
    refused = run(store.url, "robustness-media", "m", "--plugin", "prosody", "--as", "other")
    assert refused.exit_code == 1
    assert "repeat the options of the mer-fs extract that made it" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--expert", "a"), "an expert needs classes to be one in"),
        (("--expert", "a", "--expert-classes", "sad", "--vote", "soft"), "--expert means --vote weighted"),
        (("--expert", "c", "--expert-classes", "sad"), "no member named 'c'"),
        (("--class-threshold", "sad=low"), "give a number, e.g. sad=0.85"),
        (("--class-threshold", "sat=0.5"), "no class named 'sat'; did you mean 'sad'?"),
        (("--select", "flexmach"), "no selection named 'flexmach'; did you mean 'flexmatch'"),
        (("--select", "freematch", "--threshold", "0.5"), "no parameter of the selection freematch named"),
        (("--select", "top-k", "--select-param", "total=many"), "parameter total of top-k is 'many'"),
    ],
)
def test_a_mistake_is_one_line(url: str, options: tuple[str, ...], message: str) -> None:
    """Rules that make no sense end with 1 and one line that says what to do."""
    done = run(url, "pseudo-label", "--run", "a", "--as", "x", *options)
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "x" not in Store.open(url).labels
