"""Putting an adapter into a model, for inference: what peft made is merged, and costs nothing more to run."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_plugins.adapters import TUNERS, Adapter
from mer_plugins.errors import PluginError
from mer_plugins.fitted import first_line, refusal, write_fitted
from mer_plugins.transformer import home


def merge(net: Any, adapter: Adapter, prefixes: Sequence[str] = ()) -> Any:
    """Return a transformers model with an adapter in it (changed in place), for inference.

    peft's kinds are merged into the weights, `WEIGHTS` replaces some of them, bottlenecks stay beside them.

    Args:
        net: The base model.
        adapter: What to put in; the weights trained on all data.
        prefixes: What the encoder may be called in the model the adapter was trained on, e.g.
            `model.encoder.`, besides none at all and transformers' own prefix.

    Raises:
        PluginError: Its tensors are for modules or of shapes that the model does not have, or it has weights
            of folds alone.
    """
    if adapter.weights is None:
        raise PluginError(
            f"adapter {adapter.name} has {len(adapter.folds)} folds and no weights trained on all data",
            "extract with it, which gives each clip its fold",
        )
    if adapter.config["peft_type"] in TUNERS:
        return _merged(net, adapter, adapter.weights, prefixes)
    from mer_plugins.switching import attach

    attach(net, adapter, prefixes).use(None)
    return net


def _merged(net: Any, adapter: Adapter, weights: Path, prefixes: Sequence[str]) -> Any:
    from peft import PeftModel

    with tempfile.TemporaryDirectory(prefix="mer-adapter-") as name, warnings.catch_warnings():
        write_fitted(net, adapter, weights, prefixes, Path(name))
        warnings.filterwarnings("error", "Found missing adapter keys")
        # peft asks transformers for something under a name that transformers is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        try:
            tuned = PeftModel.from_pretrained(net, name, torch_device=str(home(net)))
            whole = tuned.merge_and_unload(safe_merge=True)
        except (RuntimeError, ValueError, UserWarning) as error:
            raise refusal(net, adapter, first_line(error)) from error
    return whole.eval().requires_grad_(False)
