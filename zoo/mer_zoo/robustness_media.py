"""Robustness where it counts: sounds or pictures damaged, and the features extracted anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mer_featurestore.records import Clip, Modality
from mer_plugins.contract import ExtractorCard
from mer_plugins.host import find_extractor
from mer_plugins.plan import Plan, Request, plan
from mer_zoo.data import Features, load_features
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Experiment, keep, measure
from mer_zoo.media_damage import Blank, Damage, Noise, damaged_film, damaged_sound
from mer_zoo.registry import find_model
from mer_zoo.robustness import MASKED, SNRS, check_ratios, decide, likeliest, removed, unseen
from mer_zoo.runs import Run, find_run
from mer_zoo.settings import check_seed
from mer_zoo.spaces import Inputs, guard
from mer_zoo.trainset import TEST, default_layer

if TYPE_CHECKING:
    from mer_featurestore import Store

_WRITERS = {"audio": (damaged_sound, "wav"), "video": (damaged_film, "mkv")}
_BLANK = {"audio": "silent", "video": "black"}
WITHOUT = "clips without"


def robustness_media(
    store: "Store",
    run: Run | str,
    request: Request,
    *,
    snrs: Sequence[float] = SNRS,
    masked: Sequence[float] = (MASKED,),
    stretches: int = 1,
    patch: float = 1.0,
    seed: int = 0,
    judge: str = TEST,
    labels: str | None = None,
    device: str = "auto",
    command: str = "",
) -> Experiment:
    """Damage sounds or pictures, extract features from what is left, and score what a run decides.

    Noise; silence or black for a share of the time; silence or black throughout; and, where the run reads
    anything else, no stream at all: the clip has nothing of the modality then, an extraction passes it over,
    and the features are absent. The copies and their features live in a temporary folder; the store gets the
    record alone. One line extracts from unchanged copies: what it loses is lost by copying. A clip that
    cannot be extracted any more, such as one in which no face is found, lacks the modality, as it would in
    use; each line says how many do. Where such a clip has nothing else, the class the run predicts most often
    stands for a decision.

    Args:
        store: The store.
        run: A run, or its name.
        request: The extraction that made one of its spaces, as it was asked for.
        snrs: Signal-to-noise ratios, in dB.
        masked: Shares of the time that are silent or black.
        stretches: In how many pieces (see `mer_zoo.media_damage.Blank`).
        patch: Share of the picture that is black during these.
        seed: Decides noise and places.
        judge: Split whose clips are predicted; those the run was trained on are left out.
        labels: Layer with their human labels; None takes `gold`, or the only one.
        device: torch device, or `auto`.
        command: For the journal.

    Raises:
        UnknownName: No such run, split, layer, plugin or option.
        FingerprintMismatch: The store's features were made otherwise than those the run was trained on.
        ZooError: The extraction is not the one that made a space the run reads, or is of text; a share is
            outside 0 to 1, or a ratio is no number.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    blanks = [Blank(share, stretches, patch) for share in masked]
    check_ratios(snrs)
    check_seed(seed)
    guard(store, run.config.inputs, run.name)
    layer = labels or default_layer(store)
    keys, label = unseen(store, run, layer, judge)
    name, planned = _input(store, run, replace(request, keys=tuple(keys)))
    bench = _Bench(store, run, name, planned, tuple(keys), seed)
    stored = decide(run, bench.features, device)
    said, facts = {"as stored": stored[None]}, {"as stored": {WITHOUT: _lacking(bench.features, name)}}
    for line, damage in bench.lines(snrs, blanks).items():
        changed = bench.extracted(damage)
        decided = decide(run, changed, device)
        said[line] = np.where((decided < 0) & (stored >= 0), likeliest(run), decided)[None]
        facts[line] = {WITHOUT: _lacking(changed, name)}
    lines = measure(label, said, len(run.config.classes), facts)
    return keep(
        store, "robustness-media", f"{judge} ({layer})", lines, command=command,
        parents=[f"runs/{run.name}", f"labels/{layer}"],
        facts={
            "run": run.name, "plugin": request.plugin, "snrs": list(snrs), "masked": list(masked),
            "stretches": stretches, "patch": patch, "seed": seed,
        },
    )  # fmt: skip


@dataclass(frozen=True)
class _Bench:
    """A run, the one of its inputs whose media are damaged, and the clips that judge it."""

    store: "Store"
    run: Run
    name: str
    planned: Plan
    keys: tuple[str, ...]
    seed: int

    @property
    def pooled(self) -> bool:
        """Whether the model reads single vectors."""
        return not find_model(self.run.config.model).frames

    @cached_property
    def features(self) -> Features:
        """What the store has of the clips."""
        return load_features(self.store, self.run.config.inputs, self.keys, pooled=self.pooled)

    def lines(self, snrs: Sequence[float], blanks: Sequence[Blank]) -> dict[str, Damage | None]:
        """Return what is done to the media, by the name of its line; None leaves no stream."""
        blank = _BLANK[self.planned.card.modality]
        found: dict[str, Damage | None] = {"copied unchanged": Noise(np.inf)}
        found |= {f"{self.name}, noise at {snr:g} dB in the media": Noise(snr) for snr in snrs}
        for damage in blanks:
            part = f"{damage.patch:.0%} of the picture " if damage.patch < 1 and blank == "black" else ""
            found[f"{self.name}, {part}{blank} for {damage.share:.0%} of the time"] = damage
        found[f"{self.name}, {blank} throughout"] = Blank(1.0)
        if len(self.features.tables) > 1:
            found[f"{self.name}, removed"] = None
        return found

    def extracted(self, damage: Damage | None) -> Features:
        """Return features in which one input comes from damaged copies of the clips' media."""
        from mer_featurestore import Store
        from mer_plugins.pipeline import extract

        inputs, modality = self.run.config.inputs, self.planned.card.modality
        with TemporaryDirectory() as folder:
            clips = [self.store.clips[key] for key in self.keys]
            copies = tuple(
                _copy(clip, modality, Path(folder), damage, self.seed + i) for i, clip in enumerate(clips)
            )
            there = tuple(clip for clip in copies if clip.has(modality))
            scratch = Store.create(Path(folder) / "store")
            scratch.clips.add(copies)
            keys = frozenset(clip.key for clip in there)
            extract(scratch, replace(self.planned, todo=there, missing=(keys,)))
            chosen = replace(inputs.chosen[self.name], space=self.planned.specs[0].name)
            if chosen.space not in scratch.features:  # not one clip could be extracted
                return removed(self.features, self.name)
            table = load_features(
                scratch, Inputs({self.name: chosen}, inputs.max_frames), self.keys, pooled=self.pooled
            ).tables[self.name]
        return replace(self.features, tables={**self.features.tables, self.name: table})


def _input(store: "Store", run: Run, request: Request) -> tuple[str, Plan]:
    """Return which of the run's inputs the extraction makes, and the plan of it."""
    _check_extractor(store, run, request, find_extractor(request.plugin))
    planned = plan(store, request)
    made = {spec.fingerprint: spec for spec in planned.specs}
    for name, chosen in run.config.inputs.chosen.items():
        if chosen.fingerprint in made:
            only = replace(made[chosen.fingerprint], parents=())  # adapters are not in the temporary store
            return name, replace(planned, specs=(only,))
    asked = ", ".join(f"{spec.name} {spec.fingerprint[:12]}" for spec in planned.specs)
    reads = ", ".join(f"{c} {c.fingerprint[:12]}" for c in run.config.inputs.chosen.values())
    raise ZooError(
        f"{run.name} reads {reads}, and this extraction makes {asked}",
        "repeat the options of the mer-fs extract that made it (mer-fs log shows them)",
    )


def _check_extractor(store: "Store", run: Run, request: Request, card: ExtractorCard) -> None:
    """Refuse what made none of a run's spaces before its checkpoint is looked for, perhaps on the hub."""
    if card.modality not in _WRITERS:
        raise ZooError(f"{card.name} reads {card.modality}", "sounds and pictures can be damaged")
    made = {str(c): store.features[c.space].spec.made_by for c in run.config.inputs.chosen.values()}
    own = [facts for facts in made.values() if facts.get("plugin") == card.name]
    if not own:
        sources = [
            f"{facts['source']} instead of {space}"
            for space, facts in made.items()
            if "source_fingerprint" in facts
        ]
        known = ", ".join(
            f"{space} ({facts.get('plugin', 'by no extractor')})" for space, facts in made.items()
        )
        raise ZooError(
            f"{run.name} reads {known}, and {card.name} made none of these",
            f"derived features are not made anew: train a run on {', '.join(sources)}"
            if sources
            else "name the extractor that made one: --plugin NAME",
        )
    checkpoints = {str(facts["checkpoint"]["model"]) for facts in own if facts.get("checkpoint")}
    if card.model and not request.options.model and checkpoints and card.model not in checkpoints:
        raise ZooError(
            f"{card.name} would take {card.model}, and {run.name} reads features of {', '.join(checkpoints)}",
            "name that checkpoint: --model PATH|ID",
        )


def _copy(clip: Clip, modality: Modality, folder: Path, damage: Damage | None, seed: int) -> Clip:
    """Return a clip whose medium is damaged, or gone; one without, or that cannot be read, stays."""
    from mer_plugins.errors import ClipError

    source = getattr(clip, modality)
    if not source:
        return clip
    if damage is None:
        return _with(clip, modality, None)
    write, suffix = _WRITERS[modality]
    try:
        made = write(source, folder / f"{seed}.{suffix}", damage, seed)
    except ClipError:
        return clip  # the pipeline will say why
    return _with(clip, modality, str(made))


def _with(clip: Clip, modality: Modality, path: str | None) -> Clip:
    if modality == "audio":
        return replace(clip, audio=path, content_hash="")
    return replace(clip, video=path, content_hash="")


def _lacking(features: Features, name: str) -> int:
    return int((features.tables[name].length == 0).sum())
