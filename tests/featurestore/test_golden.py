"""Stores of every format version ever released open, read and can be appended to, for ever."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.lineage import ancestors
from mer_featurestore.maintenance import verify

GOLDEN = Path(__file__).parents[1] / "golden"
STORES = sorted(path.parent for path in GOLDEN.glob("*/*/store.json"))
KEYS = ["dia0/utt0", "клип 1", "..🙂"]


def test_both_backends_are_there():
    """Version 1 is checked in for both backends."""
    assert [str(path.relative_to(GOLDEN)) for path in STORES][:2] == ["v1/hdf5", "v1/zarr"]


@pytest.mark.parametrize("path", STORES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_everything_in_it_reads(path):
    """Clips, features (packed, padded, compressed), labels, runs, quarantine and the past are as written."""
    store = Store.open(path)
    assert list(store.clips) == KEYS
    assert (store.clips[KEYS[1]].speaker, store.clips[KEYS[1]].duration) == ("s1", 1.5)
    assert store.features["enc-UTT"].matrix(KEYS).tolist() == [[0.5] * 4, [1.5] * 4, [2.5] * 4]
    assert store.features["enc-UTT"].dtype == np.float16
    ragged = store.features["enc-FRA"].read(KEYS[::-1])
    assert ragged.lengths.tolist() == [2, 1, 0]
    assert np.array_equal(ragged[0].ravel(), np.arange(12))
    assert store.features["zip-FRA"][KEYS[0]].sum() == 2000
    assert store.features.quarantine("zip-FRA") == {KEYS[1]: "no words"}
    assert store.features.quarantine("enc-FRA") == {"gone": "broken file"}
    assert {key: store.labels["gold"][key] for key in KEYS[:2]} == {KEYS[0]: "happy", KEYS[1]: "sad"}
    assert len(store.labels.resolve("round1").keys) == 3
    assert store.runs["agt-1"].json("config.json") == {"model": "agt"}
    assert "adapters/lora" in ancestors(store.snapshot, "round1")
    assert list(store.runs) == ["agt-1"]
    assert list(Store.open(path, at=store.commit - 2).runs) == ["agt-1", "mistake"]
    assert len(list(store.log())) == store.commit


@pytest.mark.parametrize("path", STORES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_it_verifies_and_takes_more(path, tmp_path):
    """All checksums and shapes fit, the fingerprint is still the same, and a copy can be appended to."""
    assert verify(Store.open(path)).problems == []
    shutil.copytree(path, tmp_path / "copy")
    store = Store.open(tmp_path / "copy")
    with store.features.writer(store.features["enc-UTT"].spec) as writer:
        writer.add("new", np.zeros(4))
    assert store.features["enc-UTT"].keys() == [*KEYS, "new"]
    assert verify(store).problems == []
