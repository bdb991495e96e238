"""Which hidden layers of an encoder know the emotion: a probe per layer, a learned mix, and the best band."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import UnknownName
from mer_plugins.pipeline import How, Request
from mer_zoo.errors import ZooError
from mer_zoo.experiments import Line, keep, measure
from mer_zoo.probing.band import PROBE, Band, best_block, choose_band, default_width
from mer_zoo.probing.data import Course, ProbeData, collect, find_space, labelled
from mer_zoo.probing.extraction import extract_layers
from mer_zoo.probing.space import score_once, spread

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.records import SpaceSpec
    from mer_zoo.probing.fitting import Mixed
    from mer_zoo.trainset import TrainSet

MIX = "mix"
_DIGITS = 4
Progress = Callable[[str, int, int], None]
"""Called with (what is done, done, in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProbe:
    """A probe of an encoder's layers that is on record.

    Attributes:
        record: Name of the record in the store: `lines.json` and, with matplotlib, `figure.png`.
        plugin: The extractor.
        space: Where its layers are.
        labels: Label layer.
        judged: What the probes were judged on.
        lines: One per layer, ascending, and the mix's, if there is one. `gain` and `uar_gain` are above the
            best layer. Their
            facts: `layer` (None for the mix), `waf_std` and `uar_std` over seeds, and the layer's `weight` in
            the mix.
        best: The layer of highest UAR.
        band: The best contiguous layers; None when only layer 0 was probed.
        weighted: What to type after `--layers` for a space of the learned mix; empty where there is none.
        seconds: Of training.
        notices: What a person should know.
    """

    record: str
    plugin: str
    space: str
    labels: str
    judged: str
    lines: tuple[Line, ...]
    best: int
    band: Band | None
    weighted: str
    seconds: float
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        names = ("record", "plugin", "space", "labels", "judged", "best", "weighted")
        return {
            **{name: getattr(self, name) for name in names},
            "lines": [line.to_json() for line in self.lines],
            "band": [self.band.first, self.band.last] if self.band else None,
            "seconds": round(self.seconds, 2),
            "notices": list(self.notices),
        }


def probe_layers(
    store: "Store",
    request: Request,
    labels: str | None = None,
    *,
    space: str | None = None,
    layers: str = "all",
    course: Course | None = None,
    band: int | None = None,
    mix: bool = True,
    how: How | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> LayerProbe:
    """Extract all layers of the labelled clips, probe each, learn a mix, and put what was found on record.

    Args:
        store: The store; it moves to the commits of the extraction and of the record.
        request: The extractor and its options; layers, level and clips are chosen here. The space is called
            `PLUGIN-layers-UTT` unless it names it.
        labels: Label layer; None takes `gold`, or the only one. Human labels alone are seen.
        space: A space that keeps layers apart, to probe instead of extracting.
        layers: Which to probe: `all`, or numbers and bands, `0,4-8`.
        course: How probes are trained and judged.
        band: Layers in the best band at most; None for a quarter of the blocks.
        mix: Whether to learn a mix of the layers too.
        how: How to extract.
        progress: Told how it goes on.
        command: For the journal.

    Raises:
        UnknownName: No such extractor, option, space, label layer, split or layer.
        PluginError: The extractor has no layers, or cannot run.
        FingerprintMismatch: There is a space of that name that was made otherwise.
        ZooError: The space is another extractor's or keeps no layers, or there is nothing to probe on.
        KeyboardInterrupt: The extraction was told to stop; what it did is kept.
    """
    course = course or Course()
    chosen = labelled(store, labels, course.split)
    told = progress or _silent
    notices: tuple[str, ...] = ()
    if space is None:
        space, notices = extract_layers(store, request, chosen.keys, how, partial(told, "extracting"))
    spec = find_space(store, space).spec
    numbers = layers_of(spec, request.plugin)
    probed = read_layers(layers, numbers)
    data = collect(store, space, chosen, course, [numbers.index(layer) for layer in probed])
    began = time.monotonic()
    said, mixed = _fit(data, course, mix, told)
    seconds = time.monotonic() - began
    lines, best = _lines(data, probed, said, mixed)
    width = default_width(max(numbers)) if band is None else band
    chosen_band = _band(data, probed, said, lines, width)
    weighted = _weighted(mixed, probed, numbers)
    found = _record(
        store, request, spec, data.chosen, course, lines,
        band=chosen_band, best=best, weighted=weighted, command=command, notices=(*notices, *data.notices),
    )  # fmt: skip
    named = Band(*chosen_band, found.record) if chosen_band else None
    return LayerProbe(
        record=found.record, plugin=request.plugin, space=space, labels=chosen.layer, judged=found.judged,
        lines=lines, best=best, band=named, weighted=weighted, seconds=seconds, notices=found.notices,
    )  # fmt: skip


def layers_of(spec: "SpaceSpec", plugin: str) -> tuple[int, ...]:
    """Return the numbers of the layers on a space's layer axis.

    Raises:
        ZooError: It has no such axis, or another extractor made it.
    """
    made = spec.made_by
    if made.get("plugin", plugin) != plugin:
        raise ZooError(
            f"{spec.name!r} was made by {made['plugin']}, not by {plugin}",
            f"say mer-zoo probe-layers {made['plugin']}, or another --space",
        )
    if len(spec.row_shape) < 2:
        raise ZooError(
            f"{spec.name!r} keeps no layers apart: its rows have the shape {spec.row_shape}",
            "leave --space out, and all layers are extracted",
        )
    listed = tuple(int(layer) for layer in made.get("layers", ()))
    return listed if len(listed) == spec.row_shape[0] else tuple(range(spec.row_shape[0]))


def read_layers(text: str, there: Sequence[int]) -> tuple[int, ...]:
    """Read `all`, or numbers and bands like `0,4-8`, as the layers to probe, ascending.

    Raises:
        UnknownName: Not of this form, or a layer that is not there.
    """
    if text == "all":
        return tuple(there)
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = first.isdecimal() and (last.isdecimal() if dash else True)
        wanted = range(int(first), int(last or first) + 1) if numbers else range(0)
        if not wanted or not set(wanted) <= set(there):
            remedy = f"there are layers {there[0]} to {there[-1]}: say all, or numbers and bands like 0,2-4"
            raise UnknownName("layers", part.strip(), ("all",), remedy)
        found |= set(wanted)
    return tuple(sorted(found))


def _fit(
    data: ProbeData, course: Course, mix: bool, told: Progress
) -> tuple[NDArray[np.int64], "Mixed | None"]:
    from mer_zoo.probing.fitting import fit_layers, fit_mix

    said = fit_layers(data, course, partial(told, "probing")).argmax(-1)
    several = mix and data.rows.shape[1] > 1
    return said, fit_mix(data, course, partial(told, "mixing")) if several else None


def _lines(
    data: ProbeData, probed: Sequence[int], said: NDArray[np.int64], mixed: "Mixed | None"
) -> tuple[tuple[Line, ...], int]:
    """Return a line per layer and the mix's, each compared with the best layer, and the best layer."""
    label = data.chosen.label
    uar = [float(np.mean([score_once(label, one, "uar") for one in decided])) for decided in said]
    best = probed[int(np.argmax(uar))]
    named = {f"layer {layer}": decided for layer, decided in zip(probed, said, strict=True)}
    facts: dict[str, dict[str, Any]] = {f"layer {layer}": {"layer": layer} for layer in probed}
    if mixed is not None:
        named[MIX], facts[MIX] = mixed.logits.argmax(-1), {"layer": None}
        for layer, share in zip(probed, mixed.share, strict=True):
            facts[f"layer {layer}"]["weight"] = float(share)
    for name, decided in named.items():
        facts[name] |= {f"{score}_std": spread(label, decided, score) for score in ("waf", "uar")}
    return _measured(data, named, f"layer {best}", facts), best


def _measured(
    data: ProbeData, named: Mapping[str, NDArray[np.int64]], first: str, facts: Mapping[str, dict[str, Any]]
) -> tuple[Line, ...]:
    """Return the lines in the order of `named`, compared with one of them."""
    ordered = {first: named[first], **named}
    lines = {line.name: line for line in measure(data.chosen.label, ordered, len(data.chosen.classes), facts)}
    return tuple(lines[name] for name in named)


def _band(
    data: ProbeData, probed: Sequence[int], said: NDArray[np.int64], lines: Sequence[Line], most: int
) -> tuple[int, int] | None:
    """Choose the band by UAR; alike is what the 95 % interval of the difference does not tell apart."""
    uar = dict(zip(probed, (line.uar for line in lines), strict=False))
    best = best_block(uar)
    compared = {line.name: line for line in lines}
    if best is not None and compared[f"layer {best}"].uar_gain < 0:  # layer 0 is what lines are compared with
        named = {f"layer {layer}": decided for layer, decided in zip(probed, said, strict=True)}
        compared = {line.name: line for line in _measured(data, named, f"layer {best}", {})}
    alike = [layer for layer in probed if compared[f"layer {layer}"].uar_gain_interval.high >= 0]
    return choose_band(uar, alike, most)


def _weighted(mixed: "Mixed | None", probed: Sequence[int], numbers: Sequence[int]) -> str:
    """Return the mix as `--layers` reads it: a weight for each layer, 0 for those not probed."""
    if mixed is None or tuple(numbers) != tuple(range(len(numbers))):
        return ""
    weight = dict(zip(probed, mixed.raw, strict=True))
    return "weighted:" + ",".join(f"{weight.get(layer, 0):.{_DIGITS}g}" for layer in numbers)


def _record(
    store: "Store",
    request: Request,
    spec: "SpaceSpec",
    chosen: "TrainSet",
    course: Course,
    lines: Sequence[Line],
    *,
    band: tuple[int, int] | None,
    best: int,
    weighted: str,
    notices: Sequence[str],
    command: str,
) -> Any:
    from mer_zoo.report.probe import write_curve

    labels = chosen.layer
    found: Mapping[str, Any] = {
        "plugin": request.plugin,
        "checkpoint": spec.made_by.get("checkpoint"),
        "space": spec.name,
        "fingerprint": spec.fingerprint,
        "labels": labels,
        "best": best,
        "band": list(band) if band else None,
        "weighted": weighted,
    }
    trained = {name: getattr(course, name) for name in ("seeds", "folds", "split", "group_by", "hidden")}
    trained["model"] = request.options.model  # as typed, to be typed again
    trained["options"] = dict(request.options.extra)
    settings = course.training(len(chosen.clips)).to_json()
    return keep(
        store, PROBE, f"{course.split} ({labels}), out of fold", lines,
        parents=[f"features/{spec.name}", f"labels/{labels}"],
        facts={**found, **trained, "clips": len(chosen.clips), "settings": settings}, attrs=found,
        notices=notices, command=command, draw=partial(write_curve, lines, band),
    )  # fmt: skip


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
