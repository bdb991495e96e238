"""Generated utterance features with classes that can be learned, in a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store

if TYPE_CHECKING:
    from mer_featurestore.records import Modality

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
COUNTS = (1248, 1208, 1038, 730, 616, 190)  # of the labelled clips of MER2024
WIDTHS = {"audio": 1024, "video": 768, "text": 5120}
_DISTANCE, _WRONG = 2.2, 0.12  # of class means from zero in deviations; share of labels that are noise


def generate(
    clips: int, widths: Mapping[str, int] = WIDTHS, *, frames: int = 1
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return features `[n, T, D]` per modality and labels `[n]`: class means and noise, some labels wrong."""
    random = np.random.default_rng(0)
    share = np.array(COUNTS) / sum(COUNTS)
    label = np.repeat(np.arange(len(CLASSES)), np.round(share * clips + 0.5).astype(int))
    label = random.permutation(label)[:clips]
    features = {}
    for name, width in widths.items():
        means = random.normal(size=(len(CLASSES), 1, width)) * (_DISTANCE / width**0.5)
        noise = random.standard_normal((clips, frames, width), np.float32)
        features[name] = noise + means[label].astype(np.float32) * (1 if frames == 1 else 0.3)
    wrong = random.random(clips) < _WRONG
    label[wrong] = random.choice(len(CLASSES), wrong.sum(), p=share)
    return features, label


def make_store(
    folder: Path, clips: int, widths: Mapping[str, int] = WIDTHS, *, frames: int = 1
) -> tuple[Store, dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Write generated features to a new store: spaces `x-<modality>`, labels `gold`, all clips in `train`.

    Returns:
        The store, and the features and labels in the order of its keys.
    """
    features, label = generate(clips, widths, frames=frames)
    keys = [f"clip{i:07d}" for i in range(clips)]
    store = Store.create(folder)
    store.clips.add([Clip(key=key, split="train") for key in keys])
    level = "UTT" if frames == 1 else "FRA"
    for name, array in features.items():
        with store.features.writer(_spec(f"x{name}-{level}", name, array.shape[2])) as writer:
            for key, rows in zip(keys, array, strict=True):
                writer.add(key, rows)
    classes = dict(zip(keys, (CLASSES[i] for i in label), strict=True))
    store.labels.add(LabelLayer.human("gold", CLASSES, classes))
    return store, features, label


def _spec(name: str, modality: str, width: int) -> SpaceSpec:
    return SpaceSpec(
        name=name,
        modality=cast("Modality", modality),
        level="utt" if name.endswith("UTT") else "frame",
        row_shape=(width,),
        dtype="float32",
        made_by={"plugin": "benchmark"},
    )
