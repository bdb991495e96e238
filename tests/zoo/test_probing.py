"""Probing: all layers at once as one by one, the planted layer found, the band chosen and found again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.errors import FingerprintMismatch, UnknownName
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.pipeline import Request
from mer_zoo.contract import Sequences
from mer_zoo.errors import ZooError
from mer_zoo.experiments import read_experiment
from mer_zoo.models.mlp import Probe
from mer_zoo.probing import Band, Course, LayerProbe, best_band, choose_band, compare, probe, probe_layers
from mer_zoo.probing import fitting as fitting_module
from mer_zoo.probing.band import default_width
from mer_zoo.probing.data import ProbeData, collect, labelled
from mer_zoo.probing.fitting import fit_layers, fit_mix
from mer_zoo.probing.layers import read_layers
from mer_zoo.probing.mix import INPUT, LayerMix, layer_statistics
from mer_zoo.runs import find_run
from mer_zoo.settings import Settings
from mer_zoo.training import epoch_batches
from support import checkpoints

CLASSES = ("angry", "happy", "sad")
LAYERS, WIDTH, PLANTED = 5, 6, 3
MADE = {"plugin": "babble", "layers": list(range(LAYERS)), "checkpoint": {"weights_sha256": "w1"}}
QUICK, EPOCHS = Settings(batch_size=16, lr=0.02, weight_decay=0.02), 25
COURSE = Course(seeds=2, folds=3, settings=QUICK, epochs=EPOCHS, device="cpu")
# How much of the class each layer shows, beside noise of 1, and what it is multiplied with.
SHOWN, SCALE = (0.2, 0.2, 0.7, 1.5, 0.7), (1.0, 100.0, 0.01, 1.0, 1000.0)


def make_store(folder: Path, shown: tuple[float, ...] = SHOWN) -> Store:
    """Make a store of 72 labelled clips and 12 of test, 12 speakers, and `babble-layers-UTT` of 5 layers.

    The class shows in layer 3 most, and layers differ in scale by orders of magnitude; train-71 has no
    features.
    """
    rng = np.random.default_rng(0)
    store = Store.create(folder)
    keys = [f"train-{i:02d}" for i in range(72)] + [f"test-{i:02d}" for i in range(12)]
    store.clips.add(
        Clip(key=key, split=key.split("-")[0], speaker=f"s{i % 12}", audio="a") for i, key in enumerate(keys)
    )
    label = {key: CLASSES[int(rng.integers(3))] for key in keys}
    store.labels.add(LabelLayer.human("gold", CLASSES, label))
    means = rng.normal(size=(LAYERS, 3, WIDTH))
    spec = SpaceSpec(
        name="babble-layers-UTT", modality="audio", level="utt", row_shape=(LAYERS, WIDTH), made_by=MADE
    )
    one = SpaceSpec(name="planted-UTT", modality="audio", level="utt", row_shape=(WIDTH,), made_by={"v": 1})
    frames = SpaceSpec(name="planted-FRA", modality="audio", level="frame", row_shape=(WIDTH,))
    with store.features.writer(spec, one, frames) as writer:
        for key in keys:
            if key == "train-71":
                continue
            classes = means[:, CLASSES.index(label[key])] * np.array(shown)[:, None]
            rows = (classes + rng.normal(size=classes.shape)) * np.array(SCALE)[:, None] + 5
            wobble = rng.normal(size=(1, WIDTH))
            around = np.concatenate([rows[PLANTED] + wobble, rows[PLANTED] - wobble])
            writer.add(key, rows.astype(np.float32), rows[PLANTED], around)
    return store


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return such a store, to read."""
    return make_store(tmp_path_factory.mktemp("probing") / "store")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, LayerProbe]:
    """Return such a store and a probe of it."""
    store = make_store(tmp_path_factory.mktemp("probed") / "store")
    return store, run(store)


def run(store: Store, plugin: str = "babble", **options: object) -> LayerProbe:
    """Probe the layers that are there."""
    settings: dict[str, object] = {"space": "babble-layers-UTT", "course": COURSE}
    return probe_layers(store, Request(plugin=plugin), **(settings | options))  # type: ignore[arg-type]


def data_of(store: Store, course: Course = COURSE) -> ProbeData:
    """Read what probes of all layers learn from."""
    return collect(store, "babble-layers-UTT", labelled(store, None, course.split), course)


@pytest.mark.parametrize("hidden", [0, 8])
def test_all_at_once_is_one_by_one(read_only: Store, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes trained in one stack come to the logits each comes to alone; likewise the mixes."""
    course = Course(seeds=2, folds=2, hidden=hidden, settings=QUICK, epochs=8, device="cpu")
    data = data_of(read_only, course)
    together, mixed = fit_layers(data, course), fit_mix(data, course)
    monkeypatch.setattr(fitting_module, "MOST", 1)
    assert together.shape == (LAYERS, 2, 71, 3)
    np.testing.assert_allclose(together, fit_layers(data, course), atol=2e-4)
    alone = fit_mix(data, course)
    np.testing.assert_allclose(mixed.logits, alone.logits, atol=2e-4)
    np.testing.assert_allclose(mixed.share, alone.share, atol=1e-4)


def test_a_probe_is_what_a_plain_loop_trains(read_only: Store) -> None:
    """One member by hand: its part standardised, Adam with weight decay, all epochs, no clip of its fold."""
    data = data_of(read_only)
    found, fold = fit_layers(data, COURSE), data.fold[0]
    train, valid = (torch.from_numpy(np.flatnonzero(where)) for where in (fold != 1, fold == 1))
    rows, label = data.rows[:-1, PLANTED], torch.from_numpy(data.chosen.label)
    rows = (rows - rows[train].mean(0)) / rows[train].std(0, correction=0)
    seed = int(np.random.SeedSequence(0).generate_state(int(fold.max()) + 1, np.uint32)[1])
    torch.manual_seed(seed)
    linear = torch.nn.Linear(WIDTH, 3)
    adam = torch.optim.Adam(linear.parameters(), lr=QUICK.lr, weight_decay=QUICK.weight_decay)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for index, real in zip(*epoch_batches(train, QUICK.batch_size, order), strict=True):
            adam.zero_grad()
            losses = F.cross_entropy(linear(rows[index]), label[index], reduction="none")
            ((losses * real).sum() / real.sum()).backward()
            adam.step()
    expected = linear(rows[valid]).detach().numpy()
    np.testing.assert_allclose(found[PLANTED, 0, valid.numpy()], expected, atol=1e-4)


def test_the_planted_layer_is_found(probed: tuple[Store, LayerProbe]) -> None:
    """The best layer is the planted one, the band is around it, and the mix leans on it, whatever scales."""
    _, found = probed
    assert found.best == PLANTED
    assert found.band is not None
    assert found.band.first <= PLANTED <= found.band.last
    *layers, mix = found.lines
    assert [line.facts["layer"] for line in layers] == list(range(LAYERS))
    assert layers[PLANTED].uar > 0.8 > layers[0].uar + 0.1
    assert (layers[PLANTED].gain, layers[0].gain < 0) == (0, True)
    shares = [line.facts["weight"] for line in layers]
    assert int(np.argmax(shares)) == PLANTED
    assert sum(shares) == pytest.approx(1)
    assert shares[PLANTED] > 1.5 * max(shares[:PLANTED])
    assert mix.uar > layers[PLANTED].uar - 0.1
    assert all(line.seeds == 2 and line.facts["uar_std"] >= 0 for line in found.lines)
    assert any("1 labelled clip without features left out" in notice for notice in found.notices)


def test_what_is_told_is_what_is_on_record(probed: tuple[Store, LayerProbe]) -> None:
    """The record has lines, settings and figure, stands on what was read, and gives the band again."""
    store, found = probed
    bundle = store.runs[found.record]
    document = bundle.json("lines.json")
    assert document["lines"] == found.to_json()["lines"]
    assert (document["seeds"], document["folds"], document["settings"]["epochs"]) == (2, 3, 25)
    assert (bundle.attrs["kind"], bundle.attrs["plugin"]) == ("probe", "babble")
    assert bundle.attrs["checkpoint"] == MADE["checkpoint"]
    assert bundle.read("figure.png").startswith(b"\x89PNG")
    assert set(bundle.entry.parents) == {"features/babble-layers-UTT", "labels/gold"}
    assert best_band(Store.open(store.url), "babble") == found.band
    assert found.judged == "train (gold), out of fold"
    experiment, _ = read_experiment(store, found.record)
    assert experiment.lines == found.lines
    with pytest.raises(ZooError, match="is an experiment"):
        find_run(store, found.record)


def test_it_is_the_same_each_time(probed: tuple[Store, LayerProbe]) -> None:
    """Another probe of the same comes to the same, and the newest record counts."""
    store, found = probed
    again = run(store)
    assert again.lines == found.lines
    assert again.record != found.record
    assert best_band(store, "babble").run == again.record
    assert best_band(store, "babble", found.record) == found.band


def test_the_mix_is_what_its_weights_extract(read_only: Store) -> None:
    """A mix says of a clip what its probe says of the layers' weighted sum, standardised by the training."""
    rows = data_of(read_only).rows[:-1]
    train = rows[:50]
    torch.manual_seed(0)
    head = Probe({INPUT: WIDTH}, 3, layers=0, dropout=0.0)
    mix = LayerMix(layer_statistics(train), head).eval()
    with torch.no_grad():
        mix.score.copy_(torch.tensor([0.1, -0.1, 0.0, 0.2, -0.05]))
        weights = (10 * mix.score).softmax(0) / mix.spread
        summed = (rows * weights[:, None]).sum(1)
        summed = (summed - summed[:50].mean(0)) / summed[:50].std(0, correction=0)
        mask = torch.ones(len(rows), 1, dtype=torch.bool)
        expected = head({INPUT: Sequences(summed.unsqueeze(1), mask)}).logits
        found = mix({INPUT: Sequences(rows.reshape(len(rows), 1, -1), mask)}).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_line_to_type_is_the_mix(probed: tuple[Store, LayerProbe]) -> None:
    """`--layers weighted:…` has the mix's weights, for layers that are not divided by their spread."""
    from mer_plugins.layers import parse_layers

    store, found = probed
    layers = parse_layers(found.weighted, LAYERS - 1)
    assert layers.mix == "weighted"
    shares = np.array([line.facts["weight"] for line in found.lines[:-1]])
    spread = layer_statistics(data_of(store).rows[:-1])["spread"].numpy()
    raw = np.zeros(LAYERS)
    raw[list(layers.indices)] = layers.weights
    told = raw * spread / (raw * spread).sum()
    np.testing.assert_allclose(told, shares, atol=0.01)
    some = run(store, layers="0,2-3")
    assert [line.name for line in some.lines] == ["layer 0", "layer 2", "layer 3", "mix"]
    assert parse_layers(some.weighted, LAYERS - 1).indices == (0, 2, 3)


def test_test_clips_are_never_read(read_only: Store) -> None:
    """Probes learn from and are judged on the split's human labels only, in grouped folds; not on test."""
    data = data_of(read_only)
    assert all(key.startswith("train-") for key in data.chosen.keys)
    speaker = [clip.speaker for clip in data.chosen.clips]
    for fold in data.fold:
        assert all(len({k for s, k in zip(speaker, fold, strict=True) if s == who}) == 1 for who in speaker)
    assert (data.fold[0] != data.fold[1]).any()
    with pytest.raises(ZooError, match="test clips never train"):
        probe(read_only, "planted-UTT", split="test")


@pytest.mark.parametrize(
    ("uar", "alike", "most", "band"),
    [
        ((0.9, 0.5, 0.7, 0.8, 0.79, 0.6), {0, 2, 3, 4}, 6, (2, 4)),  # layer 0 is best and no block's
        ((0.1, 0.5, 0.8, 0.5, 0.79, 0.6), {2, 4}, 6, (2, 2)),  # as good, but not next to it
        ((0.1, 0.79, 0.80, 0.81, 0.80, 0.79), {1, 2, 3, 4, 5}, 3, (2, 4)),  # the highest mean
        ((0.1, 0.81, 0.80, 0.80, 0.80, 0.80), {1, 2, 3, 4, 5}, 2, (1, 2)),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), {0, 1, 2, 3, 4, 5}, 6, (1, 5)),  # all the same
    ],
)
def test_the_band(uar: tuple[float, ...], alike: set[int], most: int, band: tuple[int, int]) -> None:
    """The best block and its neighbours that are not told apart from it, no more than asked for."""
    assert choose_band(dict(enumerate(uar)), alike, most) == band


def test_the_band_of_few_layers() -> None:
    """A gap in what was probed ends a band; without a block there is none; a quarter of blocks is usual."""
    assert choose_band({1: 0.8, 2: 0.8, 4: 0.8}, {1, 2, 4}, 6) == (1, 2)
    assert choose_band({0: 0.8}, {0}, 6) is None
    assert [default_width(blocks) for blocks in (4, 12, 24)] == [2, 3, 6]
    assert [str(Band(2, 4, "r")), str(Band(2, 2, "r"))] == ["2-4", "2"]
    with pytest.raises(ZooError, match="at most 0 layers"):
        choose_band({1: 0.8}, {1}, 0)


def test_the_band_when_the_input_is_best(tmp_path: Path) -> None:
    """Where layer 0 is best, blocks are compared with the best block for the band."""
    store = make_store(tmp_path / "store", shown=(2.0, 0.1, 0.1, 1.0, 1.0))
    found = run(store, mix=False)
    assert found.best == 0
    assert found.band is not None
    assert {found.band.first, found.band.last} <= {3, 4}
    assert best_band(store, "babble") == found.band


def test_a_band_that_nobody_probed(read_only: Store, probed: tuple[Store, LayerProbe]) -> None:
    """No probe, one of another plugin or of other weights, no such record: each with what to type."""
    with pytest.raises(ZooError, match="no probe of 'hubert-large' is on record") as error:
        best_band(read_only, "hubert-large")
    assert "mer-zoo probe-layers hubert-large" in error.value.remedy
    store, found = probed
    with pytest.raises(ZooError, match="did you mean 'babble'"):
        best_band(store, "bable")
    assert best_band(store, "babble", checkpoint={"weights_sha256": "w1", "model": "elsewhere"}).first >= 1
    with pytest.raises(ZooError, match="with these weights"):
        best_band(store, "babble", checkpoint={"weights_sha256": "w2"})
    with pytest.raises(ZooError, match="probed babble, not hubert-large"):
        best_band(store, "hubert-large", found.record)
    with pytest.raises(UnknownName, match="no probe named 'prob-1'"):
        best_band(store, "babble", "prob-1")


def test_only_the_input_was_probed(tmp_path: Path) -> None:
    """A probe of layer 0 alone has no band, and says so when one is asked for; nor is there a mix."""
    store = make_store(tmp_path / "store")
    found = run(store, layers="0")
    assert (found.band, found.weighted, len(found.lines)) == (None, "", 1)
    with pytest.raises(ZooError, match="probed no block"):
        best_band(store, "babble")


def test_a_run_is_no_probe(store: Store) -> None:
    """A training named as a probe is refused by what it is."""
    from mer_zoo.train import train

    train(store, "logreg", features=["sound-UTT"], folds=2, settings=Settings(epochs=1), name="r")
    with pytest.raises(ZooError, match="'r' is no probe of layers"):
        best_band(store, "babble", "r")


def test_layers_that_are_not_there(read_only: Store) -> None:
    """What cannot be probed is refused: other layers, another extractor's space, one without layers."""
    assert read_layers("0,2-3", range(5)) == (0, 2, 3)
    for wrong in ("7", "3-9", "x", "3-2", ""):
        with pytest.raises(UnknownName, match="layers 0 to 4"):
            read_layers(wrong, range(5))
    with pytest.raises(ZooError, match="was made by babble, not by hubert-large"):
        run(read_only, plugin="hubert-large")
    with pytest.raises(ZooError, match="keeps no layers apart"):
        run(read_only, space="planted-FRA")
    with pytest.raises(UnknownName, match="babble-layers-UTT"):
        run(read_only, space="babble-layer-UTT")


def test_one_space_alone(read_only: Store) -> None:
    """A space's probe is that layer's probe; frames are averaged first; nothing is written."""
    before = read_only.commit
    options = {"seeds": 2, "folds": 3, "settings": QUICK, "epochs": EPOCHS, "device": "cpu"}
    whole = probe(read_only, "planted-UTT", **options)
    layer = probe(read_only, f"babble-layers-UTT:{PLANTED}", **options)
    frames = probe(read_only, "planted-FRA", **options)
    assert (whole.label == layer.label).all()
    assert (whole.said == layer.said).all()
    assert (frames.said == whole.said).mean() > 0.98  # halves in float16 beside each other
    assert (whole.n, whole.seeds, whole.folds, whole.said.shape) == (71, 2, 3, (2, 71))
    assert whole.waf_interval.low < whole.waf < whole.waf_interval.high
    assert whole.to_json()["uar"] == [whole.uar, *whole.uar_interval]
    assert read_only.commit == before
    with pytest.raises(ZooError, match="keeps 5 layers apart, and one is probed"):
        probe(read_only, "babble-layers-UTT", **options)
    with pytest.raises(ZooError, match="has no layer '9'"):
        probe(read_only, "babble-layers-UTT:9", **options)


def test_before_and_after(read_only: Store) -> None:
    """Two probes are compared on the clips both decided about, with a paired interval of the difference."""
    options = {"seeds": 1, "folds": 3, "settings": QUICK, "epochs": EPOCHS, "device": "cpu"}
    weak = probe(read_only, "babble-layers-UTT:0", **options)
    strong = probe(read_only, "planted-UTT", keys=[f"train-{i:02d}" for i in range(60)], **options)
    before, after = compare(weak, strong)
    assert after.gain == pytest.approx(after.waf - before.waf)
    assert after.gain_interval.low > 0
    assert strong.n == 60
    with pytest.raises(ZooError, match="none of the clips given"):
        probe(read_only, "planted-UTT", keys=["test-00"], **options)


def test_extracts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers of the labelled clips are extracted where they are missing; the next probe loads nothing."""
    store = Store.create(tmp_path / "store")
    text = ["i am so happy today !", "no", "was ist denn", "i am no happy", "today ?", "so so", "am i", "! ?"]
    store.clips.add(
        Clip(key=f"c{i}", split="train" if i < 6 else "unlabeled", speaker=f"s{i}", text=words)
        for i, words in enumerate(text)
    )
    store.labels.add(LabelLayer.human("gold", ("a", "b"), {f"c{i}": "ab"[i % 2] for i in range(6)}))
    model = str(checkpoints.bert(tmp_path / "bert"))
    request = Request(plugin="hf-text", options=Options(model=model, device="cpu"))
    course = Course(seeds=1, folds=2, epochs=2, device="cpu")
    first = probe_layers(store, request, course=course)
    assert first.space == "hf-text-layers-UTT"
    assert sorted(store.features[first.space].keys()) == [f"c{i}" for i in range(6)]
    assert store.features[first.space].spec.row_shape == (4, 8)
    monkeypatch.setattr("mer_plugins.pipeline.extract", _refuse)
    monkeypatch.setattr("mer_zoo.probing.extraction.extract", _refuse)
    again = probe_layers(store, request, course=course)
    assert again.lines == first.lines
    other = Request(plugin="hf-text", options=Options(model=model, extra={"pool": "max"}))
    with pytest.raises(FingerprintMismatch):
        probe_layers(store, other, course=course)
    with pytest.raises(PluginError, match="has no layers to choose from"):
        probe_layers(store, Request(plugin="char-ngrams"), course=course)


def _refuse(*_args: object, **_options: object) -> None:
    raise AssertionError("nothing is to be extracted")


def test_enough_steps() -> None:
    """Unless said, training takes 600 steps, whatever the number of clips, and at least 10 epochs."""
    course = Course(settings=Settings(batch_size=64))
    assert [course.training(n).epochs for n in (30, 535, 5030, 100_000)] == [600, 67, 10, 10]
    assert Course(epochs=7).training(535).epochs == 7


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"hidden": -1}, {"epochs": 0}])
def test_courses_that_lead_nowhere(wrong: dict[str, int]) -> None:
    """No seed and less than no hidden unit are refused."""
    with pytest.raises(ZooError):
        Course(**wrong)


def test_progress_is_told(read_only: Store) -> None:
    """Epochs done grow to those in all."""
    told: list[tuple[int, int]] = []
    fit_layers(data_of(read_only), COURSE, lambda done, total: told.append((done, total)))
    assert told == [(epoch, 25) for epoch in range(1, 26)]
