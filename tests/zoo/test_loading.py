"""Frame-level features as torch batches: map-style and streamed, in this process and in forked workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mer_featurestore import Store
from mer_zoo.loading import FeatureDataset, FeatureStream, Loaded, collate
from support.features import Clips, make_clips, make_spec, write

Filled = tuple[dict[str, Any], list[str], dict[str, Clips]]


@pytest.fixture(params=["zarr", "hdf5"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    """Return two spaces of 60 clips each, 20 of them in one only, all keys mixed, and the values."""
    store = Store.create(tmp_path / "s", backend=request.param)
    specs = {"audio": make_spec("a-FRA"), "video": make_spec("v-FRA", row_shape=(3,), dtype="float32")}
    values = {m: make_clips(60, spec, first=20 * i) for i, (m, spec) in enumerate(specs.items())}
    for modality, spec in specs.items():
        keys = list(values[modality])
        for part in (keys[:25], keys[25:]):
            write(store, spec, {key: values[modality][key] for key in part})
    every = sorted({*values["audio"], *values["video"]})
    keys = [every[i] for i in np.random.default_rng(1).permutation(len(every))]
    return {m: store.features[spec.name] for m, spec in specs.items()}, keys, values


def check(batch: Loaded, filled: Filled, max_len: int | None = None) -> None:
    """Compare a batch with the values, clip by clip."""
    spaces, keys, values = filled
    assert list(batch.features) == list(spaces)
    for modality, (features, mask) in batch.features.items():
        assert features.dtype == torch.float32
        for row, position in enumerate(batch.positions.tolist()):
            shape = (0, *spaces[modality].spec.row_shape)
            expected = values[modality].get(keys[position], np.empty(shape))[:max_len]
            assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
            np.testing.assert_array_equal(features[row, : len(expected)].numpy(), expected)
            assert not features[row, len(expected) :].any()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("max_len", [None, 3])
def test_batches_by_key(filled: Filled, workers: int, max_len: int | None) -> None:
    """Every clip once, in batches with the right values and masks, also from forked workers."""
    spaces, keys, _ = filled
    dataset = FeatureDataset(spaces, keys, max_len=max_len)
    assert len(dataset) == len(keys)
    dataset[0]  # the parent reads first
    loader = DataLoader(
        dataset,
        batch_size=7,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        timeout=30 * bool(workers),
    )
    batches = list(loader)
    for batch in batches:
        check(batch, filled, max_len)
    assert sorted(torch.cat([b.positions for b in batches]).tolist()) == list(range(len(keys)))


def test_items_and_batches_agree(filled: Filled) -> None:
    """Single clips collated are the batch that is read at once."""
    spaces, keys, _ = filled
    dataset = FeatureDataset(spaces, keys, max_len=5)
    one, other = collate([dataset[i] for i in (3, 0, 9)]), dataset.__getitems__([3, 0, 9])
    for modality in spaces:
        for a, b in zip(one.features[modality], other.features[modality], strict=True):
            assert torch.equal(a, b)
    again = dataset.__getitems__([1, 2])
    check(other, filled, 5)  # a later batch does not overwrite an earlier one
    check(again, filled, 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches(filled: Filled, workers: int) -> None:
    """Every clip once an epoch, in another order each time, however small the buffer."""
    spaces, keys, _ = filled
    for space in spaces.values():
        space.read(space.keys()[:3])
    stream = FeatureStream(spaces, keys, batch_size=8, memory_bytes=2000, block_bytes=300)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, timeout=30 * bool(workers))
    epochs = []
    for _ in range(2):
        batches = list(loader)
        for batch in batches:
            check(batch, filled)
        epochs.append(torch.cat([b.positions for b in batches]).tolist())
        assert sorted(epochs[-1]) == list(range(len(keys)))
    assert epochs[0] != epochs[1]


def test_a_stream_is_repeatable_and_mixes(filled: Filled) -> None:
    """A seed fixes the orders of all epochs; clips that lie together end up in different batches."""
    spaces, keys, _ = filled

    def orders(seed: int) -> list[list[int]]:
        stream = FeatureStream(spaces, keys, batch_size=8, block_bytes=300, seed=seed)
        return [torch.cat([b.positions for b in stream]).tolist() for _ in range(2)]

    assert orders(3) == orders(3)
    assert orders(3) != orders(4)
    order = orders(3)[0]
    places = spaces["audio"].index.find([keys[i] for i in order])
    neighbours = np.abs(np.diff(places)) == 1
    assert neighbours.mean() < 0.2


def test_a_stream_holds_no_more_than_its_buffer(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are read only when the buffer has room again."""
    spaces, keys, values = filled
    sizes = {key: sum(values[m][key].nbytes if key in values[m] else 0 for m in values) for key in keys}
    stream, loaded, given = FeatureStream(spaces, keys, batch_size=4, memory_bytes=800, block_bytes=200), 0, 0
    load = stream._load

    def counted(block: Any) -> Any:
        nonlocal loaded
        items = load(block)
        loaded += sum(sizes[keys[item.position]] for item in items)
        return items

    monkeypatch.setattr(stream, "_load", counted)
    for batch in stream:
        given += sum(sizes[keys[i]] for i in batch.positions.tolist())
        assert loaded - given <= 800 + 200 + max(sizes.values())


def test_drop_last_and_nothing(filled: Filled) -> None:
    """The last batch is left out when asked for; no keys make no batches."""
    spaces, keys, _ = filled
    stream = FeatureStream(spaces, keys, batch_size=16, drop_last=True)
    assert {len(b.positions) for b in stream} == {16}
    assert list(FeatureStream(spaces, [])) == []
