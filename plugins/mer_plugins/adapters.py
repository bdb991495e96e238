"""Adapters (LoRA and kin): finding them, keeping them in a store, and what they add to a fingerprint.

In a store an adapter is a bundle `adapters/NAME` of the files of its folder (`mer_plugins.adapter_files` has
the layout) and `card.json`, which says what the base model was and which labels it was trained on, so that
lineage can tell which features have seen which labels. `mer_plugins.merging` puts adapters into models.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import Damaged, UnknownName
from mer_featurestore.records import canonical_json
from mer_plugins.adapter_files import (
    CARD,
    CONFIG,
    FORMAT,
    OWN,
    PROJECTION,
    TUNERS,
    WEIGHTS,
    adapted,
    check_format,
    describe,
    fold_files,
    read_config,
    write_config,
)
from mer_plugins.checkpoints import Source, digest_of, is_hub_id, locate, sha256
from mer_plugins.errors import PluginError

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

__all__ = [
    "CARD", "CONFIG", "FORMAT", "OTHERS", "PROJECTION", "TUNERS", "WEIGHTS", "Adapter", "adapted", "add",
    "describe", "export", "find", "how_to_make", "keep", "of_bundle", "read_folder", "write_config",
]  # fmt: skip

# What clips outside of all folds get: the mean of the folds' features, or those of the all-data weights.
OTHERS = ("mean", "all")
# What decides no value: where the base came from, who wrote the file.
_INCIDENTAL = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "runtime_config", "task_type",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """One adapter on this machine.

    Attributes:
        name: Of the store's adapter, or of the folder.
        folder: Where its files are.
        card: What is known of it; see `describe`.
        ref: `adapters/NAME` in a store; empty for a folder.
        others: What clips outside of all folds get, one of `OTHERS`; empty without folds.
    """

    name: str
    folder: Path
    card: Mapping[str, Any] = field(compare=False)
    ref: str = ""
    others: str = ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The parsed `adapter_config.json`; empty where there is a projection alone."""
        return read_config(self.folder) if (self.folder / CONFIG).is_file() else {}

    @cached_property
    def folds(self) -> tuple[Path, ...]:
        """The weights of each fold, `fold-0` first; none when it has no folds."""
        return tuple(fold_files(self.folder))

    @property
    def weights(self) -> Path | None:
        """The weights trained on all data; None where there are those of the folds alone, or a projection."""
        file = self.folder / WEIGHTS
        return file if file.is_file() else None

    @property
    def projection(self) -> Path | None:
        """The file of the head on the rows, if there is one."""
        file = self.folder / PROJECTION
        return file if file.is_file() else None

    @property
    def assignment(self) -> Mapping[str, int]:
        """The fold of each clip whose label the weights of that fold have not seen."""
        return (self.card.get("training") or {}).get("folds") or {} if self.folds else {}

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """The adapter's part of a fingerprint: its type, and hashes of all that decides a value.

        Of weights and settings, the head and, with folds, of all their weights, of which clip is in which,
        and what others get.
        """
        facts: dict[str, Any] = {"type": self.config.get("peft_type", "PROJECTION")}
        if self.config:
            deciding = {name: _ordered(v) for name, v in self.config.items() if name not in _INCIDENTAL}
            weights = sha256(self.weights) if self.weights else ""
            facts["sha256"] = digest_of(canonical_json({"weights": weights, "config": deciding}))
        if self.projection:
            facts["projection_sha256"] = sha256(self.projection)
        if self.folds:
            facts["folds"] = {
                "weights_sha256": digest_of(canonical_json([sha256(file) for file in self.folds])),
                "assignment_sha256": digest_of(canonical_json(dict(self.assignment))),
                "others": self.others or self.for_others(None).others,
            }
        return facts

    def for_others(self, others: str | None) -> "Adapter":
        """Return the adapter with it settled what clips outside of all folds get.

        Args:
            others: One of `OTHERS`; None is `all` where there are weights trained on all data, else `mean`.

        Raises:
            UnknownName: Something else.
            PluginError: The adapter has no folds, or no weights trained on all data.
        """
        if others is not None and others not in OTHERS:
            raise UnknownName("what others get", others, OTHERS)
        if not self.folds:
            if others is None:
                return self
            raise PluginError(
                f"adapter {self.name} has no folds: all clips get the same weights", "leave --others out"
            )
        if others == "all" and self.weights is None:
            raise PluginError(
                f"adapter {self.name} has folds and no weights trained on all data", "say --others mean"
            )
        return replace(self, others=others or ("all" if self.weights else "mean"))

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
    check_format(card, f"of {bundle.entry.ref}")
    for file in bundle.files:
        if not (file.endswith(WEIGHTS) or file in (CONFIG, PROJECTION)):
            continue
        if sha256(bundle.path(file)) != bundle.entry.files[file]["sha256"]:
            raise Damaged(
                f"{bundle.path(file)} is damaged: its checksum does not match", "restore it from a copy"
            )
    return Adapter(bundle.name, bundle.path(CARD).parent, card, bundle.entry.ref)


def read_folder(folder: Path) -> Adapter:
    """Return the adapter in a folder that peft wrote, or that was exported.

    Raises:
        PluginError: It is no adapter, is pickled, of a kind that cannot be used, or lacks tensors.
    """
    return Adapter(folder.resolve().name, folder, describe(folder))


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
    """Take an adapter that peft saved, or that was exported from a store, into a store.

    Args:
        store: Where to.
        folder: An adapter's; see `mer_plugins.adapter_files`. What its own `card.json` says is taken over.
        name: `hubert-large-lora` makes `--plugin hubert-large-lora` work.
        base: Folder or hub id of the checkpoint it was trained on, whose weights are hashed.
        revision: Of a hub id.
        labels: The label layer it was trained on; it becomes a parent.
        split: Only clips of these splits were trained on; None: all that have a label.
        command: For the log.
        message: For the log.

    Raises:
        PluginError: No adapter that can be used, or its card tells its labels already.
        UnknownName: No such label layer or split.
        NameTaken: There is an adapter of that name.
    """
    source = locate(base, revision) if base else None
    told = describe(folder, source)["training"]
    if labels is None:
        known = told is not None and told["labels"] in store.labels
        parents = [f"labels/{told['labels']}"] if told is not None and known else []
        return _keep(store, name, folder, source, {}, {}, parents, command, message)
    if told is not None:
        raise PluginError(
            f"{folder / CARD} says already that it was trained on labels {told['labels']!r}",
            "leave --labels out, or put the card right",
        )
    training = {"labels": labels, "keys": _trained_on(store, labels, split)}
    return keep(store, name, folder, base=source, training=training, command=command, message=message)


def keep(
    store: "Store",
    name: str,
    folder: Path,
    *,
    base: Source | None = None,
    training: Mapping[str, Any] | None = None,
    alignment: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    extra: Mapping[str, bytes | Path] | None = None,
    parents: Sequence[str] = (),
    command: str = "",
    message: str = "",
) -> "Bundle":
    """Keep an adapter that was trained here.

    Args:
        store: Where to.
        name: Its name.
        folder: Laid out as `mer_plugins.adapter_files` says, without its `card.json`.
        base: The checkpoint it was trained on (an extractor's `source`); None: what its configuration says.
        training: `labels` (the layer, which becomes a parent), `keys` (every clip whose label any of the
            weights saw) and `folds` (the fold of each clip whose label the weights of that fold did not see),
            and more facts; None when no labels were used.
        alignment: Of an adapter that was trained to match another space: `aligned_to` (the space, which
            becomes a parent), `keys`, and more facts.
        facts: More of the card, as JSON: metrics, settings.
        extra: More files of the bundle.
        parents: More parents, e.g. the run whose layers it adapts.
        command: For the log.
        message: For the log.

    Raises:
        PluginError: No adapter that can be used, or facts or files under names that are the card's own.
        UnknownName: A parent is not in the store.
        NameTaken: There is an adapter of that name.
    """
    said: dict[str, Any] = dict(facts or {})
    if taken := sorted({*OWN, "training", "alignment"} & set(said)):
        raise PluginError(f"facts under names of the card's own: {', '.join(taken)}", "name them otherwise")
    if training is not None:
        said["training"] = dict(training)
    if alignment is not None:
        said["alignment"] = dict(alignment)
    above = [f"labels/{training['labels']}"] if training and training.get("labels") else []
    above += [f"features/{alignment['aligned_to']}"] if alignment and alignment.get("aligned_to") else []
    above += [parent for parent in parents if parent not in above]
    return _keep(store, name, folder, base, said, extra or {}, above, command, message)


def _keep(
    store: "Store",
    name: str,
    folder: Path,
    base: Source | None,
    said: Mapping[str, Any],
    extra: Mapping[str, bytes | Path],
    parents: Sequence[str],
    command: str,
    message: str,
) -> "Bundle":
    card = describe(folder, base, said)
    found = [CONFIG, WEIGHTS, PROJECTION, *(str(f.relative_to(folder)) for f in fold_files(folder))]
    files: dict[str, bytes | Path] = {file: folder / file for file in found if (folder / file).is_file()}
    if taken := sorted({*files, CARD} & set(extra)):
        raise PluginError(
            f"files under names of the adapter's own: {', '.join(taken)}", "name them otherwise"
        )
    files |= {**extra, CARD: _written(card)}
    attrs = {key: card[key] for key in ("type", "targets", "layers", "rank", "parameters", "projection")}
    attrs |= {"base": card["base"]["model"], "folds": card["weights"]["folds"]}
    attrs |= {"labels": (card["training"] or {}).get("labels", "")}
    return store.adapters.add(
        name, files, parents=tuple(parents), attrs=attrs, command=command, message=message
    )


def _written(card: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PluginError(f"the card's facts are no JSON: {error}", "give plain finite values") from error


def export(store: "Store", name: str, to: Path) -> list[Path]:
    """Write an adapter's files into a folder, as peft (where it is peft's) and `add` read them.

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
        (to / file).parent.mkdir(exist_ok=True)
        (to / file).write_bytes(bundle.read(file))
    return [to / file for file in bundle.files]


def how_to_make(name: str) -> str:
    """Say how an adapter comes into a store."""
    return (
        f"train one: mer-zoo tune PLUGIN --labels LAYER --as {name}; or with peft, save it with "
        f"save_pretrained(FOLDER), then: mer-fs adapters add FOLDER --as {name}"
    )


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
