"""What an extraction would do: which clips, into which spaces; made without loading any weights."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mer_featurestore.errors import StoreError, UnknownName
from mer_featurestore.records import LEVEL_SUFFIX, Clip, Level, SpaceSpec
from mer_featurestore.writer import check_fingerprint
from mer_plugins import adapters
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError, PluginError
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.media import duration

if TYPE_CHECKING:
    from mer_featurestore import Store

StoredType = Literal["float16", "float32"]
# Frames are many, and half precision keeps what an encoder knows; an utterance's one row saves nothing.
DEFAULT_DTYPE: dict[Level, StoredType] = {"utt": "float32", "frame": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants extracted.

    Attributes:
        plugin: Name of an extractor.
        options: What to tell it.
        adapter: Name of the store's adapter, or a folder; empty takes the extractor's own, if it has one.
        levels: `utt`, `frame` or both, made in one pass; empty takes the extractor's first.
        name: Stem of the spaces' names, instead of the plugin's.
        dtype: Stored type of all levels; None is float32 for utterances and float16 for frames.
        frame_hz: Average frames down to this many a second; None keeps them. Utterances stay as they are.
        split: Of these splits only.
        keys: These clips only.
        retry_failed: Take up clips in quarantine as well.
    """

    plugin: str
    options: Options = field(default_factory=Options)
    adapter: str = ""
    levels: tuple[Level, ...] = ()
    name: str = ""
    dtype: StoredType | None = None
    frame_hz: float | None = None
    split: str | tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    retry_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an extraction would do.

    Attributes:
        card: The extractor's card.
        extractor: The extractor, not loaded.
        specs: The spaces, one per level.
        todo: The clips to encode.
        missing: Per space, the keys of `todo` it does not have.
        selected: How many clips were selected.
        without: Those that have nothing of the modality.
        done: Those that are in every space.
        quarantined: Those that failed before and are left alone.
        frame_hz: Rows a second that frames are averaged down to; None keeps them.
        notices: What a person should know.
    """

    card: ExtractorCard
    extractor: Extractor[Any]
    specs: tuple[SpaceSpec, ...]
    todo: tuple[Clip, ...]
    missing: tuple[frozenset[str], ...]
    selected: int
    without: int
    done: int
    quarantined: int
    frame_hz: float | None = None
    notices: tuple[str, ...] = ()

    @property
    def spaces(self) -> tuple[str, ...]:
        """Names of the spaces."""
        return tuple(spec.name for spec in self.specs)

    def as_json(self) -> dict[str, Any]:
        """Return the plan with an estimate of bytes per space (None where nobody can tell)."""
        return {
            "spaces": {
                spec.name: {"fingerprint": spec.fingerprint, **spec.identity()} for spec in self.specs
            },
            "todo": len(self.todo),
            "selected": self.selected,
            "without_modality": self.without,
            "done": self.done,
            "quarantined": self.quarantined,
            "bytes": self.estimate(),
        }

    def estimate(self, probes: int = 16) -> dict[str, int | None]:
        """Return about how many bytes each space will grow by.

        Frames are counted from the clips' durations, or those of up to `probes` files where the catalogue
        has none; None when neither says.
        """
        sizes: dict[str, int | None] = {}
        for spec, missing in zip(self.specs, self.missing, strict=True):
            rows = 1.0 if spec.level == "utt" else self._mean_rows(probes)
            row = math.prod(spec.row_shape) * np.dtype(spec.dtype).itemsize
            sizes[spec.name] = None if math.isnan(rows) else round(len(missing) * rows * row)
        return sizes

    def _mean_rows(self, probes: int) -> float:
        hz = self.frame_hz or self.extractor.frame_hz
        known = [clip.duration for clip in self.todo if not math.isnan(clip.duration)]
        if hz and not known:
            step = max(1, len(self.todo) // probes)
            known = [_probe(getattr(clip, self.card.modality)) for clip in self.todo[::step]]
            known = [seconds for seconds in known if not math.isnan(seconds)]
        return hz * sum(known) / len(known) if hz and known else math.nan


def plan(store: "Store", request: Request) -> Plan:
    """Work out what has to be done; reads the catalogue and the spaces' keys, loads no weights.

    Raises:
        UnknownName: No such plugin, adapter, option, layer, level, split or key.
        PluginError: What is asked of the plugin makes no sense, or no selected clip has its modality.
        StoreError: There are no clips.
        FingerprintMismatch: A space of that name was made by another configuration.
    """
    card = find_extractor(request.plugin)
    options = _with_adapter(store, card, request)
    extractor = make_extractor(card, options)
    specs = specs_of(card, extractor, request)
    for spec in specs:
        check_fingerprint(spec, store.snapshot)
    clips = _select(store, card, request)
    having = [clip for clip in clips if clip.has(card.modality)]
    if not having:
        raise PluginError(
            f"none of the {len(clips)} selected clips has {card.modality}",
            f"ingest a catalogue with a column {card.modality}, or select others",
        )
    keys = [clip.key for clip in having]
    missing = [_missing(store, spec.name, keys) for spec in specs]
    failed = [frozenset() if request.retry_failed else _failed(store, spec.name) for spec in specs]
    open_keys = [m - f for m, f in zip(missing, failed, strict=True)]
    wanted = frozenset().union(*open_keys)
    absent = frozenset().union(*missing)
    todo = tuple(extractor.arrange([clip for clip in having if clip.key in wanted]))
    return Plan(
        card=card,
        extractor=extractor,
        specs=specs,
        todo=todo,
        missing=tuple(open_keys),
        selected=len(clips),
        without=len(clips) - len(having),
        done=len(having) - len(absent),
        quarantined=len(absent) - len(wanted),
        frame_hz=request.frame_hz,
        notices=(*_unknown_labels(options), *_unlike_tuning(options, extractor)),
    )


def specs_of(card: ExtractorCard, extractor: Extractor[Any], request: Request) -> tuple[SpaceSpec, ...]:
    """Return the specification of each level's space.

    Raises:
        UnknownName: A level that does not exist.
        PluginError: A level, or more rows a second, than the extractor can give.
    """
    levels = check_levels(card, request.levels)
    if request.frame_hz is not None:
        _check_rate(card, extractor, levels, request.frame_hz)
    stem = stem_of(request.name or card.name)
    common = {"plugin": card.name, "version": extractor.version, **extractor.made_by()}
    return tuple(
        SpaceSpec(
            name=f"{stem}-{LEVEL_SUFFIX[level]}",
            modality=card.modality,
            level=level,
            row_shape=extractor.utt_shape if level == "utt" else extractor.frame_shape,
            dtype=request.dtype or DEFAULT_DTYPE[level],
            made_by=common | _pooled(extractor, level, request.frame_hz),
            parents=extractor.parents,
        )
        for level in levels
    )


def stem_of(name: str) -> str:
    """Return a name without `-UTT` or `-FRA`."""
    for suffix in LEVEL_SUFFIX.values():
        name = name.removesuffix(f"-{suffix}")
    return name


def _pooled(extractor: Extractor[Any], level: Level, frame_hz: float | None) -> dict[str, Any]:
    if level == "utt":
        return {"pooling": extractor.pooling}
    return {} if frame_hz is None else {"frame_hz": frame_hz}


def _check_rate(card: ExtractorCard, extractor: Extractor[Any], levels: tuple[Level, ...], hz: float) -> None:
    if "frame" not in levels:
        raise PluginError("only frames have a rate, and none are asked for", "add --level utt,frame")
    if extractor.frame_hz is None:
        raise PluginError(f"{card.name} has no fixed number of rows a second", "leave --frame-hz out")
    if not 0 < hz <= extractor.frame_hz:
        raise PluginError(
            f"{card.name} gives {extractor.frame_hz:g} rows a second, of which {hz:g} cannot be made",
            f"say more than 0 and at most {extractor.frame_hz:g}",
        )


def check_levels(card: ExtractorCard, levels: Iterable[str]) -> tuple[Level, ...]:
    """Return the levels, the card's first when there are none; refuse those it cannot give."""
    chosen = tuple(dict.fromkeys(levels)) or card.levels[:1]
    for level in chosen:
        if level not in LEVEL_SUFFIX:
            raise UnknownName("level", level, LEVEL_SUFFIX)
        if level not in card.levels:
            raise PluginError(f"{card.name} gives no {level} level", f"it gives: {', '.join(card.levels)}")
    return tuple(level for level in LEVEL_SUFFIX if level in chosen)


def quarantined(store: "Store", space: str | None = None) -> dict[str, dict[str, str]]:
    """Return space -> key -> reason, of one space or of all that have anything in quarantine.

    Raises:
        UnknownName: There is no such space, neither with features nor with failures.
    """
    failed = store.snapshot.quarantined_spaces()
    if space is not None and space not in failed and space not in store.features:
        raise UnknownName("feature space", space, {*failed, *store.features})
    names = failed if space is None else [space]
    return {name: store.features.quarantine(name) for name in names}


def _with_adapter(store: "Store", card: ExtractorCard, request: Request) -> Options:
    which = request.adapter or card.adapter
    if not which:
        return request.options
    if not card.takes_adapter:
        raise PluginError(
            f"{card.name} takes no adapter",
            "leave --adapter out; a projection goes onto stored features: mer-fs derive SPACE --adapter NAME",
        )
    return replace(request.options, adapter=adapters.find(store, which))


def _unknown_labels(options: Options) -> tuple[str, ...]:
    """Tell that lineage cannot know the labels behind an adapter that is not in the store."""
    if options.adapter is None or options.adapter.ref:
        return ()
    adapter = options.adapter
    labels = "" if adapter.card.get("training") else " --labels LAYER"
    told = f"adapter {adapter.name} is used from its folder, so the store will not know which labels these "
    folder = shlex.quote(str(adapter.folder))
    told += f"features have seen; take it in: mer-fs adapters add {folder} --as NAME{labels}"
    return (f"{told}, and extract with --adapter NAME",)


def _unlike_tuning(options: Options, extractor: Extractor[Any]) -> tuple[str, ...]:
    """Tell where inputs are read, or layers taken, otherwise than while the adapter was tuned."""
    if options.adapter is None:
        return ()
    tuning = options.adapter.card.get("tuning")
    if not isinstance(tuning, Mapping) or not isinstance(tuning.get("rows"), Mapping):
        return ()
    made = json.loads(json.dumps(dict(extractor.made_by())))
    # Weights are checked when they are loaded; a coarser compute type is the user's choice.
    other = [
        f"{name} {fact} (here {made.get(name)})"
        for name, fact in tuning["rows"].items()
        if name not in ("checkpoint", "dtype") and made.get(name) != fact
    ]
    if not other:
        return ()
    told = f"adapter {options.adapter.name} was tuned with {', '.join(other)}"
    return (f"{told}; give the options it was tuned with, unless that is meant",)


def _select(store: "Store", card: ExtractorCard, request: Request) -> list[Clip]:
    if not len(store.clips):
        raise StoreError(f"the store {store.url} has no clips", "add some with: mer-fs ingest CATALOGUE.csv")
    clips = store.clips.select(split=request.split, keys=request.keys)
    if not clips:
        where = f"of split {request.split!r}" if request.split else "given"
        raise PluginError(f"no clips {where} to run {card.name} on", "select others with --split or --keys")
    return list({clip.key: clip for clip in clips}.values())


def _missing(store: "Store", space: str, keys: list[str]) -> frozenset[str]:
    return frozenset(store.features[space].missing(keys) if space in store.features else keys)


def _failed(store: "Store", space: str) -> frozenset[str]:
    return frozenset(store.features.quarantine(space))


def _probe(path: str | None) -> float:
    try:
        return duration(path) if path else math.nan
    except ClipError:
        return math.nan
