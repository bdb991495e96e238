"""A tuned adapter for the store: its files, and a card that says what it saw and how well it did."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_plugins import adapters
from mer_zoo.tuning.parts import ALL, ONE, Parts
from mer_zoo.tuning.selection import Selection

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

HEAD = "head.safetensors"


def publish(
    store: "Store",
    selection: Selection,
    parts: Parts,
    folders: Mapping[str, Path],
    keys: Sequence[str],
    facts: Mapping[str, Any],
    *,
    into: Path,
    command: str = "",
    message: str = "",
) -> "Bundle":
    """Add an adapter to the store.

    Args:
        store: Where to.
        selection: What was tuned.
        parts: Who learned from what.
        folders: Part -> its files.
        keys: Every clip whose label was used by any of them.
        facts: For the card, under `tuning`.
        into: A folder to lay the files out in.
        command: For the journal.
        message: For the journal.

    Raises:
        NameTaken: Somebody else has taken the name meanwhile; the work folder is still there.
    """
    request, extractor = selection.request, selection.extractor
    heads = _lay_out(folders, into)
    training = {
        "labels": request.labels,
        "keys": sorted(keys),
        "folds": parts.folds,
        "split": request.split,
        "grouped_by": parts.grouped_by,
        "probe": selection.probe or None,
    }
    return adapters.keep(
        store,
        request.name,
        into,
        base=extractor.source,
        training=training,
        facts={"tuning": json.loads(json.dumps(facts))},
        extra=heads,
        parents=[f"runs/{selection.probe}"] if selection.probe else [],
        command=command,
        message=message,
    )


def _lay_out(folders: Mapping[str, Path], into: Path) -> dict[str, bytes | Path]:
    """Copy configuration and weights to where a bundle has them; return the heads by their names there."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    shutil.copy(next(iter(folders.values())) / adapters.CONFIG, into)
    heads: dict[str, bytes | Path] = {}
    for name, folder in folders.items():
        place = "" if name in (ALL, ONE) else f"{name}/"
        (into / place).mkdir(exist_ok=True)
        shutil.copy(folder / adapters.WEIGHTS, into / place)
        heads[f"{place}{HEAD}"] = folder / HEAD
    return heads
