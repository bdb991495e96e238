"""The page of `benchmarks.self_training`: docs/experiments.md."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.self_training import (
    ALONE,
    CALIBRATION,
    CEILING,
    EPOCHS,
    FOLDS,
    MEMBERS,
    MEN,
    ROUNDS,
    THRESHOLD,
    VOTE,
    WOMEN,
    Trial,
    names,
)
from mer_zoo.bootstrap import RESAMPLES, Interval, percentile, resample, scores_of
from mer_zoo.loop_table import Stage
from mer_zoo.proportions import wilson

SPEAKERS = sorted((*MEN, *WOMEN))
CHOSEN = "the round chosen out of fold"
YES, NO, OPEN = "yes", "no", "cannot tell"
WORTH = (
    "trained on",
    "WAF",
    "UAR",
    "WAF above human labels alone",
    "UAR above",
    "loops better / equal / worse",
    "SD over loops",
    "out-of-fold WAF",
)
HEAD = """# Self-training on real speech

Written by `python -m benchmarks self_training --dir FOLDER`; needs the media and weights beside the checkout.

**What it is.** EmoDB, {clips} acted German utterances of ten speakers in 7 classes, audio only, **in a copy
cut to 2 s**: not comparable with published numbers. Features: Whisper tiny.en, layer 2, mean over time (384
values a clip).

**How.** Of ten speakers, two men and two women are labelled, two men and two women are not, and a man and a
woman are held out for the test. Five such divisions hold out every speaker once. {seeds} seeds, each with its
own five divisions, make {loops} loops of

```bash
mer-zoo self-train {first} {others} --labels gold --rounds {rounds} --stop-after {patience} \\
  --threshold {threshold} --calibrate {calibration} --folds {folds} --epochs {epochs} --seed SEED
```

Members are judged, and vote, by the mean of their probabilities; each round trains from scratch; no loop
stops before its last round. *{ceiling}* trains on the true labels of all unlabelled clips as if they were
pseudo-labels: what a round without a mistake or a gap would give. {epochs} epochs are few (the default is
100); they keep {trainings} trainings of {folds} folds in minutes.

**Intervals** are 95 %. Clips of one speaker resemble each other, so scores are bootstrapped over the ten
speakers, with all seeds and, for differences, both lines on the same draws. Ten speakers are few: such an
interval is rather too narrow than too wide. Seeds share the speakers and are no independent repetitions."""


PROMISE = """Members trained on human labels alone are judged on the test speakers: each seed judges each
of the {clips} clips once, by models that never heard its speaker. Counted are clips surer than {threshold};
*clips* is their number a seed. The *Wilson* column is the interval of that many clips, the last one that of
each seed."""

MEANING = """## What it means

Said of the run in the repository: a new run writes new tables, and leaves this text as it is.

**Self-training gained nothing here.** Both rounds are within 0.001 WAF of the human labels alone, with an
interval of about ±0.01; single loops gain or lose several points. There was something to gain: with the
true labels of the same clips 24 of 25 loops are better, by 0.055 WAF on the mean.

**Hardly because pseudo-labels are wrong**: 97 % of the first round are right. More likely because of which
ones are kept, though no line of the tables parts the two. What is surer than 0.9 is a good quarter of the
clips, those the members get right anyway, so that little is learned from them. And it is out of proportion:
happy, which these members often take for anger, is 13 % of the clips and 1 % of a round. Its recall falls
from 0.50 to 0.46, while the true labels lift it to 0.63, more than that of any other class. A selection
that keeps the classes in proportion (`--select top-k`) or lowers the bar for rare ones (`flexmatch`) is
made for this; it is not measured here.

**The second round is surer, not better.** It keeps more clips, at a higher estimated and a lower true
precision: members that have trained on their own labels believe in them. No label that both rounds keep
changes.

**The out-of-fold WAF misleads.** It rises by two points while the test score stays, and choosing the round
by it gains nothing: pseudo-labels come from folds that have, between them, seen every human label. Only
another split tells, which is what `mer-zoo evaluate` is for.

**"p > 0.9" keeps its word** on speakers nobody has heard. After calibration about 97 of 100 such decisions
are right, and the whole Wilson interval is above 0.9 for both members and their mean, in every seed. It
errs on the side of caution: calibration is fitted on single folds, of whose sure decisions 92 of 100 are
right, while new clips are predicted by the mean of the folds. That costs volume: of `attention`'s decisions
308 are sure as trained (94 % right) and 125 calibrated. For `mlp`, too modest as trained, it is the other
way round.

**What this does not show.** Ten actors, ten sentences, seven acted emotions, 2 s of each; one encoder, two
members that read the same features; few epochs; one configuration, not tuned (one loop of 40 epochs was run
before, to see how long it takes)."""


def render(trials: Sequence[Trial], classes: Sequence[str], seconds: float) -> str:
    """Return the page.

    Args:
        trials: Every loop.
        classes: Names, in the order of the counts.
        seconds: All loops took.
    """
    others = " ".join(f"--member {name}:whisper-UTT" for name in MEMBERS[1:])
    head = HEAD.format(
        clips=_clips(trials), seeds=len(_seeds(trials)), loops=len(trials), first=MEMBERS[0], others=others,
        rounds=ROUNDS, patience=ROUNDS + 1, threshold=THRESHOLD, calibration=CALIBRATION, folds=FOLDS,
        epochs=EPOCHS, ceiling=CEILING.capitalize(), trainings=len(trials) * len(MEMBERS) * (ROUNDS + 2),
    )  # fmt: skip
    took = (
        f"All loops took {seconds / 60:.0f} minutes on one thread of a busy machine, without the extraction."
    )
    lines = [*head.splitlines(), "", took]
    parts = (_worth(trials), _rounds(trials), _classes(trials, classes), _promise(trials), _each(trials))
    for part in parts:
        lines += ["", *part]
    return "\n".join([*lines, "", *MEANING.splitlines()]) + "\n"


def _worth(trials: Sequence[Trial]) -> list[str]:
    arms, rows, told = [*names(), CHOSEN, CEILING], [], []
    base = {score: _bootstrap(_counts(trials, ALONE), score) for score in ("waf", "uar")}
    for arm in arms:
        found = {score: _bootstrap(_counts(trials, arm), score) for score in base}
        cells = [arm, *(f"{value:.3f} ({_span(percentile(draws))})" for value, draws in found.values())]
        gains = [(found[s][0] - base[s][0], percentile(found[s][1] - base[s][1])) for s in base]
        if arm != ALONE:
            cells += [f"{gain:+.3f} ({_span(spread, '+')})" for gain, spread in gains]
            cells += _wins(trials, arm)
            told.append(_gain(arm, *gains[0]))
        cells += [""] * (len(WORTH) - 1 - len(cells))
        rows.append([*cells, _out_of_fold_waf(trials, arm)])
    return ["## On speakers nobody has heard", "", *_table(WORTH, rows), "", *told]


def _wins(trials: Sequence[Trial], arm: str) -> list[str]:
    """Return in how many loops it is better, equal and worse, and how far the differences are spread."""
    gains = [_waf(t, arm) - _waf(t, ALONE) for t in trials]
    signs = [sum(gain > 0 for gain in gains), gains.count(0), sum(gain < 0 for gain in gains)]
    return [" / ".join(map(str, signs)), f"{np.std(gains, ddof=1):.3f}"]


def _out_of_fold_waf(trials: Sequence[Trial], arm: str) -> str:
    """Return the mean over loops of what a loop itself can see, where there is such a thing."""
    stages = [t.loop.best if arm == CHOSEN else _stage(t, arm) for t in trials]
    known = [stage.waf for stage in stages if stage is not None]
    return f"{np.mean(known):.3f}" if known else ""


def _stage(trial: Trial, arm: str) -> Stage | None:
    return trial.loop.stages[min(names().index(arm), len(trial.loop.stages) - 1)] if arm in names() else None


def _gain(arm: str, gain: float, spread: Interval) -> str:
    inside = spread.low <= 0 <= spread.high
    word = "the interval cannot tell it from none" if inside else "better" if gain > 0 else "worse"
    return f"- *{arm}*: {gain:+.3f} WAF ({_span(spread, '+')}): {word}."


def _rounds(trials: Sequence[Trial]) -> list[str]:
    head = ["", "loops", "judged a loop", "kept a loop (range)", "share kept", "estimated precision",
            "true precision", "over speakers", "Wilson", "range over loops", "flips a loop"]  # fmt: skip
    made = [(k, loops) for k in range(ROUNDS) if (loops := [t for t in trials if len(t.kept) > k])]
    rows = [_round(loops, k, _clips(trials)) for k, loops in made]
    note = (
        "*Estimated* is the mean calibrated probability of the kept labels. Every clip is judged in several "
        f"loops; the Wilson interval counts as if each of the {_clips(trials)} had been judged once."
    )
    return ["## Pseudo-labels", "", *_table(head, rows), "", note]


def _round(loops: Sequence[Trial], k: int, clips: int) -> list[str]:
    by = np.array([[t.kept[k].get(s, (0, 0, 0)) for s in SPEAKERS] for t in loops])
    each, (judged, kept, right) = by.sum(1), by.sum((0, 1))
    drawn = resample(np.ones(len(SPEAKERS), np.int64)) @ by.sum(0)
    told = [x for t in loops if (x := t.loop.stages[k + 1].labelled) is not None]
    sure = sum(p * x.counts[c] for x in told for c, p in x.estimated.items())
    flips = [x.flips for x in told if x.flips is not None]
    precision, often = each[:, 2] / each[:, 1], judged / clips
    return [
        f"round {k + 1}",
        str(len(loops)),
        f"{each[:, 0].mean():.0f}",
        f"{each[:, 1].mean():.0f} ({each[:, 1].min()} to {each[:, 1].max()})",
        f"{kept / judged:.2f}",
        f"{sure / kept:.3f}",
        f"{right / kept:.3f}",
        _span(percentile(drawn[:, 2] / drawn[:, 1])),
        _span(wilson(round(right / often), round(kept / often))),
        _span(Interval(precision.min(), precision.max())),
        f"{np.mean(flips):.1f}" if flips else "",
    ]


def _classes(trials: Sequence[Trial], classes: Sequence[str]) -> list[str]:
    """Return a table of rounds and of recall on the test speakers, by class."""
    support = _counts(trials, ALONE).sum((0, 1, 3))
    arms = [*names(), CEILING]
    recall = [np.diagonal(_counts(trials, arm).sum((0, 1))) / support for arm in arms]
    rows: list[list[str]] = []
    for c, name in enumerate(classes):
        row = [name, f"{support[c] / support.sum():.2f}"]
        for k in range(1, ROUNDS + 1):
            stages = [t.loop.stages[k] for t in trials if len(t.loop.stages) > k]
            found = [stage.labelled for stage in stages if stage.labelled is not None]
            right = sum(x.measured.get(name, (0, 0))[1] for x in found)
            mine = sum(x.counts[name] for x in found)
            row += [
                f"{mine / sum(x.kept for x in found):.2f}",
                f"{right / mine:.3f}" if mine else "none kept",
            ]
        rows.append([*row, *(f"{found[c]:.3f}" for found in recall)])
    what = [
        f"{what} {k}" for k in range(1, ROUNDS + 1) for what in ("share of round", "true precision, round")
    ]
    return _table(["class", "share of clips", *what, *(f"recall: {arm}" for arm in arms)], rows)


def _promise(trials: Sequence[Trial]) -> list[str]:
    rows, told = [], []
    for i, who in enumerate((*MEMBERS, VOTE)):
        for j, how in enumerate(("as trained", "calibrated")):
            cells, said = _word_kept(_surer(trials, i, j), _mean_confidence(trials, i, j))
            rows.append([who, how, *cells])
            if how == "calibrated":
                told.append(f"- {who}, calibrated: {said}")
    head = ["", "", "clips", "mean p", "precision", "over speakers", "Wilson", "Wilson, seed by seed"]
    out = [_out_of_fold(trials, i, who) for i, who in enumerate((*MEMBERS, VOTE))]
    return [
        f"## Does p > {THRESHOLD} mean right nine times of ten?",
        "",
        *PROMISE.format(threshold=THRESHOLD, clips=_clips(trials)).splitlines(),
        "",
        *_table(head, rows),
        "",
        *told,
        "",
        "What the labelled clips promised, out of fold, calibrated across folds:",
        "",
        *_table(["", f"clips surer than {THRESHOLD}, of all labelled", "precision"], out),
    ]


def _surer(trials: Sequence[Trial], i: int, j: int) -> NDArray[np.int64]:
    """Count clips surer than the threshold, and right ones among them: `[seeds, speakers, 2]`."""
    seeds = _seeds(trials)
    found = np.zeros((len(seeds), len(SPEAKERS), 2), np.int64)
    for t in trials:
        told = t.confident[i]
        sure = told.confidence[j] > THRESHOLD
        for speaker in t.parts.test:
            mine = sure & (told.speaker == speaker)
            at = seeds.index(t.seed), SPEAKERS.index(speaker)
            found[at] += (mine.sum(), (mine & told.right[j]).sum())
    return found


def _mean_confidence(trials: Sequence[Trial], i: int, j: int) -> float:
    every = np.concatenate([t.confident[i].confidence[j] for t in trials])
    return float(every[every > THRESHOLD].mean(dtype=np.float64)) if (every > THRESHOLD).any() else np.nan


def _word_kept(by: NDArray[np.int64], mean: float) -> tuple[list[str], str]:
    """Return cells and a sentence about sure decisions `[seeds, speakers, 2]`."""
    each, (n, right), seeds = by.sum(1), by.sum((0, 1)), len(by)
    if not n:
        return ["0", *[""] * 5], "no clip is as sure."
    drawn = resample(np.ones(len(SPEAKERS), np.int64)) @ by.sum(0)
    drawn = drawn[drawn[:, 0] > 0]
    spread = percentile(drawn[:, 1] / drawn[:, 0])
    once = wilson(round(right / seeds), round(n / seeds))
    single = [wilson(int(hits), int(sure)) for sure, hits in each]
    told = "; ".join(
        f"{hits}/{sure}: {_span(spread)}" for (sure, hits), spread in zip(each, single, strict=True)
    )
    words = [_word(spread) for spread in single]
    said = (
        f"at least {THRESHOLD}? Wilson: {_word(once)}; over speakers: {_word(spread)}; single seeds: "
        + ", ".join(f"{words.count(word)} {word}" for word in (YES, OPEN, NO))
        + "."
    )
    cells = [f"{n / seeds:.0f}", f"{mean:.3f}", f"{right / n:.3f}", _span(spread), _span(once), told]
    return cells, said


def _word(interval: Interval) -> str:
    return YES if interval.low >= THRESHOLD else NO if interval.high < THRESHOLD else OPEN


def _out_of_fold(trials: Sequence[Trial], i: int, who: str) -> list[str]:
    sure, right = np.sum([t.confident[i].held_out for t in trials], axis=0)
    labelled = sum(_of_speakers(trials, t.parts.labelled) for t in trials)
    return [who, f"{sure / labelled:.2f}", f"{right / sure:.3f}" if sure else ""]


def _each(trials: Sequence[Trial]) -> list[str]:
    arms = [*names(), CEILING]
    rows = [
        [str(t.seed), " ".join(t.parts.labelled), " ".join(t.parts.unlabelled), " ".join(t.parts.test),
         *(f"{_waf(t, arm):.3f}" for arm in arms), t.chosen]
        for t in trials
    ]  # fmt: skip
    head = ["seed", "labelled", "unlabelled", "test", *arms, "chosen out of fold"]
    return ["## Every loop", "", "WAF on the two test speakers.", "", *_table(head, rows)]


def _arm(trial: Trial, arm: str) -> str:
    return trial.chosen if arm == CHOSEN else arm


def _waf(trial: Trial, arm: str) -> float:
    total = np.sum(list(trial.confusion[_arm(trial, arm)].values()), axis=0)
    return float(scores_of(total)["waf"])


def _counts(trials: Sequence[Trial], arm: str) -> NDArray[np.int64]:
    """Return counts `[seeds, speakers, C, C]`, each speaker as a test speaker."""
    seeds = _seeds(trials)
    C = len(next(iter(trials[0].confusion[ALONE].values())))
    found = np.zeros((len(seeds), len(SPEAKERS), C, C), np.int64)
    for t in trials:
        for speaker, counts in t.confusion[_arm(t, arm)].items():
            found[seeds.index(t.seed), SPEAKERS.index(speaker)] += counts
    return found


def _bootstrap(counts: NDArray[np.int64], score: str) -> tuple[float, NDArray[np.float64]]:
    """Return the mean over seeds of a score, and its bootstrap over speakers `[R]`."""
    drawn = resample(np.ones(len(SPEAKERS), np.int64), RESAMPLES)
    total = np.einsum("rk,skij->rsij", drawn, counts)
    draws: NDArray[np.float64] = scores_of(total)[score].mean(1)
    return float(scores_of(counts.sum(1))[score].mean()), draws


def _seeds(trials: Sequence[Trial]) -> list[int]:
    return sorted({t.seed for t in trials})


def _clips(trials: Sequence[Trial]) -> int:
    return _of_speakers(trials, SPEAKERS)


def _of_speakers(trials: Sequence[Trial], speakers: Iterable[str]) -> int:
    """Count the clips of speakers."""
    known = {speaker: int(counts.sum()) for t in trials for speaker, counts in t.confusion[ALONE].items()}
    return sum(known[speaker] for speaker in speakers)


def _span(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
