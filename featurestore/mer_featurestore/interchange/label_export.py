"""Label layers out of the store."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.label_sheets import write_labels, write_resolved
from mer_featurestore.resolve import Resolved

if TYPE_CHECKING:
    from mer_featurestore.store import Store

FORMATS = {"csv": ".csv", "mertools": ".npz"}
_NO_VALENCE = -10  # what MERTools itself writes for "no valence"


def export_labels(
    store: "Store", name: str, path: Path, *, form: str | None = None, resolved: bool = False
) -> int:
    """Write a label layer to a file.

    Args:
        store: Where from.
        name: Of the layer.
        path: The file to write; one that is there is replaced.
        form: `csv` (with everything, `read_labels` reads the same layer back) or `mertools` (the label `.npz`
            of that toolkit: `<split>_corpus` -> clip -> `{"emo": class, "val": -10}`); None for the suffix's.
        resolved: Write the layer together with what it stands on; `mertools` always does.

    Returns:
        How many labels were written.

    Raises:
        UnknownName: No such layer or format.
        BadInput: The file cannot be written, or there is nothing to write.
    """
    form = form or next((f for f, suffix in FORMATS.items() if path.suffix.lower() == suffix), None)
    if form not in FORMATS:
        raise UnknownName("label format", form or path.suffix, FORMATS)
    laid_out = store.labels.resolve(name) if resolved or form == "mertools" else None
    count = len(laid_out) if laid_out is not None else len(store.labels[name])
    if not count:
        raise BadInput(f"label layer {name!r} has no labels to export", "choose another layer")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "mertools" and laid_out is not None:
            _write_mertools(store, laid_out, path)
        elif laid_out is not None:
            write_resolved(laid_out, path)
        else:
            write_labels(store.labels[name], path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", "choose another place") from None
    return count


def _write_mertools(store: "Store", labels: Resolved, path: Path) -> None:
    corpora: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    clips = store.clips
    for key in labels.keys:
        split = clips[key].split if key in clips else "train"
        corpora[f"{split}_corpus"][key] = {"emo": labels[key], "val": _NO_VALENCE}
    arrays: dict[str, Any] = {name: np.array(corpus, dtype=object) for name, corpus in corpora.items()}
    with path.open("wb") as file:  # given a path, numpy would append .npz to another suffix
        np.savez_compressed(file, **arrays)
