"""Tuning real (tiny) encoders on real media, up to features made by a fresh process."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import NameTaken
from mer_featurestore.lineage import ancestors
from mer_plugins.contract import Options
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import pictures, voice, write_film, write_wav
from mer_plugins.tunable import Tunable
from mer_zoo.errors import ZooError
from mer_zoo.guards import labels_seen, tuned_on_validation
from mer_zoo.registry import find_model
from mer_zoo.spaces import choose
from mer_zoo.training import Diverged
from mer_zoo.tuning.settings import TuneRequest, TuneSettings
from mer_zoo.tuning.tune import tune
from support.tiny import MAKERS

SPEAKERS, EACH = 6, 4
WORDS = {"happy": "i am so happy today", "sad": "why not the cat"}
QUICK = TuneSettings(epochs=1, batch_size=8, lr=1e-2, head_lr=1e-2)
EXTRA = {"clip-vit-large": {"face": "none"}}  # the pictures have no faces
ENCODERS = {  # plugin, adapted layers: one of each modality, and the decoder of our own
    "hubert-large": "4-5",
    "clip-vit-large": "3-4",
    "chinese-macbert-large": "2-3",
    "baichuan-13b": "5",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return the folders of tiny checkpoints by plugin."""
    root = tmp_path_factory.mktemp("bases")
    for name in ENCODERS:
        (root / name).mkdir()
        MAKERS[name](root / name)
    return {name: root / name for name in ENCODERS}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Clip], dict[str, str]]:
    """Return 24 clips of six speakers with voice, film and words, two classes, and their labels."""
    folder, found, label = tmp_path_factory.mktemp("media"), [], {}
    for i in range(SPEAKERS * EACH):
        happy, key = bool(i % 2), f"c{i:02d}"
        wave = write_wav(folder / f"{key}.wav", voice(0.3 + 0.01 * i, 220 if happy else 110))
        film = write_film(folder / f"{key}.mp4", pictures(4, 48, 64, first=7 * i))
        label[key] = "happy" if happy else "sad"
        speaker = f"s{i // EACH}"
        words = f"{WORDS[label[key]]} {'on a mat' * (i % 3)}"
        found.append(
            Clip(key=key, audio=str(wave), video=str(film), text=words, speaker=speaker, split="train")
        )
    return found, label


def make_store(folder: Path, clips: list[Clip], label: Mapping[str, str]) -> Store:
    """Return a store of clips with the human labels `gold`."""
    store = Store.create(folder)
    store.clips.add(clips)
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), dict(label)))
    return store


@pytest.fixture
def store(tmp_path: Path, clips: Any) -> Store:
    """Return a store of a test's own."""
    return make_store(tmp_path / "store", *clips)


def request(bases: Mapping[str, Path], plugin: str = "hubert-large", **more: Any) -> TuneRequest:
    """Return what to tune, quickly."""
    said = {"layers": ENCODERS[plugin], "settings": QUICK, "name": "mine", **more}
    return TuneRequest(plugin=plugin, options=options(bases, plugin), **said)


def options(bases: Mapping[str, Path], plugin: str) -> Options:
    """Return what the extractor is told."""
    return Options(model=str(bases[plugin]), device="cpu", extra=EXTRA.get(plugin, {}))


class Spy:
    """Notes each encoder as it is attached and as it is saved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}
        self.trained: set[str] = set()
        self.clips: list[Clip] = []
        self.vectors: dict[str, np.ndarray] = {}
        attach, save = Tunable.attach.__func__, Tunable.save

        def attached(cls: type, *args: Any, **how: Any) -> Tunable:
            tunable = attach(cls, *args, **how)
            self.before = self.weights(tunable)
            return tunable

        def saved(tunable: Tunable, folder: Path) -> None:
            self.after, self.trained = self.weights(tunable), set(tunable.trainable())
            tunable.net.eval()
            with torch.no_grad():
                for clip in self.clips:
                    rows = tunable.rows([tunable.extractor.prepare(clip)])[0]
                    self.vectors[clip.key] = rows.mean(0).numpy()
            save(tunable, folder)

        monkeypatch.setattr(Tunable, "attach", classmethod(attached))
        monkeypatch.setattr(Tunable, "save", saved)

    @staticmethod
    def weights(tunable: Tunable) -> dict[str, torch.Tensor]:
        """Return copies of all weights by name."""
        return {name: w.detach().clone() for name, w in tunable.extractor.net.named_parameters()}


FRESH = """
import sys
from mer_cli.fs import main
for plugin, model in (line.split("=") for line in sys.argv[2:]):
    said = ["extract", "--plugin", plugin, "--adapter", plugin + ".lora", "--as", plugin + "-tuned"]
    said += ["--option", "face=none"] if "clip" in plugin else []
    main([*said, "--model", model, "--store", sys.argv[1], "--device", "cpu"], standalone_mode=False)
"""


def test_extraction_gives_what_was_trained(
    store: Store, bases: Any, clips: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tuned in memory, kept, extracted by a fresh process: the same vectors to 1e-4, for every modality.

    Only the adapters of the chosen layers have changed; every weight of the base is what it was to the bit.
    """
    expected: dict[str, dict[str, np.ndarray]] = {}
    for plugin, layers in ENCODERS.items():
        spy = Spy(monkeypatch)
        spy.clips = clips[0][:6]
        asked = request(bases, plugin, name=f"{plugin}.lora")
        result = tune(store, asked, work=tmp_path / plugin)
        expected[plugin] = spy.vectors
        monkeypatch.undo()
        changed = {name for name, w in spy.before.items() if not torch.equal(w, spy.after[name])}
        assert changed
        assert changed <= spy.trained
        blocks = {int(part) for name in spy.trained for part in name.split(".") if part.isdecimal()}
        first, _, last = layers.partition("-")
        assert blocks == set(range(int(first) - 1, int(last or first)))
        assert result.trainable == sum(spy.before[name].numel() for name in spy.trained)
        assert store.adapters[f"{plugin}.lora"].attrs["parameters"] == result.trainable
    pairs = [f"{plugin}={bases[plugin]}" for plugin in ENCODERS]
    subprocess.run([sys.executable, "-c", FRESH, store.url, *pairs], check=True, capture_output=True)
    store.refresh()
    for plugin, vectors in expected.items():
        space = store.features[f"{plugin}-tuned-UTT"]
        largest = max(np.abs(space[key][0] - vector).max() for key, vector in vectors.items())
        assert largest <= 1e-4, plugin
        frozen = _vectors(store, bases, plugin)
        assert max(np.abs(space[key][0] - frozen[key]).max() for key in vectors) > 1e-3, plugin


def _vectors(store: Store, bases: Any, plugin: str, adapter: str = "") -> dict[str, Any]:
    """Extract in this process; return key -> vector."""
    name = adapter or f"frozen-{plugin}"
    planned = plan(store, Request(plugin=plugin, adapter=adapter, name=name, options=options(bases, plugin)))
    extract(store, planned)
    space = store.features[planned.spaces[0]]
    keys = space.keys()
    return {key: space[key][0] for key in keys}


def _weights(store: Store, name: str, file: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load(store.adapters[name].read(file))


def _same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_no_clip_is_extracted_by_an_adapter_that_knows_its_label(
    bases: Any, clips: Any, tmp_path: Path
) -> None:
    """With other labels for the clips of a fold, this fold's adapter and their features stay as they were.

    Every speaker has as many clips of each class, so that exchanging a speaker's classes leaves the folds.
    """
    asked = request(bases, folds=3, settings=replace(QUICK, epochs=2))
    one = make_store(tmp_path / "one", *clips)
    tune(one, asked, work=tmp_path / "work")
    folds = one.adapters["mine"].json("card.json")["training"]["folds"]
    swap = {"happy": "sad", "sad": "happy"}
    label = {key: swap[name] if folds[key] == 0 else name for key, name in clips[1].items()}
    other = make_store(tmp_path / "other", clips[0], label)
    tune(other, asked, work=tmp_path / "work")
    training = other.adapters["mine"].json("card.json")["training"]
    assert training["folds"] == folds
    assert set(training["keys"]) == set(clips[1])
    same = [
        _same(*(_weights(store, "mine", f"fold-{k}/adapter_model.safetensors") for store in (one, other)))
        for k in range(3)
    ]
    assert same == [True, False, False]
    assert not _same(_weights(one, "mine"), _weights(other, "mine"))  # that of all clips
    here, there = (_vectors(store, bases, "hubert-large", "mine") for store in (one, other))
    for key, fold in folds.items():
        assert np.array_equal(here[key], there[key]) == (fold == 0), key


def test_guards_tell_a_plain_adapter_from_one_with_folds(store: Store, bases: Any, tmp_path: Path) -> None:
    """Training on features of a plain adapter is warned of, on out-of-fold features it is not."""
    tune(store, request(bases, name="plain"), work=tmp_path / "a")
    tune(store, request(bases, name="folded", folds=3, all_data=False), work=tmp_path / "b")
    for name in ("plain", "folded"):
        _vectors(store, bases, "hubert-large", name)
    keys = [clip.key for clip in store.clips.values()]
    for name, warned in (("plain", True), ("folded", False)):
        inputs = choose(store, find_model("attention"), [f"{name}-UTT"])
        found = tuned_on_validation(store, inputs, keys)
        assert any("tuned on the labels of 24 of the 24 clips" in notice for notice in found) == warned
    above = ancestors(store.snapshot, "features/plain-UTT")
    assert {"adapters/plain", "labels/gold"} <= set(above)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from mer_featurestore import Store
from mer_plugins.contract import Options
from mer_zoo.tuning.settings import TuneRequest, TuneSettings
from mer_zoo.tuning.tune import tune
url, base, work, step, settings = sys.argv[1:]

def kill(stage, done, total):
    if stage == "one" and done == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

how = TuneSettings(**json.loads(settings))
told = Options(model=base, device="cpu")
asked = TuneRequest(plugin="hubert-large", name="mine", layers="4-5", settings=how, options=told)
tune(Store.open(url), asked, work=Path(work), progress=kill)
"""


def test_killed_and_called_again_it_ends_with_the_same_adapter(
    bases: Any, clips: Any, tmp_path: Path
) -> None:
    """After `kill -9` in the third epoch the same call goes on, and gives the adapter of an unbroken run."""
    asked = request(bases, settings=replace(QUICK, epochs=4, patience=9))
    unbroken = make_store(tmp_path / "unbroken", *clips)
    told = tune(unbroken, asked, work=tmp_path / "whole")
    broken = make_store(tmp_path / "broken", *clips)
    steps = 4 * math.ceil(told.parts[0].trained / 8)
    said = {**asked.settings.to_json(), "targets": ()}
    told_to = [broken.url, str(bases["hubert-large"]), str(tmp_path / "work"), str(steps * 3 // 4 - 1)]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *told_to, json.dumps(said)], check=False, capture_output=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = sorted(path.name for path in (tmp_path / "work" / "one").iterdir())
    assert kept
    checkpoint = tmp_path / "work" / "one" / kept[-1]
    assert sum(path.stat().st_size for path in checkpoint.rglob("*")) < 2**20  # no base in it
    assert not list(checkpoint.glob("training_args*"))
    heard: list[tuple[str, int]] = []
    again = tune(broken, asked, work=tmp_path / "work", progress=lambda *told: heard.append(told[:2]))
    assert again.resumed
    assert min(done for stage, done in heard if stage == "one") == steps // 2 + 1
    assert _same(_weights(broken, "mine"), _weights(unbroken, "mine"))
    assert _same(_weights(broken, "mine", "head.safetensors"), _weights(unbroken, "mine", "head.safetensors"))
    assert again.parts == told.parts
    assert not (tmp_path / "work").exists()


def test_every_fold_is_done_once_and_all_clips_train_as_long_as_the_folds_did(
    store: Store, bases: Any, tmp_path: Path
) -> None:
    """`all` is trained for the median of the folds' best epochs; out-of-fold scores are of every clip."""
    result = tune(store, request(bases, folds=4, settings=replace(QUICK, epochs=3)), work=tmp_path / "work")
    *folds, whole = result.parts
    assert [part.name for part in folds] == ["fold-0", "fold-1", "fold-2", "fold-3"]
    best = sorted(part.best_epoch for part in folds)
    assert whole.epochs == whole.best_epoch == best[2]
    assert (whole.trained, whole.valid, whole.held) == (SPEAKERS * EACH, None, None)
    assert result.out_of_fold is not None
    assert result.out_of_fold.n == SPEAKERS * EACH
    assert sum(part.held.n for part in folds if part.held) == SPEAKERS * EACH
    assert result.frozen is not None
    assert result.frozen.n == SPEAKERS * EACH
    helped = result.out_of_fold.uar > result.frozen.uar
    assert any("tuning did not help" in notice for notice in result.notices) != helped
    card = store.adapters["mine"].json("card.json")
    assert set(card["tuning"]["history"]) == {part.name for part in result.parts}
    assert card["tuning"]["parts"][0]["held"]["intervals"]["uar"]
    assert card["layers"] == [3, 4]


def test_a_pseudo_label_is_among_the_keys_and_in_no_fold(
    store: Store, bases: Any, clips: Any, tmp_path: Path
) -> None:
    """Pseudo-labelled clips train with their weight and are told in the card; test clips never train."""
    extra = [
        replace(clips[0][0], key="u1", split="unlabeled", speaker="u"),
        replace(clips[0][1], key="t1", split="test", speaker="t"),
    ]
    store.clips.add(extra)
    layer = LabelLayer.human("more", ("happy", "sad"), {"u1": "sad", "t1": "happy"})
    store.labels.add(replace(layer, name="round1", source=np.ones(2, np.uint8), parents=("labels/gold",)))
    asked = request(bases, labels="round1", folds=3, all_data=False)
    asked = replace(asked, settings=replace(QUICK, soft_labels=True, confidence_weights=True))
    result = tune(store, asked, work=tmp_path / "work")
    training = store.adapters["mine"].json("card.json")["training"]
    assert "u1" in training["keys"]
    assert "t1" not in training["keys"]
    assert "u1" not in training["folds"]
    assert labels_seen(store, store.adapters["mine"]) == {"u1"}
    assert any("test clips never train" in notice for notice in result.notices)


def test_broken_media_are_left_out_with_a_reason(
    store: Store, bases: Any, clips: Any, tmp_path: Path
) -> None:
    """Empty, missing and absent media are told in result and card, and the rest is tuned."""
    (tmp_path / "empty.wav").write_bytes(b"")
    bad = [
        replace(clips[0][0], key="empty", audio=str(tmp_path / "empty.wav")),
        replace(clips[0][1], key="gone", audio=str(tmp_path / "gone.wav")),
        replace(clips[0][2], key="mute", audio=None),
    ]
    store.clips.add(bad)
    label = clips[1] | dict.fromkeys(("empty", "gone", "mute"), "sad")
    store.labels.add(LabelLayer.human("with-bad", ("happy", "sad"), label))
    result = tune(store, request(bases, labels="with-bad"), work=tmp_path / "work")
    assert set(result.left_out) == {"empty", "gone", "mute"}
    assert "empty" in result.left_out["empty"]
    assert result.left_out["mute"] == "has no audio"
    card = store.adapters["mine"].json("card.json")
    assert card["tuning"]["left_out"] == dict(result.left_out)
    assert not {"empty", "gone", "mute"} & set(card["training"]["keys"])


def test_empty_transcripts_are_left_out(store: Store, bases: Any, clips: Any, tmp_path: Path) -> None:
    """A blank transcript is a clip that cannot be read, not a crash."""
    store.clips.add([replace(clips[0][0], key="blank", text=" ")])
    store.labels.add(LabelLayer.human("blank", ("happy", "sad"), clips[1] | {"blank": "sad"}))
    plugin = "chinese-macbert-large"
    result = tune(store, request(bases, plugin, labels="blank"), work=tmp_path / "work")
    assert set(result.left_out) == {"blank"}


def test_a_class_without_a_readable_clip_stops_before_training(
    bases: Any, clips: Any, tmp_path: Path
) -> None:
    """When all clips of a class are broken the error names it; when all of all, it says so."""
    for which, message in (
        ({"sad"}, "no usable clip is left of class 'sad'"),
        ({"sad", "happy"}, "none of the"),
    ):
        torn = [
            replace(clip, audio=str(tmp_path / "gone.wav")) if clips[1][clip.key] in which else clip
            for clip in clips[0]
        ]
        store = make_store(tmp_path / message[:7], torn, clips[1])
        with pytest.raises(ZooError, match=message):
            tune(store, request(bases), work=tmp_path / "work")
        assert not len(store.adapters)


def test_a_loss_that_is_no_number_publishes_nothing(store: Store, bases: Any, tmp_path: Path) -> None:
    """NaN ends in an error with step, learning rate and remedy; the next call begins anew."""
    wild = replace(QUICK, lr=1e30, epochs=3)
    with pytest.raises(Diverged, match=r"at step \d+ \(learning rate 1e\+30") as caught:
        tune(store, request(bases, settings=wild), work=tmp_path / "work")
    assert "--lr" in caught.value.remedy
    assert not len(store.adapters)
    assert not tune(store, request(bases), work=tmp_path / "work").resumed


def test_out_of_memory_says_what_helps(
    store: Store, bases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When memory runs out the error names the options that need less, and others may be used at once."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Tunable, "rows", full)
    with pytest.raises(ZooError, match="with 8 clips in a forward pass") as caught:
        tune(store, request(bases), work=tmp_path / "work")
    assert "--accumulate" in caught.value.remedy
    monkeypatch.undo()
    tune(store, request(bases, settings=replace(QUICK, batch_size=2)), work=tmp_path / "work")


def test_a_taken_name_is_refused_before_any_work(store: Store, bases: Any, tmp_path: Path) -> None:
    """NameTaken comes at once: no folder is made, nothing is loaded."""
    tune(store, request(bases), work=tmp_path / "work")
    with pytest.raises(NameTaken):
        tune(store, replace(request(bases), options=Options(model="/nowhere")), work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("method", ["dora", "bottleneck", "last", "full"])
def test_every_method_is_kept_and_extracted(
    store: Store, bases: Any, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch, clips: Any
) -> None:
    """What each method trained is what extraction gives; attention pooling and checkpointing work with it."""
    settings = replace(QUICK, method=method, pool="attention", gradient_checkpointing=True, accumulate=2)
    spy = Spy(monkeypatch)
    spy.clips = clips[0][:3]
    layers = "all" if method == "full" else "4-5"
    tune(store, request(bases, settings=settings, layers=layers), work=tmp_path / "work")
    monkeypatch.undo()
    vectors = _vectors(store, bases, "hubert-large", "mine")
    for key, vector in spy.vectors.items():
        assert np.abs(vectors[key] - vector).max() <= 1e-4 * max(1, np.abs(vector).max())


def test_best_layers_are_those_of_the_probe(store: Store, bases: Any, tmp_path: Path) -> None:
    """`--layers best` adapts the band of the newest probe of these weights, which becomes a parent."""
    asked = request(bases, layers="best")
    with pytest.raises(ZooError, match="mer-zoo probe-layers hubert-large"):
        tune(store, asked, work=tmp_path / "work")
    attrs = {"kind": "probe", "plugin": "hubert-large", "checkpoint": {}, "band": [2, 3]}
    store.runs.add("other-weights", {"x": b""}, attrs=attrs)
    from mer_plugins.host import find_extractor, make_extractor

    extractor = make_extractor(find_extractor("hubert-large"), asked.options)
    attrs |= {"checkpoint": extractor.made_by()["checkpoint"], "band": [4, 4]}
    store.runs.add("hubert-probe", {"x": b""}, attrs=attrs)
    result = tune(store, asked, work=tmp_path / "work")
    assert (result.layers, result.probe) == ((4,), "hubert-probe")
    assert "runs/hubert-probe" in store.adapters["mine"].parents
    assert store.adapters["mine"].attrs["layers"] == [3]


def test_what_cannot_be_tuned_is_refused(store: Store, bases: Any, tmp_path: Path) -> None:
    """Plugins without an encoder, with an adapter of their own, and layers no row depends on are refused."""
    for asked, message in (
        (TuneRequest(plugin="prosody", name="x"), "takes no adapter"),
        (TuneRequest(plugin="hubert-large-lora", name="x"), "tune the base: mer-zoo tune hubert-large"),
        (request(bases, layers="7"), "no block"),
        (
            replace(request(bases), options=replace(options(bases, "hubert-large"), layers="2")),
            "layers up to 2",
        ),
        (replace(request(bases), options=replace(options(bases, "hubert-large"), layers="all")), "shape"),
        (request(bases, settings=replace(QUICK, precision="float16")), "does not train in float16"),
    ):
        with pytest.raises(Exception, match=message):
            tune(store, asked, work=tmp_path / "work")
    assert not len(store.adapters)
