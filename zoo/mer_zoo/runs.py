"""Runs in the store: what was trained on what, how, and how well; with weights and predictions."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.metrics import Scores
from mer_zoo.settings import Settings
from mer_zoo.spaces import Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle
    from mer_zoo.prepared import Prepared

FORMAT = 1
OUT_OF_FOLD, MEAN_OF_FOLDS = 0, 1
EXPERIMENT = "experiment"
RUN, EVALUATION, COMPARISON, SEARCH, SEARCH_PART = "run", "evaluation", "comparison", "search", "search-part"
_PACKAGES = ("mer-fs", "torch", "numpy", "scikit-learn", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decided a run; together with the store at `commit` it repeats it.

    Attributes:
        model: Name of the model.
        params: All its parameters.
        inputs: Feature spaces with fingerprints.
        labels: Label layer.
        classes: Its classes, in the order of the logits.
        split: Whose human labels were seen.
        seed: Of folds and members.
        settings: Of training.
        folds: Key -> fold, of the human-labelled training clips.
        folds_asked: How many folds were asked for.
        group_by: How folds were to be grouped.
        grouped_by: What they were grouped by.
        pseudo: Keys of the pseudo-labelled clips that trained in every fold.
        standardise: Whether features were standardised on each training part.
        soft_labels: Whether pseudo-labels trained as probabilities.
        confidence_weights: Whether pseudo-labelled clips counted by their confidence.
        commit: Commit of the store that was read.
        device: Where it was trained.
        versions: Of Python and the packages that matter.
        warm: The run whose folds' weights it began with; None when it began from scratch.
    """

    model: str
    params: Mapping[str, Any]
    inputs: Inputs
    labels: str
    classes: tuple[str, ...]
    split: str
    seed: int
    settings: Settings
    folds: Mapping[str, int]
    folds_asked: int
    group_by: str
    grouped_by: str
    pseudo: tuple[str, ...]
    standardise: bool
    soft_labels: bool
    confidence_weights: bool
    commit: int
    device: str
    versions: Mapping[str, str] = field(default_factory=lambda: versions())  # noqa: PLW0108 - defined below
    warm: str | None = None

    @property
    def fold_count(self) -> int:
        """How many folds there are."""
        return max(self.folds.values()) + 1

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "format": FORMAT,
            **plain,
            "params": dict(self.params),
            "inputs": self.inputs.to_json(),
            "settings": self.settings.to_json(),
            "classes": list(self.classes),
            "pseudo": list(self.pseudo),
            "folds": dict(self.folds),
            "versions": dict(self.versions),
            "warm": self.warm,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "RunConfig":
        """Undo `to_json`.

        Raises:
            ZooError: A newer version wrote it.
        """
        if document["format"] > FORMAT:
            raise ZooError(
                f"the run has format {document['format']}; this version reads up to {FORMAT}",
                "upgrade mer-fs: pip install -U mer-fs",
            )
        return cls(
            **{name: document[name] for name in (*_PLAIN, "params", "folds", "versions")},
            inputs=Inputs.from_json(document["inputs"]),
            settings=Settings.from_json(document["settings"]),
            classes=tuple(document["classes"]),
            pseudo=tuple(document["pseudo"]),
            warm=document.get("warm"),  # runs of earlier versions all began from scratch
        )


_PLAIN = (
    "model",
    "labels",
    "split",
    "seed",
    "folds_asked",
    "group_by",
    "grouped_by",
    "standardise",
    "soft_labels",
    "confidence_weights",
    "commit",
    "device",
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Class probabilities of clips.

    Attributes:
        run: The run that made them.
        keys: n clips.
        classes: C names.
        probs: float32 `[n, C]`.
        origin: uint8 `[n]`: 0 = by the fold that had not seen the clip, 1 = mean of all folds' probabilities.
        missing: Keys that were asked for and have no features at all.
        folds: float32 `[K, n, C]`, what each fold says; an out-of-fold prediction K times. None unless asked.
    """

    run: str
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    probs: NDArray[np.float32]
    origin: NDArray[np.uint8]
    missing: tuple[str, ...] = ()
    folds: NDArray[np.float32] | None = None

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each clip."""
        return [self.classes[i] for i in self.probs.argmax(1)]

    @property
    def single(self) -> NDArray[np.float32]:
        """What each fold says, float32 `[K, n, C]`.

        Calibration and confusion are learned from out-of-fold predictions, and one fold made each of those.
        They hold for single folds on new clips too, and not for the mean of all, which is less extreme and
        more often right.

        Raises:
            ValueError: The predictions were made without `by_fold`.
        """
        if self.folds is None:
            raise ValueError("predict with by_fold=True")
        return self.folds

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat record per clip: `key`, `label`, `confidence`, `p_<class>` …, `origin`."""
        origins = ("out-of-fold", "mean-of-folds")
        return [
            {
                "key": key,
                "label": label,
                "confidence": round(float(p.max()), 6),
                **{f"p_{name}": round(float(x), 6) for name, x in zip(self.classes, p, strict=True)},
                "origin": origins[origin],
            }
            for key, label, p, origin in zip(self.keys, self.labels, self.probs, self.origin, strict=True)
        ]


class Run:
    """A trained run of a store.

    Attributes:
        name: Its name.
        bundle: Its files.
    """

    def __init__(self, bundle: "Bundle") -> None:
        self.bundle = bundle
        self.name = bundle.name

    @cached_property
    def config(self) -> RunConfig:
        """What it was trained on, and how."""
        return RunConfig.from_json(self.bundle.json("config.json"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`oof` (scores of out-of-fold predictions), `folds` (each fold's), `mean` (mean, std over folds)."""
        found: dict[str, Any] = self.bundle.json("metrics.json")
        return found

    @property
    def scores(self) -> Scores:
        """Scores over the out-of-fold predictions of all labelled training clips."""
        return Scores.from_json(self.metrics["oof"])

    @property
    def history(self) -> list[dict[str, Any]]:
        """Per fold: `name`, `best_epoch`, and `epochs` with loss, validation loss and WAF."""
        found: list[dict[str, Any]] = self.bundle.json("history.json")
        return found

    @cached_property
    def predictions(self) -> Predictions:
        """Stored ones: out-of-fold of human-labelled training clips, mean of folds of pseudo-labelled."""
        from safetensors.numpy import load

        arrays = load(self.bundle.read("predictions.safetensors"))
        keys = tuple(self.bundle.json("predictions.json")["keys"])
        return Predictions(self.name, keys, self.config.classes, arrays["probs"], arrays["origin"])

    def modules(self) -> "list[Prepared]":
        """Build the trained models, one per fold, on the CPU and in evaluation mode."""
        return [rebuild(self.config, state) for state in self.states()]

    def states(self) -> "tuple[Mapping[str, Tensor], ...]":
        """Read the state dict of each fold's `Prepared` module."""
        from safetensors.torch import load

        return tuple(load(self.bundle.read(weights_file(k))) for k in range(self.config.fold_count))


def rebuild(config: RunConfig, state: "Mapping[str, Tensor]") -> "Prepared":
    """Build a run's model with trained weights, on the CPU and in evaluation mode."""
    from mer_zoo.prepared import Prepared, blank_statistics
    from mer_zoo.registry import build_model, find_model

    widths = {name: chosen.width for name, chosen in config.inputs.chosen.items()}
    model = build_model(find_model(config.model), widths, len(config.classes), config.params)
    module = Prepared(model, blank_statistics(widths) if config.standardise else {})
    module.load_state_dict(state)
    return module.eval()


def run_facts(config: RunConfig, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the journal says of a run, so that listing runs opens no file."""
    scores = {name: metrics["oof"][name] for name in ("waf", "uar", "accuracy")}
    return {
        "type": RUN,
        "model": config.model,
        "labels": config.labels,
        "features": [str(chosen) for chosen in config.inputs.chosen.values()],
        "human": len(config.folds),
        "pseudo": len(config.pseudo),
        "folds": config.fold_count,
        "seed": config.seed,
        **scores,
        **({"warm": config.warm} if config.warm else {}),
    }


def weights_file(fold: int) -> str:
    """Name of the file with a fold's weights."""
    return f"fold-{fold}.safetensors"


def find_run(store: "Store", name: str) -> Run:
    """Return a run by name.

    Raises:
        UnknownName: There is no such run.
        ZooError: It is a record of another kind, such as an evaluation of a run.
    """
    if name not in store.runs:
        raise UnknownName("run", name, list_runs(store))
    bundle = store.runs[name]
    if bundle.attrs.get("type") != RUN:
        raise ZooError(*_what(bundle))
    return Run(bundle)


def _what(bundle: "Bundle") -> tuple[str, str]:
    """Say what a bundle is that is no run, and which run to name instead."""
    attrs = bundle.attrs
    kind = str(attrs.get("type"))
    runs = attrs.get("runs") or ([attrs["run"]] if attrs.get("run") else [])
    what = {
        EVALUATION: "an evaluation of a run",
        COMPARISON: "a comparison of runs",
        EXPERIMENT: "an experiment",
    }.get(kind, f"a {kind}")
    return (
        f"{bundle.name!r} is {what}",
        f"name the run itself: {' or '.join(runs)}" if runs else "mer-zoo runs lists the runs",
    )


def find_search(store: "Store", name: str) -> dict[str, Any] | None:
    """Return what a search found, as plain JSON values; None when that is no search."""
    bundle = store.runs.get(name)
    if bundle is None or bundle.attrs.get("type") != SEARCH:
        return None
    found: dict[str, Any] = bundle.json("search.json")
    return found


def list_runs(store: "Store") -> list[str]:
    """Return the names of the training runs, oldest first."""
    bundles = [b for b in store.runs.values() if b.attrs.get("type") == RUN]
    return [bundle.name for bundle in sorted(bundles, key=lambda b: b.commit)]


def list_evaluations(store: "Store", run: str) -> "list[Bundle]":
    """Return the evaluations of a run, oldest first."""
    bundles = [
        b for b in store.runs.values() if b.attrs.get("type") == EVALUATION and b.attrs.get("run") == run
    ]
    return sorted(bundles, key=lambda b: b.commit)


def summaries(store: "Store") -> list[dict[str, Any]]:
    """Return what the journal says of each run and its evaluations, oldest first, opening no file."""
    return [
        {
            "name": name,
            **store.runs[name].attrs,
            "commit": store.runs[name].commit,
            "time": store.runs[name].time,
            "evaluations": [{"name": b.name, **b.attrs} for b in list_evaluations(store, name)],
        }
        for name in list_runs(store)
    ]


def run_files(
    config: RunConfig,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    states: "Sequence[Mapping[str, Tensor]]",
    predictions: Predictions,
) -> dict[str, bytes]:
    """Return the files of a run."""
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save as save_tensors

    files = {
        "config.json": dump(config.to_json()),
        "metrics.json": dump(metrics),
        "history.json": dump(history),
        "predictions.json": dump({"keys": list(predictions.keys)}),
        "predictions.safetensors": save_arrays({"probs": predictions.probs, "origin": predictions.origin}),
    }
    for fold, state in enumerate(states):
        files[weights_file(fold)] = save_tensors({name: t.contiguous() for name, t in state.items()})
    return files


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run, importing none of them."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def dump(document: Any) -> bytes:
    """Return a JSON file as people can read it, UTF-8."""
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"
