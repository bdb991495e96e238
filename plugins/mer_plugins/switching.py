"""An adapter in an encoder whose weights can be exchanged: those of each fold, or those trained on all data.

The base is there once, whatever the number of folds. peft's adapters lie beside the weights unmerged, all of
them loaded and one active; bottlenecks and replaced tensors are overwritten at each change, the replaced ones
read from their file again.
"""

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_plugins.adapter_files import BOTTLENECK, REPLACED
from mer_plugins.adapters import Adapter
from mer_plugins.audio.wavlm import through_modules
from mer_plugins.bottleneck import attach_bottlenecks
from mer_plugins.errors import PluginError
from mer_plugins.fitted import first_line, known_prefixes, refusal, write_fitted
from mer_plugins.transformer import home


class Switch(ABC):
    """An adapter attached to an encoder."""

    @abstractmethod
    def use(self, fold: int | None) -> None:
        """Make the encoder that of a fold; None: of the weights trained on all data."""


def attach(net: Any, adapter: Adapter, prefixes: Sequence[str] = ()) -> Switch:
    """Attach an adapter with all its weights to an encoder, changed in place; none of them is in use yet.

    Args:
        net: The base model.
        adapter: What to attach.
        prefixes: What the encoder may be called in the model the adapter was trained on, besides none at all
            and transformers' own prefix.

    Raises:
        PluginError: Its tensors are for modules or of shapes that the model does not have.
    """
    kinds: dict[str, type[Any]] = {BOTTLENECK: _Bottlenecks, REPLACED: _Tensors}
    made: Switch = kinds.get(adapter.config["peft_type"], _Beside)(net, adapter, prefixes)
    net.eval().requires_grad_(False)
    return made


class _Beside(Switch):
    """Adapters of peft, unmerged."""

    def __init__(self, net: Any, adapter: Adapter, prefixes: Sequence[str]) -> None:
        from peft import PeftModel

        if net.config.model_type == "wavlm":
            through_modules(net)  # else nothing beside its attention's maps would ever be asked
        with tempfile.TemporaryDirectory(prefix="mer-adapter-") as root, warnings.catch_warnings():
            files = _weights(adapter)
            for fold, file in files.items():  # before peft renames modules
                write_fitted(net, adapter, file, prefixes, Path(root) / _name(fold))
            warnings.filterwarnings("error", "Found missing adapter keys")
            # peft asks transformers for something under a name that transformers is about to drop.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            try:
                place, (first, *rest) = str(home(net)), (_name(fold) for fold in files)
                self.tuned: Any = PeftModel.from_pretrained(
                    net, f"{root}/{first}", adapter_name=first, torch_device=place
                )
                for name in rest:
                    self.tuned.load_adapter(f"{root}/{name}", adapter_name=name, torch_device=place)
            except (RuntimeError, ValueError, UserWarning) as error:
                raise refusal(net, adapter, first_line(error)) from error

    def use(self, fold: int | None) -> None:
        """Make one of them the active one."""
        self.tuned.set_adapter(_name(fold), inference_mode=True)


class _Bottlenecks(Switch):
    """Bottlenecks behind blocks."""

    def __init__(self, net: Any, adapter: Adapter, prefixes: Sequence[str]) -> None:  # noqa: ARG002 - as the others
        from safetensors.torch import load_file

        config = adapter.config
        try:
            self.made = attach_bottlenecks(
                net, config["layers"], config["bottleneck"], activation=config.get("activation", "gelu")
            )
            self.sets = {fold: load_file(file) for fold, file in _weights(adapter).items()}
            self.made.take(next(iter(self.sets.values())))
        except PluginError as error:
            raise refusal(net, adapter, error.message) from error

    def use(self, fold: int | None) -> None:
        """Copy their weights."""
        self.made.take(self.sets[fold])


class _Tensors(Switch):
    """Tensors in place of the encoder's own."""

    def __init__(self, net: Any, adapter: Adapter, prefixes: Sequence[str]) -> None:
        from safetensors import safe_open

        self.files = _weights(adapter)
        with safe_open(next(iter(self.files.values())), "pt") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 - no mapping
        there = dict(net.named_parameters()) | dict(net.named_buffers())
        names = _names_within(net, adapter, list(shapes), list(there), known_prefixes(net, prefixes))
        for key, name in names.items():
            if tuple(there[name].shape) != shapes[key]:
                told = f"size mismatch for {name}: {list(shapes[key])} and {list(there[name].shape)}"
                raise refusal(net, adapter, told)
            if there[name].is_meta:
                raise PluginError(
                    f"adapter {adapter.name} replaces whole tensors, and {name} is kept off the device",
                    "leave --option device_map=auto out",
                )
        self.targets = {key: there[name] for key, name in names.items()}

    def use(self, fold: int | None) -> None:
        """Copy them from their file into the encoder."""
        import torch
        from safetensors import safe_open

        with safe_open(self.files[fold], "pt") as tensors, torch.no_grad():
            for key, target in self.targets.items():
                target.copy_(tensors.get_tensor(key))


def _names_within(
    net: Any, adapter: Adapter, keys: Sequence[str], there: Sequence[str], prefixes: Sequence[str]
) -> dict[str, str]:
    """Return each tensor's name -> its name within `net`; what lies beside the encoder is left out."""
    known, roots = set(there), {name.partition(".")[0] for name in there}

    def hits(prefix: str) -> int:
        return sum(key.startswith(prefix) and key.removeprefix(prefix) in known for key in keys)

    prefix = max(prefixes, key=hits)  # the first of equals
    inner = {key: key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    lost = sorted(name for name in inner.values() if name not in known and name.partition(".")[0] in roots)
    if lost or not hits(prefix):
        raise refusal(net, adapter, f"it replaces {', '.join((lost or list(keys))[:3])}, which are not there")
    return {key: name for key, name in inner.items() if name in known}


def _weights(adapter: Adapter) -> dict[int | None, Path]:
    """Return the files of the adapter's sets of weights by fold, None for all data."""
    files: dict[int | None, Path] = dict(enumerate(adapter.folds))
    return files | ({None: adapter.weights} if adapter.weights else {})


def _name(fold: int | None) -> str:
    return "all" if fold is None else f"fold{fold}"
