"""Self-training on real speech: a few labelled speakers, more that nobody labelled, two that are held out.

Needs the media and weights that may lie beside the checkout (`../shared`); writes docs/experiments.md. Every
loop has a store of its own, in which the speakers have their parts, and runs what `mer-zoo self-train` runs.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.composite import AUDIO, SHARED, emodb
from mer_featurestore import Clip, LabelLayer, Ragged, SpaceSpec, Store
from mer_zoo.ballots import Ballot
from mer_zoo.loop_table import Loop
from mer_zoo.members import collect
from mer_zoo.rules import make_rules
from mer_zoo.runs import Run, find_run
from mer_zoo.self_train import self_train
from mer_zoo.settings import Settings
from mer_zoo.train import train

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
MEN, WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")
SEEDS, ROUNDS, FOLDS, EPOCHS, THRESHOLD = 5, 2, 4, 30, 0.9
MEMBERS = ("mlp", "attention")
CALIBRATION = "bcts"
ALONE, CEILING, VOTE = "human labels alone", "all true labels", "their mean"


@dataclass(frozen=True)
class Parts:
    """What the speakers of one loop are for.

    Attributes:
        labelled: Two men, two women.
        unlabelled: Likewise.
        test: A man and a woman.
    """

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, speaker: str) -> str:
        """Return the split of a speaker."""
        parts = {"train": self.labelled, "unlabeled": self.unlabelled, "test": self.test}
        return next(split for split, speakers in parts.items() if speaker in speakers)


@dataclass(frozen=True)
class Corpus:
    """EmoDB, as it lies in the store of extracted features.

    Attributes:
        clips: n of them.
        classes: C names.
        label: Key -> class.
        spec: Of the features.
        features: One vector a clip.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    label: Mapping[str, str]
    spec: SpaceSpec
    features: Ragged


@dataclass(frozen=True)
class Confident:
    """How sure decisions about the test clips are, as trained and calibrated.

    Attributes:
        who: The member, or the vote of all.
        speaker: str `[n]`, of the test clips.
        confidence: float32 `[2, n]`, as trained and calibrated.
        right: bool `[2, n]`; a bias per class can change a decision.
        held_out: Calibrated and surer than the threshold among the labelled clips, out of fold; how many of
            these are right.
    """

    who: str
    speaker: NDArray[np.str_]
    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]
    held_out: tuple[int, int]


@dataclass(frozen=True)
class Trial:
    """One loop and what it was worth.

    Attributes:
        seed: Of training, and of who is in which part.
        parts: Of the speakers.
        confusion: What was trained on -> test speaker -> counts `[C, C]`, rows = label.
        loop: Its table, with precision measured on the true labels of the unlabelled speakers.
        kept: Per round, unlabelled speaker -> clips judged, kept, and kept with the right label.
        confident: Of the members trained on human labels alone, and of their vote.
    """

    seed: int
    parts: Parts
    confusion: Mapping[str, Mapping[str, NDArray[np.int64]]]
    loop: Loop
    kept: tuple[Mapping[str, tuple[int, int, int]], ...]
    confident: tuple[Confident, ...]

    @property
    def chosen(self) -> str:
        """What was trained on where the out-of-fold WAF is highest."""
        return names()[self.loop.best.number]


def names() -> list[str]:
    """Return what is trained on: human labels, each round."""
    return [ALONE, *(f"round {k}" for k in range(1, ROUNDS + 1))]


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Extract what is not in `folder` yet, run all loops, and write the page (not with `quick`)."""
    if not (SHARED / "data").is_dir():
        print("needs the media and weights beside the checkout (../shared), which are not in the repository")
        return
    from benchmarks.self_training_page import render

    place = nullcontext(str(folder)) if folder else tempfile.TemporaryDirectory(prefix="mer-self-training-")
    with place as name:
        corpus = read_corpus(emodb(Path(name)))
    began = time.perf_counter()
    settings = Settings(epochs=3 if quick else EPOCHS)
    trials = []
    for seed in range(1 if quick else SEEDS):
        for number, parts in enumerate(divide(seed)):
            trials.append(run_loop(corpus, parts, seed, settings))
            print(f"  seed {seed}, speakers {number + 1} of 5: {trials[-1].loop.stopped}", flush=True)
    seconds = time.perf_counter() - began
    page = render(trials, corpus.classes, seconds)
    print(page)
    print(f"took {seconds:.0f} s")
    if not quick:
        PAGE.write_text(page, encoding="utf-8")


def read_corpus(store: Store) -> Corpus:
    """Read clips, labels and features of a store."""
    clips = tuple(store.clips.values())
    resolved, space = store.labels.resolve("gold"), store.features[AUDIO]
    keys = [clip.key for clip in clips]
    label = {key: resolved[key] for key in keys}
    return Corpus(clips, tuple(resolved.classes), label, space.spec, space.read(keys))


def divide(seed: int) -> list[Parts]:
    """Return five ways to part the speakers; over the five, each is held out for the test once."""
    random = np.random.default_rng(seed)
    men, women = random.permutation(MEN), random.permutation(WOMEN)

    def pick(first: int, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(row[(first + i) % 5]) for row in (men, women) for i in places)

    return [Parts(pick(k, (1, 2)), pick(k, (3, 4)), pick(k, (0,))) for k in range(5)]


def run_loop(corpus: Corpus, parts: Parts, seed: int, settings: Settings) -> Trial:
    """Train on human labels, go through the rounds, and judge every stage on the test speakers."""
    with tempfile.TemporaryDirectory(prefix="mer-loop-") as folder:
        store = _store(Path(folder) / "store", corpus, parts)
        loop = self_train(
            store,
            MEMBERS[0],
            members=MEMBERS[1:],
            rounds=ROUNDS,
            labels="gold",
            rules=make_rules(threshold=THRESHOLD, calibrate=CALIBRATION),
            stop_after=ROUNDS + 1,
            audit="truth",
            folds=FOLDS,
            seed=seed,
            settings=settings,
        )
        # A loop that kept nothing ends early, and stays as good as it was.
        stages = [*loop.stages, *[loop.stages[-1]] * (ROUNDS + 1 - len(loop.stages))]
        confusion = {
            name: _judge(store, corpus, parts, stage.runs)
            for name, stage in zip(names(), stages, strict=True)
        }
        best = [
            train(store, member, labels="perfect", folds=FOLDS, seed=seed, settings=settings).name
            for member in MEMBERS
        ]
        confusion[CEILING] = _judge(store, corpus, parts, best)
        return Trial(
            seed=seed,
            parts=parts,
            confusion=confusion,
            loop=loop,
            kept=tuple(_kept(store, corpus, parts, stage.layer) for stage in loop.stages[1:]),
            confident=_confident(store, corpus, parts, loop.stages[0].runs),
        )


def _store(folder: Path, corpus: Corpus, parts: Parts) -> Store:
    """Make a store with the features, and layers `gold` (labelled speakers), `truth` and `perfect`."""
    store = Store.create(folder)
    store.clips.add([replace(clip, split=parts.of(clip.speaker)) for clip in corpus.clips])
    with store.features.writer(corpus.spec) as writer:
        for i, clip in enumerate(corpus.clips):
            writer.add(clip.key, corpus.features[i])
    of = {
        split: {clip.key: corpus.label[clip.key] for clip in store.clips.select(split=split)}
        for split in ("train", "unlabeled", "test")
    }
    store.labels.add(LabelLayer.human("gold", corpus.classes, of["train"]))
    store.labels.add(LabelLayer.human("truth", corpus.classes, {**of["unlabeled"], **of["test"]}))
    human = LabelLayer.human("perfect", corpus.classes, of["unlabeled"])
    # As pseudo-labels they train every fold and choose no epoch, like those of a round.
    store.labels.add(replace(human, source=np.ones(len(human.keys), np.uint8), parents=("labels/gold",)))
    return store


def _judge(store: Store, corpus: Corpus, parts: Parts, runs: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Count labels and decisions of the members' mean for each test speaker."""
    C, found = len(corpus.classes), {}
    for speaker in parts.test:
        keys = [clip.key for clip in corpus.clips if clip.speaker == speaker]
        ballot, _ = collect(store, [find_run(store, run) for run in runs], keys, corpus.classes)
        cells = _labels(corpus, keys) * C + ballot.mean.argmax(1)
        found[speaker] = np.bincount(cells, minlength=C * C).reshape(C, C)
    return found


def _kept(store: Store, corpus: Corpus, parts: Parts, name: str) -> dict[str, tuple[int, int, int]]:
    """Count what a round judged, kept and got right, for each unlabelled speaker."""
    layer, found = store.labels[name], {}
    speaker = np.array([store.clips[key].speaker for key in layer.keys])
    right = layer.label == _labels(corpus, layer.keys)
    for one in parts.unlabelled:
        mine = speaker == one
        kept = mine & layer.kept
        found[one] = (int(mine.sum()), int(kept.sum()), int((kept & right).sum()))
    return found


def _confident(store: Store, corpus: Corpus, parts: Parts, runs: Sequence[str]) -> tuple[Confident, ...]:
    """Look at how sure members and their vote are of the test clips, and whether they are right."""
    members: list[Run] = [find_run(store, name) for name in runs]
    clips = [clip for clip in corpus.clips if clip.speaker in parts.test]
    keys = [clip.key for clip in clips]
    plain, _ = collect(store, members, keys, corpus.classes)
    calibrated, found = collect(store, members, keys, corpus.classes, method=CALIBRATION)
    speaker, label = np.array([clip.speaker for clip in clips]), _labels(corpus, keys)
    before, after = ([*ballot.probs, ballot.mean] for ballot in (plain, calibrated))
    held = [(each.sure[1], each.right[1]) for each in found.values()] + [_held_out(calibrated)]
    return tuple(
        Confident(
            who=who,
            speaker=speaker,
            confidence=np.stack([before[i].max(1), after[i].max(1)]),
            right=np.stack([before[i].argmax(1) == label, after[i].argmax(1) == label]),
            held_out=held[i],
        )
        for i, who in enumerate((*MEMBERS, VOTE))
    )


def _held_out(ballot: Ballot) -> tuple[int, int]:
    """Count clips the vote is surer of than 0.9 among the labelled ones, out of fold, and the right ones."""
    held = ballot.held_out
    if held is None:
        return 0, 0
    sure = held.ballot.mean.max(1) > THRESHOLD
    return int(sure.sum()), int((sure & (held.ballot.mean.argmax(1) == held.label)).sum())


def _labels(corpus: Corpus, keys: Sequence[str]) -> NDArray[np.int64]:
    return np.array([corpus.classes.index(corpus.label[key]) for key in keys], np.int64)
