"""Features in memory, and the choice of spaces."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_featurestore import Ragged, SpaceSpec, Store
from mer_featurestore.errors import FingerprintMismatch, UnknownName
from mer_zoo.data import Table, load_features, pool, thin
from mer_zoo.errors import ZooError
from mer_zoo.registry import find_model
from mer_zoo.spaces import Inputs, choose, guard


def table(lengths: list[int], width: int = 3, seed: int = 0) -> tuple[Table, list[np.ndarray]]:
    """Return a table of clips of given lengths, and the same as arrays."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]
    there = np.array([i for i, n in enumerate(lengths) if n], np.int64)
    packed = Ragged.pack([arrays[i] for i in there], np.float32, (width,))
    return Table.pack(packed, there, len(lengths)), arrays


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8), data=st.data())
def test_gathered_clips_are_the_clips(lengths: list[int], data: st.DataObject) -> None:
    """Whatever is gathered, in any order: real frames are the clip's, the rest zero and masked."""
    packed, arrays = table(lengths)
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    features, mask = packed.gather(torch.tensor(index))
    assert features.shape == (len(index), max(1, *(lengths[i] for i in index), 1), 3)
    for row, real, i in zip(features.numpy(), mask.numpy(), index, strict=True):
        assert real.sum() == lengths[i]
        np.testing.assert_array_equal(row[real], arrays[i])
        assert not row[~real].any()


def test_gathering_a_stack() -> None:
    """An index of two dimensions gathers batches of batches."""
    packed, _ = table([2, 1, 3, 0])
    index = torch.tensor([[0, 1], [2, 3]])
    features, mask = packed.gather(index)
    assert features.shape == (2, 2, 3, 3)
    assert torch.equal(features[1], packed.gather(index[1]).features)
    assert mask.sum().item() == 6


def test_statistics_are_of_the_training_rows() -> None:
    """Mean and scale are numpy's over the rows of the chosen clips; a constant feature keeps its scale."""
    packed, arrays = table([4, 2, 0, 5])
    packed.rows[:, 2] = 7.0
    rows = np.concatenate([arrays[0], arrays[3]])
    mean, scale = packed.fit(torch.tensor([3, 0, 2]))
    np.testing.assert_allclose(mean[:2], rows.mean(0)[:2], rtol=1e-5)
    np.testing.assert_allclose(scale[:2], 1 / rows.std(0)[:2], rtol=1e-5)
    assert (mean[2], scale[2]) == (7.0, 1.0)
    nothing = packed.fit(torch.tensor([2]))
    assert nothing[0].tolist() == [0.0] * 3
    assert nothing[1].tolist() == [1.0] * 3


def test_statistics_of_huge_values_stay_exact() -> None:
    """A large offset does not eat the deviation (two passes in float64)."""
    packed, arrays = table([50])
    packed.rows[:-1] += 1e6
    _, scale = packed.fit(torch.tensor([0]))
    np.testing.assert_allclose(scale, 1 / (arrays[0] + np.float32(1e6)).astype(float).std(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("most", "kept"), [(1, [5]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_thinning_is_as_stated(most: int, kept: list[int]) -> None:
    """Frames kept are those nearest to equal spacing, ends included; short clips are untouched."""
    long, short = np.arange(10.0)[:, None], np.array([[70.0]])
    thinned = thin(Ragged.pack([long, short]), most)
    assert thinned[0][:, 0].tolist() == kept
    assert thinned[1].tolist() == [[70.0]]
    assert thin(Ragged.pack([long]), None)[0].tolist() == long.tolist()


def test_pooling_is_the_mean() -> None:
    """Pooling averages each clip's frames in float32, and keeps an empty clip empty."""
    arrays = [
        np.ones((2, 3), np.float16),
        np.empty((0, 3), np.float16),
        np.arange(6, dtype=np.float16).reshape(2, 3),
    ]
    pooled = pool(Ragged.pack(arrays))
    assert pooled.lengths.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(pooled.data, np.array([[1, 1, 1], [1.5, 2.5, 3.5]], np.float32))


def test_loading_masks_what_is_missing(toy_store: Store) -> None:
    """Features come in the order of the keys; a clip that a space lacks has no rows there."""
    keys = ["train-05", "train-00", "none", "train-07"]
    inputs = choose(toy_store, find_model("agt"), level="frame")
    features = load_features(toy_store, inputs, keys)
    assert (features.tables["audio"].length > 0).tolist() == [False, True, False, True]
    assert (features.tables["text"].length > 0).tolist() == [True, True, False, False]
    assert features.present.tolist() == [True, True, False, True]
    batch = features.batch(torch.tensor([1]))
    np.testing.assert_array_equal(batch["video"].features[0], toy_store.features["face-FRA"]["train-00"])
    taken = features.take(torch.tensor([3, 1]))
    assert taken.keys == ("train-07", "train-00")
    assert torch.equal(taken.batch(torch.tensor([1]))["video"].features, batch["video"].features)


def test_pooled_and_thinned_loading(toy_store: Store) -> None:
    """`pooled` gives means over the frames that `max_frames` leaves."""
    inputs = choose(toy_store, find_model("mlp"), ["face-FRA"], max_frames=2)
    features = load_features(toy_store, inputs, ["train-00"], pooled=True)
    frames = toy_store.features["face-FRA"]["train-00"]
    np.testing.assert_allclose(features.tables["video"].rows[0], frames[[0, -1]].mean(0), rtol=1e-6)


def test_the_only_spaces_are_the_default(toy_store: Store) -> None:
    """Without a choice the only space of each modality at that level is taken, in the order of modalities."""
    inputs = choose(toy_store, find_model("agt"))
    assert {m: c.space for m, c in inputs.chosen.items()} == {
        "audio": "sound-UTT", "video": "face-UTT", "text": "words-UTT",
    }  # fmt: skip
    assert list(choose(toy_store, find_model("agt"), ["words-FRA", "sound-UTT"]).chosen) == ["audio", "text"]
    assert Inputs.from_json(inputs.to_json()) == inputs


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        (["sound-UT"], {}, "did you mean 'sound-UTT'"),
        (["sound-UTT", "sound-FRA"], {}, "both audio"),
        ({"video": "sound-UTT"}, {}, "given as video"),
        (["sound-UTT:2"], {}, "keeps no layers"),
        (None, {"max_frames": 0}, "--max-frames 1"),
    ],
)
def test_a_wrong_choice_is_refused(
    toy_store: Store, names: list[str], options: dict[str, int], match: str
) -> None:
    """Unknown, doubled or misplaced spaces are refused with a remedy."""
    with pytest.raises((ZooError, UnknownName), match=match):
        choose(toy_store, find_model("agt"), names, **options)


def add_space(store: Store, name: str, rows: np.ndarray, **made_by: object) -> None:
    """Add an audio space of one clip."""
    spec = SpaceSpec(name=name, modality="audio", level="utt", row_shape=rows.shape, made_by=made_by)
    with store.features.writer(spec) as writer:
        writer.add("train-00", rows[None].astype(np.float32))


def test_two_spaces_of_a_modality_need_a_choice(store: Store) -> None:
    """With two audio spaces the names are listed and --features offered."""
    add_space(store, "other-UTT", np.ones(2))
    with pytest.raises(ZooError, match=r"other-UTT, sound-UTT; choose with --features"):
        choose(store, find_model("agt"))


def test_a_layer_of_a_space_that_keeps_all(store: Store) -> None:
    """`space:1` reads layer 1; without a layer, or with one it lacks, the range is told."""
    add_space(store, "all-UTT", np.arange(6.0).reshape(3, 2))
    features = load_features(store, choose(store, find_model("mlp"), ["all-UTT:1"]), ["train-00"])
    assert features.tables["audio"].rows[0].tolist() == [2.0, 3.0]
    for wrong in ("all-UTT", "all-UTT:3", "all-UTT:x"):
        with pytest.raises(ZooError, match=r"all-UTT:0 … all-UTT:2"):
            choose(store, find_model("mlp"), [wrong])


def test_an_empty_store_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without features the remedy is to extract."""
    empty = Store.create(tmp_path_factory.mktemp("empty") / "store")
    with pytest.raises(ZooError, match="mer-fs extract"):
        choose(empty, find_model("agt"))
    with pytest.raises(UnknownName, match="mer-fs extract"):
        choose(empty, find_model("agt"), ["x"])


def test_other_features_are_refused(toy_store: Store) -> None:
    """A space of another fingerprint is refused, and both fingerprints are shown."""
    inputs = choose(toy_store, find_model("mlp"), ["sound-UTT"])
    guard(toy_store, inputs, "run")
    document = inputs.to_json()
    document["features"]["audio"]["fingerprint"] = "f" * 64
    with pytest.raises(
        FingerprintMismatch, match="ffff.*" + toy_store.features["sound-UTT"].fingerprint[:16]
    ):
        guard(toy_store, Inputs.from_json(document), "run")
