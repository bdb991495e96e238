"""Adapters (LoRA and kin, as peft saves them): reading them, keeping them in a store, finding them again.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. In a store it is a bundle
`adapters/NAME` of those two files and `card.json`, which says what the base model was and which labels it was
trained on, so that lineage can tell which features have seen which labels. `mer_plugins.merging` puts
adapters into models.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import Damaged, UnknownName
from mer_featurestore.records import canonical_json
from mer_plugins.checkpoints import Source, digest_of, is_hub_id, locate, sha256
from mer_plugins.errors import PluginError

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "card.json"
FORMAT = 1  # of card.json
# What can be merged into a model's weights, and what its tensors are called.
TUNERS = {"LORA": "lora_", "LOHA": "hada_", "LOKR": "lokr_", "OFT": "oft_", "IA3": "ia3_"}
# What decides no value: where the base came from, who wrote the file.
_INCIDENTAL = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "runtime_config", "task_type",
)  # fmt: skip
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


@dataclass(frozen=True)
class Adapter:
    """One adapter on this machine.

    Attributes:
        name: Of the store's adapter, or of the folder.
        folder: Where its files are.
        card: What is known of it; see `describe`.
        ref: `adapters/NAME` in a store; empty for a folder.
    """

    name: str
    folder: Path
    card: Mapping[str, Any] = field(compare=False)
    ref: str = ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The parsed `adapter_config.json`."""
        return _config(self.folder)

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """The adapter's part of a fingerprint: its type, and a hash of its weights and settings."""
        deciding = {name: _ordered(v) for name, v in self.config.items() if name not in _INCIDENTAL}
        whole = canonical_json({"weights": sha256(self.folder / WEIGHTS), "config": deciding})
        return {"type": self.config["peft_type"], "sha256": digest_of(whole)}

    def check_base(self, source: Source) -> None:
        """Refuse a checkpoint that the adapter was not trained on, as far as its card knows.

        Raises:
            PluginError: Other weights than the card names or, where it has no hash, another hub id.
        """
        base = self.card["base"]
        if known := base["weights_sha256"]:
            found = source.made_by()["weights_sha256"]
            if found != known:
                raise PluginError(
                    f"adapter {self.name} was trained on {base['model']} (weights {known[:12]}), "
                    f"and {source.model} has other weights ({found[:12]})",
                    "give its base with --model PATH; if that is it in files of another format, "
                    "add the adapter again with --base PATH",
                )
        elif source.revision and is_hub_id(base["model"]) and base["model"] != source.model:
            raise PluginError(
                f"adapter {self.name} was trained on {base['model']}, not on {source.model}",
                f"say --model {base['model']}",
            )


def find(store: "Store", which: str) -> Adapter:
    """Return the adapter of a folder, or of that name in the store.

    Raises:
        UnknownName: There is neither.
        PluginError: The folder is no adapter that can be used.
        Damaged: The store's files are not those that were added.
    """
    if which in store.adapters:
        return of_bundle(store.adapters[which])
    folder = Path(which).expanduser()
    if folder.is_dir():
        return read_folder(folder)
    raise UnknownName("adapter", which, store.adapters, f"{_there_are(store)}; {how_to_make(which)}")


def of_bundle(bundle: "Bundle") -> Adapter:
    """Return an adapter of a store, its files checked.

    Raises:
        PluginError: Its card is of a later format.
        Damaged: Its files are not those that were added.
    """
    card = bundle.json(CARD)
    if card.get("format") != FORMAT:
        raise PluginError(
            f"the card of {bundle.entry.ref} is of format {card.get('format')}, this release reads {FORMAT}",
            "use a newer mer-fs",
        )
    for file in (CONFIG, WEIGHTS):
        if sha256(bundle.path(file)) != bundle.entry.files[file]["sha256"]:
            raise Damaged(f"{bundle.path(file)} is damaged: its checksum does not match", "restore it")
    return Adapter(bundle.name, bundle.path(WEIGHTS).parent, card, bundle.entry.ref)


def read_folder(folder: Path) -> Adapter:
    """Return the adapter in a folder that peft wrote.

    Raises:
        PluginError: It is no adapter, is pickled, of a kind that cannot be merged, or has no tensors.
    """
    return Adapter(folder.resolve().name, folder, describe(folder))


def describe(folder: Path, base: Source | None = None) -> dict[str, Any]:
    """Return the card of an adapter's folder.

    It says `format`, `type`, `base` (model, revision, weights_sha256), `targets` (names of the modules it
    changes), `layers` (numbers of their blocks, from 0), `rank`, `alpha`, `parameters`, and `training`, None
    here and otherwise `labels` (a layer), `keys` (the clips) and `folds`.

    Args:
        folder: As peft saved it.
        base: The checkpoint it was trained on; without it what `adapter_config.json` says, whose weights are
            hashed if it is a folder that exists.

    Raises:
        PluginError: See `read_folder`.
    """
    config, shapes = _config(folder), _shapes(folder)
    named = str(config.get("base_model_name_or_path") or "")
    if base is None and named and Path(named).is_dir():
        base = locate(named)
    modules = sorted({module for module in (adapted(key, config) for key in shapes) if module})
    if not modules:
        raise PluginError(f"{folder / WEIGHTS} has no {config['peft_type']} tensors", "is it whole?")
    return {
        "format": FORMAT,
        "type": config["peft_type"],
        "base": {
            "model": base.model if base else named,
            "revision": base.revision if base else str(config.get("revision") or ""),
            "weights_sha256": base.made_by()["weights_sha256"] if base else "",
        },
        "targets": sorted({module.rpartition(".")[2] for module in modules}),
        "layers": sorted({int(found[1]) for module in modules if (found := _BLOCK.search(module))}),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha", config.get("alpha")),
        "parameters": sum(_count(shape) for shape in shapes.values()),
        "training": None,
    }


def add(
    store: "Store",
    folder: Path,
    name: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    labels: str | None = None,
    split: Iterable[str] | None = None,
    command: str = "",
    message: str = "",
) -> "Bundle":
    """Take an adapter that peft saved into a store.

    Args:
        store: Where to.
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        name: `hubert-large-lora` makes `--plugin hubert-large-lora` work.
        base: Folder or hub id of the checkpoint it was trained on, whose weights are hashed.
        revision: Of a hub id.
        labels: The label layer it was trained on; it becomes a parent.
        split: Only clips of these splits were trained on; None: all that have a label.
        command: For the log.
        message: For the log.

    Raises:
        PluginError: No adapter that can be used.
        UnknownName: No such label layer or split.
        NameTaken: There is an adapter of that name.
    """
    card = describe(folder, locate(base, revision) if base else None)
    if labels is not None:
        card["training"] = {"labels": labels, "keys": _trained_on(store, labels, split), "folds": None}
    files: dict[str, bytes | Path] = {
        CONFIG: folder / CONFIG,
        WEIGHTS: folder / WEIGHTS,
        CARD: json.dumps(card, indent=1).encode(),
    }
    attrs = {key: card[key] for key in ("type", "targets", "layers", "rank", "parameters")}
    attrs |= {"base": card["base"]["model"], "labels": labels or ""}
    parents = (f"labels/{labels}",) if labels else ()
    return store.adapters.add(name, files, parents=parents, attrs=attrs, command=command, message=message)


def export(store: "Store", name: str, to: Path) -> list[Path]:
    """Write an adapter's files into a folder, as peft reads them.

    Raises:
        UnknownName: There is no such adapter.
        PluginError: The folder has files of these names already.
    """
    bundle = store.adapters[name]
    taken = [file for file in bundle.files if (to / file).exists()]
    if taken:
        raise PluginError(f"{to} has {', '.join(taken)} already", "give another folder")
    to.mkdir(parents=True, exist_ok=True)
    for file in bundle.files:
        (to / file).write_bytes(bundle.read(file))
    return [to / file for file in bundle.files]


def how_to_make(name: str) -> str:
    """Say how an adapter comes into a store."""
    return (
        "train one with peft, save it with save_pretrained(FOLDER), "
        f"then: mer-fs adapters add FOLDER --as {name}"
    )


def adapted(key: str, config: Mapping[str, Any]) -> str:
    """Return the module a tensor of the adapter changes; empty for tensors saved whole, such as heads."""
    found = re.match(rf"(?:base_model\.model\.)?(.+?)\.{TUNERS[config['peft_type']]}\w+(\.|$)", key)
    return found[1] if found else ""


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise PluginError(f"{folder} has no {CONFIG}", "give the folder that save_pretrained of peft wrote")
    config = Source(folder, folder.name).json(CONFIG)
    kind = config.get("peft_type")
    if kind not in TUNERS:
        raise PluginError(
            f"{folder} is an adapter of type {kind}, which cannot be merged into weights",
            f"there are: {', '.join(TUNERS)}",
        )
    if config.get("bias", "none") != "none":
        raise PluginError(f"{folder} trains biases besides its own weights", "train with bias='none'")
    return config


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise PluginError(
            f"{folder} has no {WEIGHTS}" + (", only a pickled one, which could run code" if pickled else ""),
            "save it again with a current peft, which writes safetensors",
        )
    try:
        with safe_open(file, "np") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise PluginError(f"{file} is no whole safetensors file: {error}", "get the file anew") from error


def _trained_on(store: "Store", labels: str, split: Iterable[str] | None) -> list[str]:
    layer = store.labels.resolve(labels)
    labelled = [key for key, label in zip(layer.keys, layer.label, strict=True) if label >= 0]
    if split is None:
        return labelled
    chosen = {clip.key for clip in store.clips.select(split=tuple(split))}
    return [key for key in labelled if key in chosen]


def _there_are(store: "Store") -> str:
    return f"the store has: {', '.join(store.adapters)}" if len(store.adapters) else "the store has none"


def _ordered(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
