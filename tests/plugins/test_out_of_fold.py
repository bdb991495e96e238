"""Extraction with adapters of several folds: no clip's features come from weights that saw its label."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mer_featurestore import Clip, LabelLayer, Store
from mer_featurestore.errors import Damaged, FingerprintMismatch, UnknownName
from mer_plugins import adapters
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.oof import OutOfFold, Sorted
from mer_plugins.pipeline import How, Request, extract, plan
from mer_plugins.samples import voice, write_wav
from mer_plugins.workers import extract_in_processes
from support import adapting

# peft asks transformers for something under a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
LABELLED = [f"k{k}" for k in range(6)]
FOLDS = {key: k % 3 for k, key in enumerate(LABELLED)}
OTHER = ["k6", "k7"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of eight voices, six of them labelled."""
    store = Store.create(tmp_path / "voices")
    waves = [str(write_wav(tmp_path / f"{k}.wav", voice(0.3 + k / 20))) for k in range(8)]
    store.clips.add(Clip(key=f"k{k}", audio=wave) for k, wave in enumerate(waves))
    store.labels.add(LabelLayer.human("gold", ("happy", "sad"), dict.fromkeys(LABELLED, "sad")))
    return store


def request(model: Path, adapter: Path | str = "", **more: Any) -> Request:
    """Return what is wanted: layer 3 of every clip, utterance and frames, not rounded."""
    said = {"name": "x", "levels": ("utt", "frame"), "dtype": "float32"} | more
    options = Options(model=str(model), layers="3", device="cpu", others=said.pop("others", None))
    return Request(plugin="hf-audio", options=options, adapter=str(adapter), **said)


def done(store: Store, wanted: Request, **how: Any) -> dict[str, Any]:
    """Extract and return clip -> utterance row."""
    extract(store, plan(store, wanted), How(**how))
    space = store.features[f"{wanted.name}-UTT"]
    return {key: space[key][0] for key in sorted(space.keys())}


def marked(tmp_path: Path, model: Path, **more: Any) -> Path:
    """Return an adapter whose weights show which labels they have seen."""
    return adapting.marked_folds(tmp_path / "folds", model, FOLDS, LABELLED, **more)


def lora(
    folder: Path, model: Path, seeds: dict[str, int], targets: list[str] | None = None, **how: Any
) -> Path:
    """Write LoRA weights per subfolder (`.` is the adapter's own), each different."""
    for where, seed in seeds.items():
        net = transformers.AutoModel.from_pretrained(model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = peft.LoraConfig(r=2, target_modules=targets or ["q_proj", "v_proj"], **how)
            tuned = peft.get_peft_model(net, config)
            for weight in tuned.parameters():
                if weight.requires_grad:
                    weight.data += torch.randn(weight.shape) * 0.3
        tuned.save_pretrained(folder / where)
    if not (folder / "adapter_config.json").exists():
        (folder / "adapter_config.json").write_bytes((folder / "fold-0" / "adapter_config.json").read_bytes())
    return folder


def assign(folder: Path, folds: dict[str, int]) -> None:
    """Write a card that assigns clips to folds."""
    training = {"labels": "gold", "keys": sorted(folds), "folds": folds}
    (folder / "card.json").write_text(json.dumps({"training": training}))


@pytest.mark.parametrize("everything", [False, True])
def test_no_clip_sees_its_own_label(everything: bool, base: Callable, store: Store, tmp_path: Path) -> None:
    """Each label a fold's weights have seen marks the features: no labelled clip bears its own mark.

    And it bears those of all clips of the other folds, so that the marks do show. Clips in no fold have the
    mean of the folds, or all marks where there are weights trained on all data.
    """
    model = base("hubert-large")
    adapter = adapters.add(store, marked(tmp_path, model, everything=everything), "folds").name
    plain = done(store, request(model, name="plain"))
    found = done(store, request(model, adapter), batch=2.0, commit_every=3)
    frames = store.features["x-FRA"]
    for key in plain:
        bears = (found[key] - plain[key])[: len(LABELLED)] / adapting.MARK
        if key in FOLDS:
            unseen = [other for other in LABELLED if FOLDS[other] == FOLDS[key]]
            assert key in unseen
            expected = [0.0 if other in unseen else 1.0 for other in LABELLED]
        else:
            expected = [1.0 if everything else 2 / 3] * len(LABELLED)
        assert np.allclose(bears, expected, atol=1e-4), key
        own = frames[key][:, : len(LABELLED)] - store.features["plain-FRA"][key][:, : len(LABELLED)]
        assert np.allclose(own / adapting.MARK, [expected] * len(own), atol=1e-4)
    made = store.features["x-UTT"].spec.made_by["adapter"]["folds"]
    assert made["others"] == ("all" if everything else "mean")
    assert store.features["x-UTT"].spec.parents == ("adapters/folds",)
    assert store.adapters["folds"].parents == ("labels/gold",)


def test_others_as_asked(base: Callable, store: Store, tmp_path: Path) -> None:
    """`mean` is the mean of the folds although there are all-data weights; it is another fingerprint."""
    model = base("hubert-large")
    folder = marked(tmp_path, model, everything=True)
    plain = done(store, request(model, name="plain"))
    found = done(store, request(model, folder, others="mean"))
    for key in OTHER:
        assert np.allclose((found[key] - plain[key])[:6] / adapting.MARK, 2 / 3, atol=1e-4)
    by_default, by_name = (
        plan(store, request(model, folder, name=name, others=others)).specs[0]
        for name, others in (("y", None), ("z", "all"))
    )
    assert by_default.fingerprint == by_name.fingerprint
    assert by_default.fingerprint != store.features["x-UTT"].fingerprint
    with pytest.raises(UnknownName, match=r"'men'.*did you mean 'mean'"):
        plan(store, request(model, folder, others="men"))
    (folder / WEIGHTS).unlink()
    with pytest.raises(PluginError, match="no weights trained on all data; say --others mean"):
        plan(store, request(model, folder, others="all"))


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "some blocks": {"layers_to_transform": [1, 2], "layers_pattern": "layers"},
    "norms too": {"modules_to_save": ["final_layer_norm"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_beside_the_weights_as_merged(kind: str, base: Callable, store: Store, tmp_path: Path) -> None:
    """With peft's adapters each clip has the features of its fold's adapter alone, which is merged."""
    model = base("hubert-large")
    where = {"fold-0": 1, "fold-1": 2, "fold-2": 3, ".": 4}
    folder = lora(tmp_path / "a", model, where, **KINDS[kind])
    assign(folder, FOLDS)
    found = done(store, request(model, folder))
    (tmp_path / "all").mkdir()
    for file in ("adapter_config.json", WEIGHTS):
        (tmp_path / "all" / file).write_bytes((folder / file).read_bytes())
    folders = {name: folder / name for name in where} | {".": tmp_path / "all"}
    alone = {name: done(store, request(model, one, name=f"y{where[name]}")) for name, one in folders.items()}
    for key, row in found.items():
        own = f"fold-{FOLDS[key]}" if key in FOLDS else "."
        scale = np.abs(row).max()
        assert np.abs(row - alone[own][key]).max() <= 1e-5 * scale
        others = [name for name in where if name != own]
        assert all(np.abs(row - alone[name][key]).max() > 1e-3 * scale for name in others)


def test_replaced_tensors_by_fold(base: Callable, store: Store, tmp_path: Path) -> None:
    """Whole tensors are exchanged as well; others have the mean of what the folds give."""
    model = base("hubert-large")
    name = "encoder.layers.2.feed_forward.output_dense.weight"
    for k in range(3):
        adapters.write_config(
            tmp_path / "a" / f"fold-{k}", peft_type="WEIGHTS", base=adapters.locate(str(model))
        )
        save_file({name: torch.full((32, 48), 0.1 * (k + 1))}, tmp_path / "a" / f"fold-{k}" / WEIGHTS)
    (tmp_path / "a/fold-0/adapter_config.json").rename(tmp_path / "a/adapter_config.json")
    assign(tmp_path / "a", FOLDS)
    found = done(store, request(model, tmp_path / "a"))
    (tmp_path / "a/fold-0/adapter_config.json").write_bytes((tmp_path / "a/adapter_config.json").read_bytes())
    alone = [done(store, request(model, tmp_path / "a" / f"fold-{k}", name=f"y{k}")) for k in range(3)]
    for key, row in found.items():
        expected = alone[FOLDS[key]][key] if key in FOLDS else np.mean([rows[key] for rows in alone], axis=0)
        assert np.allclose(row, expected, atol=1e-5 * np.abs(row).max())


def test_whatever_the_batch(base: Callable, store: Store, tmp_path: Path) -> None:
    """Clips of all folds and of none in one batch, in any order, have the features they have alone."""
    options = Options(
        model=str(base("hubert-large")),
        device="cpu",
        adapter=adapters.read_folder(marked(tmp_path, base("hubert-large"))),
    )
    extractor = make_extractor(find_extractor("hf-audio"), options)
    assert isinstance(extractor, OutOfFold)
    clips = list(store.clips.values())
    assert [FOLDS.get(clip.key) for clip in extractor.arrange(clips)] == [0, 0, 1, 1, 2, 2, None, None]
    extractor.load()
    inputs = [extractor.prepare(clip) for clip in clips]
    assert [value.fold for value in inputs] == [0, 1, 2, 0, 1, 2, None, None]
    assert all(isinstance(value, Sorted) and extractor.cost(value) > 0 for value in inputs)
    alone = [extractor.encode([value])[0] for value in inputs]
    for order in (range(8), [7, 1, 3, 0, 6, 5, 2, 4]):
        together = extractor.encode([inputs[i] for i in order])
        assert all(np.array_equal(rows, alone[i]) for i, rows in zip(order, together, strict=True))
    extractor.close()
    with pytest.raises(PluginError, match="load it first"):
        extractor.encode(inputs)


def test_resumed_is_as_uninterrupted(base: Callable, store: Store, tmp_path: Path) -> None:
    """Extracted piece by piece, past a broken clip that is mended, all rows are those of one run."""
    model = base("hubert-large")
    adapter = adapters.add(store, marked(tmp_path, model), "folds").name
    once = Store.create(tmp_path / "once")
    once.clips.add(store.clips.values())
    expected = done(once, request(model, tmp_path / "folds"))
    mended = (tmp_path / "4.wav").read_bytes()
    (tmp_path / "4.wav").write_bytes(b"")
    done(store, request(model, adapter, keys=("k7", "k1", "k4")))
    assert list(store.features.quarantine("x-UTT")) == ["k4"]
    done(store, request(model, adapter))
    (tmp_path / "4.wav").write_bytes(mended)
    found = done(store, request(model, adapter, retry_failed=True))
    assert found.keys() == expected.keys()
    assert all(found[key].tobytes() == expected[key].tobytes() for key in expected)


def test_in_two_processes(
    base: Callable, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes keep to the folds, to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = base("hubert-large")
    adapters.add(store, marked(tmp_path, model), "folds")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = done(store, request(model, "folds", name="one"))
    torch.set_num_threads(threads)
    two = request(model, "folds", name="two")
    assert extract_in_processes(store, two, ("cpu", "cpu")).done == 8
    space = store.features["two-UTT"]
    assert all(space[key].tobytes() == row.tobytes() for key, row in one.items())


def test_the_fingerprint_knows_the_folds(base: Callable, store: Store, tmp_path: Path) -> None:
    """Another assignment, or other weights in any one fold, is another fingerprint and another space."""
    model = base("hubert-large")
    folder = marked(tmp_path, model)
    done(store, request(model, folder))
    seen = {store.features["x-UTT"].fingerprint}

    def fingerprint() -> str:
        return plan(store, request(model, folder, name="new")).specs[0].fingerprint

    assert fingerprint() in seen
    assign(folder, FOLDS | {"k0": 1})
    seen.add(fingerprint())
    assign(folder, FOLDS)
    assert fingerprint() == store.features["x-UTT"].fingerprint
    file = folder / "fold-2" / WEIGHTS
    save_file({key: tensor + 1 for key, tensor in load_file(file).items()}, file)
    seen.add(fingerprint())
    assert len(seen) == 3
    with pytest.raises(FingerprintMismatch):
        plan(store, request(model, folder))


def _pickled(folder: Path) -> None:
    (folder / "fold-1" / WEIGHTS).rename(folder / "fold-1" / "adapter_model.bin")


def _other_shapes(folder: Path) -> None:
    save_file(adapting.mark(1) | {"blocks.2.up.bias": torch.ones(3)}, folder / "fold-1" / WEIGHTS)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a fold short": (lambda f: (f / "fold-1" / WEIGHTS).unlink(), r"has fold-2 and no fold-1/adapter_model"),
    "pickled": (_pickled, "no fold-1/.*, only a pickled one, which could run code"),
    "no card": (lambda f: (f / "card.json").unlink(), "has 3 folds, and nothing says which clips"),
    "too few": (lambda f: assign(f, FOLDS | {"k0": 3}), "has folds 0 to 2, and assigns 'k0' to fold 3"),
    "no number": (lambda f: assign(f, {"k0": "a"}), "does not say properly"),  # type: ignore[dict-item]  # the fault
    "other shapes": (_other_shapes, r"not of one configuration: blocks.2.up.bias differ"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_set_of_folds(fault: str, base: Callable, store: Store, tmp_path: Path) -> None:
    """A gap, pickled weights, no assignment, one to a fold that is not there, other shapes: refused."""
    folder = marked(tmp_path, base("hubert-large"))
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(PluginError, match=message):
        adapters.add(store, folder, "x")
    assert not store.adapters


def test_folds_without_weights(base: Callable, store: Store, tmp_path: Path) -> None:
    """An assignment without weights of folds is refused; a damaged fold in the store is noticed."""
    model = base("hubert-large")
    plain = adapting.bottlenecks(tmp_path / "a", model, adapting.mark(1))
    assign(plain, FOLDS)
    with pytest.raises(PluginError, match="assigns 6 clips to folds, and there are no weights of folds"):
        adapters.add(store, plain, "x")
    bundle = adapters.add(store, marked(tmp_path, model), "folds")
    assert bundle.attrs["folds"] == 3
    bundle.path(f"fold-1/{WEIGHTS}").write_bytes(b"x")
    with pytest.raises(Damaged, match="fold-1"):
        adapters.find(store, "folds")


def test_folds_survive_export(base: Callable, store: Store, tmp_path: Path) -> None:
    """Exported and added to another store, folds, assignment and fingerprint are the same."""
    bundle = adapters.add(store, marked(tmp_path, base("hubert-large")), "folds")
    adapters.export(store, "folds", tmp_path / "out")
    again = adapters.add(Store.create(tmp_path / "other"), tmp_path / "out", "again")
    assert again.json("card.json") == bundle.json("card.json")
    assert again.parents == ()
    assert adapters.of_bundle(again).made_by == adapters.of_bundle(bundle).made_by


def test_folds_in_any_store(any_url: str, base: Callable, store: Store, tmp_path: Path) -> None:
    """In a folder and on S3 an adapter with folds is the same adapter, and extracts the same rows."""
    folder = marked(tmp_path, base("hubert-large"))
    adapting.projection(folder, 32, 5)
    there = Store.create(any_url)
    there.clips.add(store.clips.values())
    adapters.add(there, folder, "folds")
    found = adapters.find(Store.open(any_url), "folds")
    assert found.made_by == adapters.read_folder(folder).made_by
    rows = done(there, request(base("hubert-large"), "folds", keys=("k0", "k6")))
    expected = done(store, request(base("hubert-large"), folder, keys=("k0", "k6")))
    assert all(rows[key].tobytes() == row.tobytes() for key, row in expected.items())


@pytest.mark.parametrize("targets", [["q_proj", "out_proj"], ["output_dense"]])
def test_wavlm(targets: list[str], base: Callable, store: Store, tmp_path: Path) -> None:
    """WavLM's attention, whose code goes past its modules, takes folds all the same, as if merged."""
    model = base("wavlm-large")
    lora(tmp_path / "b", model, {"fold-0": 1, "fold-1": 2}, targets)
    assign(tmp_path / "b", {"k0": 0, "k1": 1})
    found = done(store, request(model, tmp_path / "b", keys=("k0", "k1")))
    plain = done(store, request(model, name="plain", keys=("k0", "k1")))
    for key, name in (("k0", "fold-0"), ("k1", "fold-1")):
        alone = done(store, request(model, tmp_path / "b" / name, name=name, keys=("k0", "k1")))
        assert not np.allclose(found[key], plain[key], atol=1e-2 * np.abs(plain[key]).max())
        assert np.allclose(found[key], alone[key], atol=1e-5 * np.abs(alone[key]).max())


@pytest.mark.parametrize(
    ("card", "name"),
    [("clip-vit-large", "clip-vit-large"), ("llama2-7b", "llama2-7b"), ("whisper", "whisper")],
)
def test_other_families(card: str, name: str, base: Callable, tmp_path: Path) -> None:
    """Frames, transcripts and Whisper's encoder take the weights of their folds as well."""
    from mer_plugins.samples import sample_clips

    model = base(name)
    folder = lora(tmp_path / "a", model, {"fold-0": 1, "fold-1": 2})
    found = find_extractor(card)
    clips = sample_clips(tmp_path, found.modality)[:3]
    assign(folder, {clips[0].key: 0, clips[1].key: 1})
    given: dict[str, Any] = {"model": str(model), "device": "cpu"}
    given["extra"] = {"face": "none"} if found.modality == "video" else {}
    whole = make_extractor(found, Options(adapter=adapters.read_folder(folder), **given))
    whole.load()
    rows = whole.encode([whole.prepare(clip) for clip in clips])
    alone = []
    for k in range(2):
        one = make_extractor(found, Options(adapter=adapters.read_folder(folder / f"fold-{k}"), **given))
        one.load()
        alone.append(one.encode([one.prepare(clip) for clip in clips]))
    expected = [alone[0][0], alone[1][1], (alone[0][2] + alone[1][2]) / 2]
    for ours, theirs in zip(rows, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1e-3 * np.abs(alone[0][0]).max()
