"""An adapter's folder: which files it has, reading and checking them, and what can be said of it.

The same layout on disk and in a store (see docs/adapters.md):

- `adapter_config.json` and `adapter_model.safetensors`, as peft saves them, or of one of two types of our
  own: `BOTTLENECK` (see `mer_plugins.bottleneck`) and `WEIGHTS` (tensors that replace the encoder's);
- `fold-<k>/adapter_model.safetensors`, k from 0: weights of the same configuration that never saw the labels
  of the clips that `card.json` assigns to fold k;
- `projection.safetensors`: a head on the rows of features (see `mer_plugins.projection`);
- `card.json`: what is known of it, above all which labels it has seen.
"""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from mer_plugins.checkpoints import Source, locate
from mer_plugins.errors import PluginError
from mer_plugins.projection import shapes_of

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "card.json"
PROJECTION = "projection.safetensors"
FORMAT = 1  # of card.json
# What peft can merge into a model's weights, and what its tensors are called.
TUNERS = {"LORA": "lora_", "LOHA": "hada_", "LOKR": "lokr_", "OFT": "oft_", "IA3": "ia3_"}
BOTTLENECK, REPLACED = "BOTTLENECK", "WEIGHTS"
KINDS = (*TUNERS, BOTTLENECK, REPLACED)
# What `describe` finds out itself; everything else in a folder's card.json is taken over.
OWN = ("format", "type", "base", "targets", "layers", "rank", "alpha", "parameters", "projection", "weights")
_SAYS = '"training": {"labels": LAYER, "keys": [CLIP, …], "folds": {CLIP: FOLD, …} or null}'
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_FOLD = re.compile(r"fold-(\d+)")

Shapes = dict[str, tuple[int, ...]]


def describe(
    folder: Path, base: Source | None = None, said: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the card of an adapter's folder.

    It says `format`, `type` (peft's, `BOTTLENECK`, `WEIGHTS`, or `PROJECTION` for a head alone), `base`
    (`model`, `revision`, `weights_sha256`), `targets` (names of the modules it changes), `layers` (numbers of
    their blocks, from 0), `rank` (or the bottleneck's size), `alpha`, `parameters` (of one set of weights and
    the head), `projection` (None, or its widths `[in, out]`), `weights` (`all`: whether there are weights
    trained on all data; `folds`: how many out-of-fold sets), `training`, and whatever else the folder's own
    `card.json` says. `training` is None, or `labels` (a layer), `keys` (the clips whose labels were used) and
    `folds` (None, or the fold of each clip whose label the weights of that fold have not seen).

    Args:
        folder: An adapter's.
        base: The checkpoint it was trained on; without it what `card.json` or else `adapter_config.json`
            says, whose weights are hashed if it is a folder that exists.
        said: What else is known, over what the folder's `card.json` says.

    Raises:
        PluginError: It is no adapter, is pickled, of a kind that cannot be used, lacks tensors, or its folds
            are not told.
    """
    told = read_card(folder) | dict(said or {})
    config = read_config(folder) if _has_config(folder) else {}
    shapes = _checked_shapes(folder, config) if config else {}
    head = shapes_of(folder / PROJECTION) if (folder / PROJECTION).is_file() else {}
    modules = sorted({module for module in (adapted(key, config) for key in shapes) if module})
    folds = fold_files(folder)
    training = _training(folder, told.get("training"), len(folds))
    return {
        "format": FORMAT,
        "type": config.get("peft_type", "PROJECTION"),
        "base": _base(config, told, base),
        "targets": sorted({module.rpartition(".")[2] for module in modules}),
        "layers": _layers(config, modules),
        "rank": config.get("r", config.get("bottleneck")),
        "alpha": config.get("lora_alpha", config.get("alpha")),
        "parameters": sum(prod(shape) for shape in (*shapes.values(), *head.values())),
        "projection": [head["weight"][1], head.get("weight2", head["weight"])[0]] if head else None,
        "weights": {"all": (folder / WEIGHTS).is_file(), "folds": len(folds)},
        "training": training,
        **{fact: value for fact, value in told.items() if fact not in (*OWN, "training")},
    }


def adapted(key: str, config: Mapping[str, Any]) -> str:
    """Return the module a tensor of the adapter changes; empty for tensors saved whole, such as heads."""
    kind = config["peft_type"]
    if kind == BOTTLENECK:
        return ""
    if kind == REPLACED:
        return key.rpartition(".")[0]
    found = re.match(rf"(?:base_model\.model\.)?(.+?)\.{TUNERS[kind]}\w+(\.|$)", key)
    return found[1] if found else ""


def fold_files(folder: Path) -> list[Path]:
    """Return the weights of each fold, `fold-0` first; none when the adapter has no folds.

    Raises:
        PluginError: A fold, or its weights, is missing between others.
    """
    found = {int(m[1]): path for path in folder.glob("fold-*") if (m := _FOLD.fullmatch(path.name))}
    files = [folder / f"fold-{k}" / WEIGHTS for k in range(max(found, default=-1) + 1)]
    if lacking := [file for file in files if not file.is_file()]:
        raise PluginError(
            f"{folder} has fold-{max(found)} and no {lacking[0].relative_to(folder)}{_pickled(lacking[0])}",
            "folds are numbered from 0 without gaps, with safetensors weights in each",
        )
    return files


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed `adapter_config.json`.

    Raises:
        PluginError: There is none, or it is of a kind that cannot be used.
    """
    if not (folder / CONFIG).is_file():
        raise PluginError(f"{folder} has no {CONFIG}", "give the folder that save_pretrained of peft wrote")
    config = Source(folder, folder.name).json(CONFIG)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise PluginError(
            f"{folder} is an adapter of type {kind}, which cannot be used here",
            f"there are: {', '.join(KINDS)}",
        )
    if config.get("bias", "none") != "none":
        raise PluginError(f"{folder} trains biases besides its own weights", "train with bias='none'")
    if kind == BOTTLENECK:
        _check_bottleneck(folder, config)
    return config


def read_card(folder: Path) -> dict[str, Any]:
    """Return the folder's own `card.json`; empty when it has none.

    Raises:
        PluginError: It is no JSON object, or of a later format.
    """
    if not (folder / CARD).is_file():
        return {}
    card = Source(folder, folder.name).json(CARD)
    check_format(card, str(folder / CARD))
    return card


def check_format(card: Mapping[str, Any], where: str) -> None:
    """Refuse a card of a later release.

    Raises:
        PluginError: It is one.
    """
    if card.get("format", FORMAT) != FORMAT:
        raise PluginError(
            f"the card {where} is of format {card.get('format')}, this release reads {FORMAT}",
            "use a newer mer-fs",
        )


def write_config(folder: Path, *, base: Source, **facts: Any) -> None:
    """Write `adapter_config.json` of one of our own types.

    Args:
        folder: Made if need be.
        base: The checkpoint the adapter is trained on.
        **facts: `peft_type` and what else it takes: for `BOTTLENECK` also `bottleneck`, `layers` (block
            numbers from 0) and `activation`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = base.model if base.revision else str(base.folder.resolve())
    config = {**facts, "base_model_name_or_path": named, "revision": base.revision}
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    read_config(folder)


def _has_config(folder: Path) -> bool:
    """Say whether there is more than a projection; refuse a folder that has neither."""
    if (folder / PROJECTION).is_file() and not (folder / CONFIG).is_file():
        beside = [name for name in (WEIGHTS, "fold-0") if (folder / name).exists()]
        if not beside:
            return False
    read_config(folder)
    return True


def _checked_shapes(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the adapter's tensors, the same in each set of its weights."""
    top, folds = folder / WEIGHTS, fold_files(folder)
    files = [top] * (top.is_file() or not folds) + folds
    first, *others = [(file, _shapes(file)) for file in files]
    _check_tensors(first[0], first[1], config)
    for file, shapes in others:
        if shapes != first[1]:
            odd = sorted(k for k in {*shapes, *first[1]} if shapes.get(k) != first[1].get(k))
            raise PluginError(
                f"{file} and {first[0]} are not of one configuration: {', '.join(odd[:3])} differ",
                "all folds have tensors of the same names and shapes",
            )
    return first[1]


def _check_tensors(file: Path, shapes: Shapes, config: Mapping[str, Any]) -> None:
    kind = config["peft_type"]
    if kind == BOTTLENECK:
        places = (f"blocks.{k}.{part}" for k in config["layers"] for part in ("down", "up"))
        wanted = {f"{place}.{what}" for place in places for what in ("weight", "bias")}
        if lacking := sorted(wanted - set(shapes)):
            raise PluginError(f"{file} has no {', '.join(lacking[:3])}", "is it whole?")
        if odd := sorted(set(shapes) - wanted):
            raise PluginError(f"{file} has tensors of no bottleneck: {', '.join(odd[:3])}", "is it whole?")
    elif not any(adapted(key, config) for key in shapes):
        raise PluginError(f"{file} has no {kind} tensors", "is it whole?")


def _check_bottleneck(folder: Path, config: Mapping[str, Any]) -> None:
    size, layers = config.get("bottleneck"), config.get("layers")
    blocks = isinstance(layers, list) and layers and all(isinstance(k, int) and k >= 0 for k in layers)
    if not isinstance(size, int) or size < 1 or not blocks:
        raise PluginError(
            f"{folder / CONFIG} does not say how wide its bottlenecks are and behind which blocks",
            'it needs "bottleneck": SIZE and "layers": [block numbers from 0]',
        )


def _layers(config: Mapping[str, Any], modules: list[str]) -> list[int]:
    if config.get("peft_type") == BOTTLENECK:
        return sorted(set(config["layers"]))
    return sorted({int(found[1]) for module in modules if (found := _BLOCK.search(f"{module}."))})


def _base(config: Mapping[str, Any], told: Mapping[str, Any], base: Source | None) -> dict[str, str]:
    named = str(config.get("base_model_name_or_path") or "")
    if base is None and told.get("base"):
        facts = told["base"]
        return {name: str(facts.get(name) or "") for name in ("model", "revision", "weights_sha256")}
    if base is None and named and Path(named).is_dir():
        base = locate(named)
    return {
        "model": base.model if base else named,
        "revision": base.revision if base else str(config.get("revision") or ""),
        "weights_sha256": base.made_by()["weights_sha256"] if base else "",
    }


def _training(folder: Path, training: Any, folds: int) -> dict[str, Any] | None:
    """Return what the card says of the labels, made sure that it fits the folds there are."""
    if training is not None and not _is_training(training):
        raise PluginError(f"{folder / CARD} does not say properly what it was trained on", _SAYS)
    assigned = (training or {}).get("folds") or {}
    if folds and not assigned:
        raise PluginError(
            f"{folder} has {folds} folds, and nothing says which clips each has not seen",
            f"put them into its {CARD}: {_SAYS}",
        )
    if assigned and not folds:
        raise PluginError(
            f"the card of {folder} assigns {len(assigned)} clips to folds, and there are no weights of folds",
            f"put them into fold-0/{WEIGHTS}, fold-1/{WEIGHTS} …",
        )
    if wrong := [key for key, k in assigned.items() if not 0 <= k < folds]:
        raise PluginError(
            f"{folder} has folds 0 to {folds - 1}, and assigns {wrong[0]!r} to fold {assigned[wrong[0]]}",
            "are folds missing?",
        )
    return None if training is None else {"labels": "", "keys": sorted(assigned), "folds": None, **training}


def _is_training(training: Any) -> bool:
    """Say whether a card's `training` is of the shape it must have."""
    if not isinstance(training, dict):
        return False
    keys, folds = training.get("keys", []), training.get("folds") or {}
    return (
        isinstance(keys, list)
        and all(isinstance(key, str) for key in keys)
        and isinstance(folds, dict)
        and all(isinstance(k, int) for k in folds.values())
    )


def _shapes(file: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise PluginError(
            f"{file.parent} has no {WEIGHTS}{_pickled(file)}",
            "save it again with a current peft, which writes safetensors",
        )
    try:
        with safe_open(file, "np") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise PluginError(f"{file} is no whole safetensors file: {error}", "get the file anew") from error


def _pickled(file: Path) -> str:
    there = file.with_name("adapter_model.bin").is_file()
    return ", only a pickled one, which could run code" if there else ""
