"""Adapters of every kind for tiny checkpoints, written the way they are published or kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mer_plugins.adapter_files import CARD, CONFIG, PROJECTION, WEIGHTS

WIDTH = 32  # of the tiny checkpoints
MARK = 1000.0


def bottlenecks(folder: Path, base: Path, tensors: Mapping[str, torch.Tensor] | None, block: int = 2) -> Path:
    """Write a BOTTLENECK adapter behind one block; without tensors only its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "BOTTLENECK", "bottleneck": 4, "layers": [block], "activation": "relu",
        "base_model_name_or_path": str(base),
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config))
    if tensors is not None:
        save_file(dict(tensors), folder / WEIGHTS)
    return folder


def mark(*places: int, block: int = 2) -> dict[str, torch.Tensor]:
    """Return a bottleneck that adds `MARK` to these numbers of a row and does nothing else."""
    bias = torch.zeros(WIDTH)
    bias[list(places)] = MARK
    return {
        f"blocks.{block}.down.weight": torch.ones(4, WIDTH),
        f"blocks.{block}.down.bias": torch.zeros(4),
        f"blocks.{block}.up.weight": torch.zeros(WIDTH, 4),
        f"blocks.{block}.up.bias": bias,
    }


def marked_folds(
    folder: Path, base: Path, folds: Mapping[str, int], seen: list[str], *, everything: bool = False
) -> Path:
    """Write an adapter whose weights carry the label of each clip they have seen as a mark of its own.

    Args:
        folder: Where to.
        base: The checkpoint.
        folds: The fold of each clip; its weights have seen all labels of `seen` but those of the fold.
        seen: Clip j of these marks number j of a row.
        everything: Whether there are weights that have seen all of them, as well.
    """
    bottlenecks(folder, base, mark(*range(len(seen))) if everything else None)
    for k in range(max(folds.values()) + 1):
        (folder / f"fold-{k}").mkdir(exist_ok=True)
        places = [j for j, key in enumerate(seen) if folds.get(key) != k]
        save_file(mark(*places), folder / f"fold-{k}" / WEIGHTS)
    training = {"labels": "gold", "keys": seen, "folds": dict(folds)}
    (folder / CARD).write_text(json.dumps({"training": training}))
    return folder


def projection(folder: Path, wide: int, out: int, *, hidden: int = 0, seed: int = 4) -> dict[str, Any]:
    """Write a projection with random weights beside whatever is in a folder; return its tensors."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (out, wide), "bias": (out,)}
    if hidden:
        shapes = {"weight": (hidden, wide), "bias": (hidden,), "weight2": (out, hidden), "bias2": (out,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / PROJECTION)
    return {name: tensor.numpy() for name, tensor in tensors.items()}
