"""A small store of synthetic features with a real signal in each modality, for the tests of the zoo."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store

CLASSES = ("angry", "happy", "sad")
WIDTHS = {"audio": 6, "video": 5, "text": 4}
SPLITS = {"train": 48, "unlabeled": 30, "test": 24}


def make_store(folder: Path, *, seed: int = 0) -> Store:
    """Make a store of 102 clips of 12 speakers at both levels, and labels for train and test.

    Every clip of number 5 mod 12 lacks audio, 7 mod 12 lacks text; clip `none` of split train lacks
    everything.
    """
    rng = np.random.default_rng(seed)
    store = Store.create(folder)
    clips, label = [], {}
    for split, count in SPLITS.items():
        for i in range(count):
            key = f"{split}-{i:02d}"
            label[key] = CLASSES[int(rng.integers(3))]
            clips.append(
                Clip(key=key, split=split, speaker=f"{split}-{i % 4}", audio="a", video="v", text="t")
            )
    clips.append(Clip(key="none", split="train", speaker="train-0", audio="a"))
    store.clips.add(clips)
    add_features(store, [c.key for c in clips if c.key != "none"], label, rng)
    known = {key: label[key] for key in label if not key.startswith("unlabeled")} | {"none": "sad"}
    store.labels.add(LabelLayer.human("gold", CLASSES, known))
    return store


def add_features(store: Store, keys: Sequence[str], label: dict[str, str], rng: np.random.Generator) -> None:
    """Write the spaces `sound-UTT`, `sound-FRA`, `face-UTT` …: class means in noise, of unequal scale."""
    for modality, stem in (("audio", "sound"), ("video", "face"), ("text", "words")):
        width = WIDTHS[modality]
        means = rng.normal(0, 2, (len(CLASSES), width))
        specs = [
            SpaceSpec(
                name=f"{stem}-{suffix}", modality=modality, level=level, row_shape=(width,), made_by={"v": 1}
            )
            for suffix, level in (("UTT", "utt"), ("FRA", "frame"))
        ]
        with store.features.writer(*specs) as writer:
            for i, key in enumerate(keys):
                if (modality, i % 12) in (("audio", 5), ("text", 7)):
                    continue
                length = int(rng.integers(1, 9))
                frames = means[CLASSES.index(label[key])] + rng.normal(0, 1, (length, width))
                frames = (frames * 10.0 ** np.arange(-1, width - 1)).astype(np.float32)
                writer.add(key, frames.mean(0), frames)


@pytest.fixture(scope="session")
def toy() -> Callable[[Path], Store]:
    """Return the function that makes such a store in a folder."""
    return make_store


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store that tests only read."""
    return make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store that a test may write."""
    return make_store(tmp_path / "store")
