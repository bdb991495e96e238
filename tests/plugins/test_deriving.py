"""Spaces computed from other spaces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from mer_featurestore import Clip, SpaceSpec, Store
from mer_featurestore.errors import FingerprintMismatch, NameTaken, UnknownName
from mer_featurestore.lineage import ancestors, lineage
from mer_plugins import deriving, fitting
from mer_plugins.contract import Options
from mer_plugins.deriving import derive, mix, project
from mer_plugins.errors import PluginError
from mer_plugins.fitting import Fit, fitted, keep_projection, statistics
from mer_plugins.operations import Mix, Pool, Project
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.pooling import pool_rows
from mer_plugins.projection import Projection
from mer_plugins.samples import sample_clips
from support.tiny import clip as tiny_clip

SPLITS = ("train", "unlabeled", "test")
N = 60


def spec(name: str, row: tuple[int, ...], **changes: Any) -> SpaceSpec:
    """Return the specification of a space of video features."""
    level = "utt" if name.endswith("UTT") else "frame"
    facts = {"modality": "video", "level": level, "row_shape": row, "made_by": {"plugin": "x", "row": row}}
    return SpaceSpec(name=name, **(facts | changes))


def add(store: Store, space: SpaceSpec, rows: dict[str, NDArray[Any]]) -> None:
    """Write clips into a space."""
    with store.features.writer(space) as writer:
        for key, values in rows.items():
            writer.add(key, values)


def rows_of(n: int, *shape: int, first: int = 0, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return rows of n clips whose numbers depend on each other, of unequal scale."""
    random = np.random.default_rng(seed + first)
    turn = np.random.default_rng(7).normal(size=(shape[-1], shape[-1]))
    values = (random.normal(size=(n, *shape)) * 2.0 ** -np.arange(shape[-1])) @ turn + 3
    return {f"{SPLITS[i % 3]}-{i:03d}": values[i - first].astype(np.float32) for i in range(first, first + n)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with `x-UTT` [6], `layers-UTT` [5, 6] and `x-FRA` [6] of 60 clips, 20 of each split."""
    store = Store.create(tmp_path / "store")
    store.clips.add(Clip(key=f"{SPLITS[i % 3]}-{i:03d}", split=SPLITS[i % 3], video="v") for i in range(N))
    add(store, spec("x-UTT", (6,)), rows_of(N, 6))
    add(store, spec("layers-UTT", (5, 6)), rows_of(N, 5, 6))
    frames = {key: np.repeat(row[None], i % 4 + 1, 0) for i, (key, row) in enumerate(rows_of(N, 6).items())}
    frames = {key: rows * np.arange(1, len(rows) + 1)[:, None] for key, rows in frames.items()}
    add(store, spec("x-FRA", (6,), dtype="float16"), frames)
    return store


def keep_some(store: Store, name: str = "head", source: str = "x-UTT", seed: int = 0) -> Projection:
    """Keep a projection to rows of 4 in the store."""
    random = np.random.default_rng(seed)
    head = Projection(random.normal(size=(4, 6)).astype(np.float32), random.normal(size=4).astype(np.float32))
    keep_projection(store, name, head, store.features[source].spec, facts={"why": "a test"})
    return head


def test_a_projection_of_every_row(store: Store) -> None:
    """Each clip's row is mapped as the adapter says, under its key; source and adapter are the parents."""
    head = keep_some(store)
    report = derive(store, "x-UTT", "y", project(store, "head"))
    space = store.features["y-UTT"]
    assert (report.space, report.added, report.adapter, len(space)) == ("y-UTT", N, "head", N)
    keys = store.features["x-UTT"].keys()[::-1]
    rows = store.features["x-UTT"].matrix(keys)
    np.testing.assert_allclose(space.matrix(keys), rows @ head.weight.T + head.bias, rtol=1e-5, atol=1e-4)
    assert space.spec.modality == "video"
    assert space.spec.parents == ("features/x-UTT", "adapters/head")
    assert {"features/x-UTT", "adapters/head"} <= ancestors(store.snapshot, "features/y-UTT")
    assert "x-UTT" in lineage(store.snapshot, "y-UTT").detail


def test_a_layer_mix_is_what_extraction_would_sum(store: Store) -> None:
    """Bands are summed, weights weigh, single layers are taken; what is not there is refused."""
    rows = store.features["layers-UTT"].matrix()
    for which, expected in {
        "1-3": rows[:, 1:4].sum(1),
        "2": rows[:, 2],
        "last": rows[:, 4],
        "weighted:0.5,0,0,0,2": 0.5 * rows[:, 0] + 2 * rows[:, 4],
    }.items():
        name = "m" + which.replace(":", "").replace(",", "_")
        derive(store, "layers-UTT", name, mix(store, "layers-UTT", which))
        got = store.features[f"{name}-UTT"].matrix(store.features["layers-UTT"].keys())
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UnknownName, match="layers 0 to 4"):
        derive(store, "layers-UTT", "no", mix(store, "layers-UTT", "7"))
    with pytest.raises(PluginError, match="is what the space is already"):
        derive(store, "layers-UTT", "no", mix(store, "layers-UTT", "all"))
    with pytest.raises(PluginError, match="keeps no layers"):
        derive(store, "x-UTT", "no", Mix("1", 6))


@pytest.mark.parametrize("how", ["mean", "mean-std", "max"])
def test_pooled_frames(store: Store, how: str) -> None:
    """Frames become one float32 row a clip, pooled as an extraction pools; utterances are refused."""
    derive(store, "x-FRA", f"p-{how}", Pool(how))
    space = store.features[f"p-{how}-UTT"]
    assert (space.spec.level, space.spec.dtype) == ("utt", "float32")
    for key in space.keys()[:9]:
        expected = pool_rows(how, store.features["x-FRA"][key].astype(np.float32))
        np.testing.assert_allclose(space.matrix([key])[0], expected, rtol=1e-6)
    with pytest.raises(PluginError, match="one row a clip already"):
        derive(store, space.name, "again", Pool(how))


def test_an_unknown_pooling(store: Store) -> None:
    """A pooling that does not exist is refused with those that do."""
    with pytest.raises(UnknownName, match="no pooling named 'median'"):
        derive(store, "x-FRA", "p", Pool("median"))


def test_frames_stay_frames(store: Store) -> None:
    """A frame-level space projected is one, each row by itself, lengths kept, float16 by default."""
    head = keep_some(store, source="x-FRA")
    derive(store, "x-FRA", "y", project(store, "head"))
    space, source = store.features["y-FRA"], store.features["x-FRA"]
    assert space.spec.dtype == "float16"
    np.testing.assert_array_equal(space.lengths(source.keys()), source.lengths())
    got, rows = space.read(source.keys()).data, source.read(source.keys()).data.astype(np.float32)
    np.testing.assert_allclose(got.astype(np.float32), rows @ head.weight.T + head.bias, rtol=2e-3, atol=2e-2)


def test_only_what_is_missing_is_computed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call makes no commit; after more clips came, it computes those alone."""
    head = keep_some(store)
    derive(store, "x-UTT", "y", project(store, "head"))
    before = store.commit
    again = derive(store, "x-UTT", "y", project(store, "head"))
    assert (again.added, again.there, store.commit) == (0, N, before)
    add(store, spec("x-UTT", (6,)), rows_of(7, 6, first=N))
    seen: list[int] = []
    whole = Project.apply
    monkeypatch.setattr(Project, "apply", lambda self, rows: seen.append(len(rows)) or whole(self, rows))
    more = derive(store, "x-UTT", "y", project(store, "head"))
    assert (more.added, more.there, sum(seen)) == (7, N, 7)
    key = f"{SPLITS[N % 3]}-{N:03d}"
    row = store.features["x-UTT"][key]
    np.testing.assert_allclose(store.features["y-UTT"][key], row @ head.weight.T + head.bias, rtol=1e-4)


def test_an_interruption_keeps_what_is_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop, it commits what is done and says so; the next call does the rest."""
    import os
    import signal

    keep_some(store)
    monkeypatch.setattr(deriving, "PIECE_BYTES", 24 * 20)  # 20 clips
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        if (done, total) == (20, 60):
            os.kill(os.getpid(), signal.SIGINT)

    first = derive(store, "x-UTT", "y", project(store, "head"), progress=tell)
    assert first.interrupted
    assert (first.added, len(store.features["y-UTT"])) == (20, 20)
    second = derive(store, "x-UTT", "y", project(store, "head"), progress=tell)
    assert (second.interrupted, second.added, second.there) == (False, 40, 20)
    assert told == [(20, 60), (20, 40), (40, 40)]


def test_fingerprints_tell_operations_and_sources_apart(store: Store) -> None:
    """Weights, pooling, layers and the source each change the fingerprint; the adapter's name does not."""
    keep_some(store), keep_some(store, "other", seed=1), keep_some(store, "twin")
    add(store, spec("z-UTT", (6,), made_by={"plugin": "z"}), rows_of(3, 6))
    source = store.features["x-UTT"].spec
    made = [project(store, "head"), project(store, "other"), Mix("1", 5), Mix("1-2", 5)]
    specs = [
        deriving.spec_of(store.features["layers-UTT"].spec if isinstance(m, Mix) else source, "y", m)
        for m in made
    ]
    frames = store.features["x-FRA"].spec
    specs += [deriving.spec_of(frames, "y", Pool("mean")), deriving.spec_of(frames, "y", Pool("max"))]
    head = Project("head", project(store, "head").projection, project(store, "head").sha256)
    specs.append(deriving.spec_of(store.features["z-UTT"].spec, "y", head))
    assert len({s.fingerprint for s in specs}) == len(specs)
    assert deriving.spec_of(source, "y", project(store, "twin")).fingerprint == specs[0].fingerprint
    assert specs[0].made_by["source_fingerprint"] == source.fingerprint


def test_another_configuration_is_refused(store: Store) -> None:
    """A space that was derived by one adapter is never continued with another, nor with itself."""
    keep_some(store), keep_some(store, "other", seed=1)
    derive(store, "x-UTT", "y", project(store, "head"))
    with pytest.raises(FingerprintMismatch, match="projection"):
        derive(store, "x-UTT", "y", project(store, "other"))
    with pytest.raises(FingerprintMismatch):
        derive(store, "layers-UTT", "y", Mix("1", 5))
    with pytest.raises(Exception, match="cannot be derived from itself"):
        derive(store, "x-UTT", "x-UTT", project(store, "head"))


def test_rows_an_adapter_was_not_made_for(store: Store) -> None:
    """Other widths and rows of another meaning are refused; frames of the same encoder are not."""
    keep_some(store)
    with pytest.raises(PluginError, match="projects rows of 6, and those of layers-UTT are 5 x 6"):
        derive(store, "layers-UTT", "y", project(store, "head"))
    add(store, spec("z-UTT", (6,), made_by={"plugin": "z"}), rows_of(3, 6))
    with pytest.raises(PluginError, match="z-UTT was made otherwise"):
        derive(store, "z-UTT", "y", project(store, "head"))
    pooled = {"plugin": "e", "pooling": "mean"}
    add(store, spec("e-UTT", (6,), made_by=pooled), rows_of(3, 6))
    add(store, spec("e-FRA", (6,), made_by={"plugin": "e", "frame_hz": 5}), {"train-000": np.ones((2, 6))})
    keep_some(store, "of-e", source="e-UTT")
    assert derive(store, "e-FRA", "y", project(store, "of-e")).added == 1


def test_adapters_that_project_nothing(store: Store) -> None:
    """A LoRA, and a LoRA with a head, cannot be applied to stored rows; the error says what to do."""
    store.adapters.add("lora", {"adapter_model.safetensors": b"x", "card.json": b"{}"})
    with pytest.raises(PluginError, match=r"projects no rows.*mer-fs extract --adapter lora"):
        project(store, "lora")
    store.adapters.add(
        "both", {"adapter_model.safetensors": b"x", "projection.safetensors": b"y", "card.json": b"{}"}
    )
    with pytest.raises(PluginError, match="changes the encoder before it projects"):
        project(store, "both")
    with pytest.raises(UnknownName, match="did you mean 'lora'"):
        project(store, "lorra")


def test_clips_that_cannot_be_pooled_are_in_quarantine(store: Store) -> None:
    """A clip without frames has a reason, is not tried again, and clips the source lacks are just absent."""
    add(store, spec("x-FRA", (6,), dtype="float16"), {"late": np.zeros((0, 6))})
    first = derive(store, "x-FRA", "p", Pool("mean"))
    assert first.failed == {"late": "the source has no frames to pool"}
    assert store.features.quarantine("p-UTT") == first.failed
    again = derive(store, "x-FRA", "p", Pool("mean"))
    assert (again.failed, again.added) == ({}, 0)
    assert "nobody" not in store.features["p-UTT"]


def test_values_too_large_for_the_stored_type(store: Store) -> None:
    """A clip whose result float16 cannot hold is quarantined, and the others are kept."""
    keep_some(store)
    add(store, spec("x-UTT", (6,)), {"huge": np.full(6, 1e6)})
    report = derive(store, "x-UTT", "half", project(store, "head"), dtype="float16")
    assert list(report.failed) == ["huge"]
    assert report.added == N


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_is_that_of_scikit_learn(store: Store, whiten: bool) -> None:
    """Components of the train and unlabelled clips, none of test; the derived rows are sklearn's scores."""
    operation = fitted(store, "x-UTT", "pc-UTT", Fit(method="pca", components=3, whiten=whiten))
    derive(store, "x-UTT", "pc", operation)
    space = store.features["x-UTT"]
    keys = space.keys()
    seen = [key for key in keys if not key.startswith("test")]
    reference = PCA(3, whiten=whiten, svd_solver="full").fit(space.matrix(seen).astype(np.float64))
    keys = store.features["pc-UTT"].keys()
    np.testing.assert_allclose(
        store.features["pc-UTT"].matrix(keys), reference.transform(space.matrix(keys)), atol=2e-4
    )
    card = store.adapters["pc"].json("card.json")
    assert card["fitted"]["splits"] == ["train", "unlabeled"]
    assert card["fitted"]["clips"] == len(seen) == 40
    ratio = reference.explained_variance_ratio_.sum()
    assert card["fitted"]["explained_variance_ratio"] == pytest.approx(ratio)
    assert card["training"] is None
    assert store.adapters["pc"].parents == ("features/x-UTT",)


def test_later_clips_get_the_same_components(store: Store) -> None:
    """What was fitted stays: new clips change neither the adapter nor the features that are there."""
    fit = Fit(method="pca", components=2)
    derive(store, "x-UTT", "pc", fitted(store, "x-UTT", "pc", fit))
    before = store.features["pc-UTT"].matrix(["train-000"])
    late = {f"train-{i}": row for i, row in enumerate(rows_of(9, 6, first=90, seed=5).values(), 900)}
    store.clips.add(Clip(key=key, split="train", video="v") for key in late)
    add(store, spec("x-UTT", (6,)), late)
    report = derive(store, "x-UTT", "pc", fitted(store, "x-UTT", "pc", fit))
    assert (report.added, report.there) == (9, N)
    np.testing.assert_array_equal(store.features["pc-UTT"].matrix(["train-000"]), before)
    with pytest.raises(PluginError, match="components 2, asked for 3"):
        fitted(store, "x-UTT", "pc", Fit(method="pca", components=3))


def test_nothing_is_fitted_for_a_name_that_is_taken(store: Store) -> None:
    """Where a space of the name was made otherwise, it is refused before an adapter is kept."""
    add(store, spec("own-UTT", (3,), made_by={"plugin": "own"}), {"train-000": np.ones(3)})
    before = store.commit
    for name in ("x", "own-UTT"):
        with pytest.raises(NameTaken, match="choose another --as"):
            fitted(store, "x-UTT", name, Fit(method="standardise"))
    assert store.commit == before


def test_out_of_core(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond the memory given are fitted piece by piece, and span the same directions."""
    exact = fitted(store, "x-UTT", "exact", Fit(method="pca", components=2)).projection
    monkeypatch.setattr(fitting, "IN_MEMORY", 0)
    monkeypatch.setattr(deriving, "PIECE_BYTES", 24 * 9)  # 9 clips
    pieced = fitted(store, "x-UTT", "pieced", Fit(method="pca", components=2)).projection
    assert store.adapters["pieced"].json("card.json")["fitted"]["solver"] == "IncrementalPCA"
    assert abs(float(exact.weight[0] @ pieced.weight[0])) > 0.999
    assert abs(np.linalg.det(exact.weight @ pieced.weight.T)) > 0.99


def test_statistics_in_pieces_are_those_of_the_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and deviation do not depend on how the rows are cut into pieces."""
    space = store.features["x-FRA"]
    rows = space.read(space.keys()).data.astype(np.float64)
    monkeypatch.setattr(deriving, "PIECE_BYTES", 50)
    mean, std, count = statistics(space, space.keys())
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-12)
    assert count == len(rows)


def test_standardised(store: Store) -> None:
    """Every number has mean 0 and deviation 1 over the clips it was fitted on; what never varies is 0."""
    flat = {key: np.append(row[:5], 4) for key, row in rows_of(N, 6).items()}
    add(store, spec("flat-UTT", (6,), made_by={"plugin": "flat"}), flat)
    fit = Fit(method="standardise", splits=("train",))
    derive(store, "flat-UTT", "std", fitted(store, "flat-UTT", "std", fit))
    train = [key for key in flat if key.startswith("train")]
    rows = store.features["std-UTT"].matrix(train)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.std(0), [1, 1, 1, 1, 1, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("source", "fit", "told"),
    [
        ("x-UTT", Fit(method="pca", components=7), "ask for 1 to 6"),
        ("x-UTT", Fit(method="pca", components=5, splits=("few",)), "ask for 1 to 2"),
        ("layers-UTT", Fit(method="pca", components=2), "layer axis"),
        ("x-UTT", Fit(method="pca", components=2, splits=("empty",)), "no clips of empty"),
        ("thin-UTT", Fit(method="pca", components=4), "vary in 2 directions only; --pca 2"),
    ],
)
def test_what_cannot_be_fitted(store: Store, source: str, fit: Fit, told: str) -> None:
    """Too many components, too few rows, layer axes and flat data are refused with what would work."""
    store.clips.add(Clip(key=f"few{i}", split="few", video="v") for i in range(2))
    store.clips.add([Clip(key="empty", split="empty", video="v")])
    add(store, spec("x-UTT", (6,)), {f"few{i}": np.arange(6.0) * i for i in range(2)})
    thin = {k: np.array([a[0], a[1], 0, 1, 2, 3]) for k, a in rows_of(N, 6).items()}
    add(store, spec("thin-UTT", (6,), made_by={"plugin": "thin"}), thin)
    with pytest.raises(PluginError, match=told):
        fitted(store, source, "pc", fit)
    assert not len(store.adapters)


def test_a_fit_never_takes_another_adapters_name(store: Store) -> None:
    """An adapter of the name that is something else is refused, not overwritten."""
    keep_some(store, "pc")
    with pytest.raises(PluginError, match="is there and was made otherwise"):
        fitted(store, "x-UTT", "pc", Fit(method="pca", components=2))


def test_derived_from_derived(store: Store) -> None:
    """Derivations stack, and lineage goes through them down to the media."""
    derive(store, "x-FRA", "pooled", Pool("mean"))
    derive(store, "pooled-UTT", "pc", fitted(store, "pooled-UTT", "pc", Fit(method="pca", components=2)))
    above = ancestors(store.snapshot, "features/pc-UTT")
    assert {"features/pooled-UTT", "adapters/pc", "features/x-FRA", "media/video"} <= above


def test_on_s3(s3_url: str) -> None:
    """Deriving and fitting work on a store that is not on this disk."""
    store = Store.create(s3_url)
    store.clips.add(Clip(key=key, split="train", video="v") for key in rows_of(9, 6))
    add(store, spec("x-UTT", (6,)), rows_of(9, 6))
    derive(store, "x-UTT", "pc", fitted(store, "x-UTT", "pc", Fit(method="pca", components=2)))
    assert store.features["pc-UTT"].matrix().shape == (9, 2)


def test_extracting_with_a_projection_is_deriving(tmp_path: Path) -> None:
    """`extract --adapter` and `derive --adapter` give the same rows to 1e-4, of clips and of frames."""
    model = tmp_path / "clip"
    tiny_clip(model)
    store = Store.create(tmp_path / "store")
    store.clips.add(sample_clips(tmp_path, "video"))
    options = Options(model=str(model), device="cpu", extra={"face": "none"})
    levels = ("utt", "frame")
    extract(
        store,
        plan(store, Request(plugin="hf-image", options=options, name="v", levels=levels, dtype="float32")),
    )
    wide = store.features["v-UTT"].spec.row_shape[0]
    random = np.random.default_rng(0)
    arrays = (
        random.normal(size=(8, wide)),
        random.normal(size=8),
        random.normal(size=(5, 8)),
        random.normal(size=5),
    )
    head = Projection(*(a.astype(np.float32) for a in arrays))
    keep_projection(store, "head", head, store.features["v-UTT"].spec, facts={})
    request = Request(
        plugin="hf-image", options=options, name="e", levels=levels, dtype="float32", adapter="head"
    )
    extract(store, plan(store, request))
    for suffix in ("UTT", "FRA"):
        derive(store, f"v-{suffix}", "d", project(store, "head"), dtype="float32")
        keys = store.features[f"d-{suffix}"].keys()
        derived, extracted = (store.features[f"{stem}-{suffix}"].read(keys).data for stem in "de")
        np.testing.assert_allclose(derived, extracted, atol=1e-4)
        assert store.features[f"e-{suffix}"].fingerprint != store.features[f"d-{suffix}"].fingerprint
