"""Makes the golden stores, one per backend: `python tests/golden/make.py FOLDER`.

Run once for each format version. A release must open the stores of all releases before it, so those that are
checked in are never made again.
"""

import sys
from pathlib import Path

import numpy as np

from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_featurestore.journal import Change
from mer_featurestore.maintenance import remove

CLASSES = ("neutral", "happy", "sad")
KEYS = ("dia0/utt0", "клип 1", "..🙂")


def make(folder: Path, backend: str) -> None:
    """Make a store that has every kind of thing and every kind of commit."""
    store = Store.create(folder, backend=backend)
    clips = [
        Clip(key=key, corpus="golden", split="train", speaker=f"s{i}", text=f"line {i}", duration=1.5)
        for i, key in enumerate(KEYS)
    ]
    store.clips.add(clips, command="mer-fs ingest", message="clips")
    gold = LabelLayer.human("gold", CLASSES, {KEYS[0]: "happy", KEYS[1]: "sad"})
    store.labels.add(gold)
    store.adapters.add("lora", {"card.json": b'{"rank": 8}'}, parents=("labels/gold",))
    utterances = SpaceSpec(
        name="enc-UTT", modality="audio", level="utt", row_shape=(4,), dtype="float16",
        made_by={"plugin": "enc", "version": 1}, parents=("adapters/lora",),
    )  # fmt: skip
    frames = SpaceSpec(
        name="enc-FRA", modality="video", level="frame", row_shape=(2, 3), made_by={"plugin": "enc"}
    )
    packed = SpaceSpec(
        name="zip-FRA", modality="text", level="frame", row_shape=(2,), made_by={"plugin": "zip"}
    )
    for part in (KEYS[:2], KEYS[2:]):
        with store.features.writer(utterances, frames) as writer:
            for key in part:
                i = KEYS.index(key)
                writer.add(key, np.full(4, i + 0.5), np.arange(i * 6, dtype=np.float32).reshape(i, 2, 3))
    codec = "zstd" if backend == "zarr" else "gzip"
    with store.features.writer(packed, codec=codec) as writer:
        writer.add(KEYS[0], np.ones((1000, 2)))
        writer.quarantine(KEYS[1], "no words")
    store.runs.add("agt-1", {"config.json": b'{"model": "agt"}'}, parents=("features/enc-UTT", "labels/gold"))
    round1 = LabelLayer.human("round1", CLASSES, {KEYS[2]: "neutral"}, parents=("labels/gold", "runs/agt-1"))
    store.labels.add(round1)
    store.runs.add("mistake", {"config.json": b"{}"})
    remove(store, "runs/mistake")
    store.write(lambda _: Change(quarantine={"enc-FRA": {"gone": "broken file"}}), message="quarantine")
    (folder / "tmp").rmdir()


if __name__ == "__main__":
    for backend in ("zarr", "hdf5"):
        make(Path(sys.argv[1]) / backend, backend)
