"""An adapter's tensors and settings under the names of the encoder at hand.

People train adapters on models with a head (`HubertForSequenceClassification`) and extract with the encoder
alone, so names are matched without the head's prefix, and what belongs to the head is left out. Anything else
that does not find its place is an error.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_plugins.adapters import CONFIG, WEIGHTS, Adapter, adapted
from mer_plugins.errors import PluginError

_ROOT = "base_model.model."


def write_fitted(net: Any, adapter: Adapter, weights: Path, prefixes: Sequence[str], folder: Path) -> None:
    """Write an adapter of peft as if it had been trained on `net` itself.

    Args:
        net: The base model, as loaded.
        adapter: Its settings are taken.
        weights: One of its files of weights.
        prefixes: See `known_prefixes`.
        folder: Made if need be.

    Raises:
        PluginError: Tensors for modules that the model does not have, or settings peft does not know.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    prefix, names = _fitted(net, adapter, known_prefixes(net, prefixes), list(tensors))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({_ROOT + inner: tensors[key] for key, inner in names.items()}, folder / WEIGHTS)
    _fitted_config(adapter, prefix, names).save_pretrained(str(folder))


def known_prefixes(net: Any, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what an encoder may be called in the model an adapter was trained on, likeliest first."""
    return "", f"{net.base_model_prefix}.", "model.", *more


def _fitted(
    net: Any, adapter: Adapter, prefixes: Sequence[str], keys: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return the prefix the encoder had, and each tensor's name -> its name within `net`."""
    modules = {name for name, _ in net.named_modules() if name}
    roots = {name.partition(".")[0] for name in modules}
    changed = [module for key in keys if (module := adapted(key, adapter.config))]

    def hits(prefix: str) -> int:
        return sum(m.startswith(prefix) and m.removeprefix(prefix) in modules for m in changed)

    prefix = max(prefixes, key=hits)  # the first of equals
    kept: dict[str, str] = {}
    lost: list[str] = []
    for key in keys:
        inner = key.removeprefix(_ROOT)
        module = adapted(key, adapter.config) or inner.rpartition(".")[0]
        if not inner.startswith(prefix):
            continue  # beside the encoder: a head, a decoder
        if module.removeprefix(prefix) in modules:
            kept[key] = inner.removeprefix(prefix)
        elif inner.removeprefix(prefix).partition(".")[0] in roots:
            lost.append(module)
    if lost or not hits(prefix):
        some = sorted(set(lost or changed))
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        raise refusal(net, adapter, f"it changes {', '.join(some[:3])}{more}, which are not there")
    return prefix, kept


def _fitted_config(adapter: Adapter, prefix: str, names: dict[str, str]) -> Any:
    """Return the adapter's configuration with its targets named one by one."""
    from peft import PeftConfig

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft drops settings it does not know, and only warns
        try:
            config = PeftConfig.from_pretrained(str(adapter.folder))
        except (UserWarning, TypeError, ValueError) as error:
            raise PluginError(
                f"{adapter.folder / CONFIG} is not for this release of peft: {first_line(error)}",
                "install a newer peft",
            ) from error
    targets = {adapted(_ROOT + inner, adapter.config) for inner in names.values()} - {""}
    saved = getattr(config, "modules_to_save", None) or ()
    whole = [
        inner.rpartition(".")[0] for inner in names.values() if not adapted(_ROOT + inner, adapter.config)
    ]
    settings: dict[str, Any] = {
        "target_modules": targets,
        "modules_to_save": [s for s in saved if any(f".{name}".endswith(f".{s}") for name in whole)] or None,
        "task_type": None,
        "base_model_name_or_path": None,
    }
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        settings |= {name: None} if hasattr(config, name) else {}
    for name in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(config, name, None):
            settings[name] = {key.removeprefix(prefix): value for key, value in pattern.items()}
    if (before := getattr(config, "feedforward_modules", None)) is not None:  # IA3
        settings["feedforward_modules"] = {t for t in targets if _matches(before, prefix + t)}
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def _matches(wanted: Any, name: str) -> bool:
    """Say whether peft's `target_modules` or the like, an expression or a list of endings, means a module."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted or ())


def refusal(net: Any, adapter: Adapter, reason: str) -> PluginError:
    """Return the error of an adapter that does not fit a model."""
    base = adapter.card["base"]["model"] or "an unnamed model"
    return PluginError(
        f"adapter {adapter.name}, trained on {base}, does not fit this {type(net).__name__}: {reason}",
        "give the model it was trained on: --model PATH_OR_ID",
    )


def first_line(error: BaseException) -> str:
    """Return the line of an error's text that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    mismatch = next((line for line in lines if "size mismatch" in line), "")
    return mismatch or (lines[0] if lines else type(error).__name__)
