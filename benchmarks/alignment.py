"""Alignment on the composite corpus: retrieval of held-out clips, probes, an encoder adapted; and speed.

Needs the media and weights that may lie beside the checkout (`../shared`); prints the tables of
docs/alignment.md. Voice, face and sentence of a composite clip have nothing in common but the class, so what
can be found is the class, and a clip's own voice only as far as that tells it apart.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from benchmarks.composite import SHARED, composite
from mer_featurestore import Clip, LabelLayer, SpaceSpec, Store
from mer_plugins.contract import Options
from mer_plugins.deriving import derive, project
from mer_zoo.alignment import LOSSES, AlignSettings, EncoderSettings
from mer_zoo.alignment.aligning import ALIGNED, Aim, align, classes_of, through, views_of, without
from mer_zoo.alignment.encoding import align_encoder
from mer_zoo.alignment.fitting import fit_head
from mer_zoo.alignment.pairs import choose_pairs
from mer_zoo.alignment.retrieval import Found, Rate, chance, mean_of, oracle
from mer_zoo.alignment.rows import Rows

VISUAL, ACOUSTIC, TRUTH = "face-expression-UTT", "whisper-UTT", "everything"
SETS = {
    "unlabeled → test": (("unlabeled",), "test"),
    "unlabeled → train": (("unlabeled",), "train"),
    "unlabeled, train → test": (("unlabeled", "train"), "test"),
}
NAMES = ("R@1", "R@5", "R@10", "ahead", "class@1", "class@10")
ENCODERS = (
    ("infonce", EncoderSettings(epochs=6, lr=1e-3)),
    ("infonce", EncoderSettings(epochs=5, patience=2, lr=1e-4, batch_size=64)),
    ("cosine", EncoderSettings(epochs=5, patience=2, lr=5e-4, head_lr=5e-4, batch_size=32)),
)
SEEDS, CLIPS, WIDTH = 5, 20_000, 1024


def run(*, quick: bool = False, folder: Path | None = None) -> None:
    """Measure and print; `quick` takes one seed and a tenth of the clips."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as where:
        store = with_truth(composite(Path(where)))
        for name, (splits, held_out) in SETS.items():
            table(name, list(lines(store, splits, held_out, 1 if quick else SEEDS)))
        probes(store)
        encoder(store)
        speed(Path(where) / "large", CLIPS // 10 if quick else CLIPS)


def with_truth(store: Store) -> Store:
    """Return the store with a layer of all labels, those of unlabelled clips too, to judge retrieval by."""
    if TRUTH not in store.labels:
        rows = (SHARED / "data" / "composite" / "labels.csv").read_text("utf-8").splitlines()[1:]
        truth = dict(row.split(",") for row in rows)
        store.labels.add(LabelLayer.human(TRUTH, tuple(sorted(set(truth.values()))), truth))
    return store


def lines(
    store: Store, splits: tuple[str, ...], held_out: str, seeds: int
) -> Iterator[tuple[str, Mapping[str, Rate], Mapping[str, Rate]]]:
    """Yield way, rates and gains above a random projection, each clip's mean over seeds."""
    spaces = store.features[VISUAL], store.features[ACOUSTIC]
    ways: dict[str, list[Found]] = {}
    known: Sequence[str | None] = ()
    for seed in range(seeds):
        pairs = choose_pairs(store, spaces, splits, held_out=held_out, seed=seed)
        keys = [*pairs.train, *pairs.valid, *pairs.held]
        views = views_of(store, pairs, *(Rows(space, keys, pairs.train) for space in spaces))
        known = classes_of(store, TRUTH, pairs.held) or ()
        for loss in LOSSES:
            fitted = fit_head(views, AlignSettings(loss=loss, seed=seed))
            ways.setdefault(loss, []).append(through(ALIGNED, fitted, views, pairs, known))
        for found in without(views, pairs, known, seed):
            ways.setdefault(found.name, []).append(found)
    means = {way: mean_of(way, found) for way, found in ways.items()}
    for way, found in means.items():
        yield way, found.rates(), found.above(means["random"])
    exact = {name: Rate(value, value, value) for name, value in chance(len(known), known).items()}
    yield "chance", exact, {}
    best = {n: Rate(v, v, v) for n, v in oracle([c for c in known if c is not None]).items()}
    yield "class known", best, {}


def table(title: str, rows: Sequence[tuple[str, Mapping[str, Rate], Mapping[str, Rate]]]) -> None:
    """Print rates as Markdown, and the gains of the losses above random projections."""
    print(f"\n{title}\n\n| | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
    for way, rates, _ in rows:
        cells = (f"{rates[name].value:.3f}" if name in rates else "" for name in NAMES)
        print(f"| {way} | {' | '.join(cells)} |")
    for way, _, gains in rows:
        if way in LOSSES:
            told = (f"{name} {g.value:+.3f} [{g.low:+.3f}, {g.high:+.3f}]" for name, g in gains.items())
            print(f"{way} above random: {', '.join(told)}")


def probes(store: Store) -> None:
    """Print the probe of the faces as they are, and aligned by each loss, on the labelled clips."""
    print("\n| | WAF | 95 % | above the first | 95 % |\n|---|---|---|---|---|")
    for loss in LOSSES:
        name = store.adapters.free_name(f"aligned-{loss}")
        aim = Aim(visual=VISUAL, to=ACOUSTIC, name=name, held_out="test", labels="gold")
        before, after = align(store, aim, AlignSettings(loss=loss)).metrics["probe"]["lines"]
        for line in (before, after) if loss == next(iter(LOSSES)) else (after,):
            waf, gain = line["waf"], line["gain"]
            told = loss if line is after else "as it is"
            low, high = f"{waf[1]:.3f} to {waf[2]:.3f}", f"{gain[1]:+.3f} to {gain[2]:+.3f}"
            print(f"| {told} | {waf[0]:.3f} | {low} | {gain[0]:+.3f} | {high} |")


def encoder(store: Store) -> None:
    """Print what adapting an encoder adds to a head alone: Whisper on the voices, to the faces.

    The other way round, since there is no visual transformer beside the checkout.
    """
    model, short = str(SHARED / "models" / "whisper-tiny-en"), {"context": "3"}
    options = Options(model=model, layers="2", device="cpu", extra=short)
    print()
    for loss, how in ENCODERS:
        name = store.adapters.free_name("voices")
        both, seen = ("unlabeled", "train"), {"held_out": "test", "judge": TRUTH}
        aim = Aim(visual="whisper", to=VISUAL, name=name, splits=both, **seen)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            found = align_encoder(store, aim, AlignSettings(loss=loss), how, options, work=Path(work))
        taken = time.perf_counter() - start
        for way, rates in found.metrics["retrieval"].items():
            told = ", ".join(f"{name} {rates[name][0]:.3f}" for name in NAMES)
            print(f"voices to faces, {loss}, {way}: {told}")
        print(f"  best epoch {found.metrics['best_epoch']}, {taken:.0f} s in all")


def speed(folder: Path, clips: int) -> None:
    """Print how long large spaces take: one epoch of alignment, and deriving."""
    random = np.random.default_rng(0)
    store = Store.create(folder)
    keys = [f"clip{i:06d}" for i in range(clips)]
    store.clips.add(Clip(key=key, split="unlabeled", video="v", audio="a") for key in keys)
    for name, modality in (("visual", "video"), ("acoustic", "audio")):
        spec = SpaceSpec(
            name=f"{name}-UTT", modality=modality, level="utt", row_shape=(WIDTH,), made_by={"made": name}
        )
        with store.features.writer(spec) as writer:
            for key in keys:
                writer.add(key, random.standard_normal(WIDTH, dtype=np.float32))
    start, ends = time.perf_counter(), list[float]()
    aim = Aim(visual="visual", to="acoustic", name="head", device="cpu")
    align(store, aim, AlignSettings(epochs=5), lambda _done, _total: ends.append(time.perf_counter()))
    whole = time.perf_counter() - start
    start = time.perf_counter()
    derive(store, "visual-UTT", "derived", project(store, "head"))
    taken = time.perf_counter() - start
    epoch = float(np.median(np.diff(ends)))
    print(f"\n{clips} clips, {WIDTH} to {WIDTH}: an epoch {epoch:.1f} s, all else {whole - 5 * epoch:.1f} s")
    print(f"derive: {taken:.1f} s, {clips / taken:.0f} clips/s")
