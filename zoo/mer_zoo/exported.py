"""Using an exported run: a folder with weights and a configuration, without any store.

```python
from mer_zoo.exported import load

model = load("DIR")
probs = model.predict({"audio": [array_of_clip_0, None], "text": [other_0, other_1]})
```
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, UnknownName
from mer_featurestore.records import Ragged
from mer_zoo.errors import ZooError
from mer_zoo.runs import weights_file
from mer_zoo.spaces import Inputs

if TYPE_CHECKING:
    from mer_zoo.prepared import Prepared

CONFIG = "config.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported run, ready to predict on the CPU.

    Attributes:
        name: Of the run.
        classes: C names, in the order of the probabilities.
        inputs: What it reads: per input the width of a row, and whether frames or single vectors.
        modules: One model per fold.
        frames: Whether it reads sequences; if not, it is given their means.
    """

    name: str
    classes: tuple[str, ...]
    inputs: Inputs
    modules: "tuple[Prepared, ...]" = field(repr=False)  # torch writes every layer: hundreds of lines
    frames: bool

    def predict(self, clips: Mapping[str, Sequence[NDArray[Any] | None]]) -> NDArray[np.float32]:
        """Return the mean of the folds' probabilities, float32 `[n, C]`.

        Args:
            clips: Per input (`audio`, `video`, `text` …) the features of n clips, each `[T, D]` or `[D]` as
                the extractor gave them (where the model reads one layer of many: that layer), or None for a
                clip that lacks the modality. An input that is left out is missing for all.

        Raises:
            UnknownName: The model has no such input.
            BadInput: Other numbers of clips per input, or features of another shape.
            ZooError: There is no clip, or one has no features at all.
        """
        import torch

        from mer_zoo.data import Features, Table, pool, thin
        from mer_zoo.prepared import mean_probs

        count, tables = self._count(clips), {}
        for name, chosen in self.inputs.chosen.items():
            given = clips.get(name, [None] * count)
            where = np.array([i for i, array in enumerate(given) if array is not None], np.int64)
            rows = [_rows(name, i, given[i], chosen.width) for i in where]
            ragged = thin(Ragged.pack(rows, np.float32, (chosen.width,)), self.inputs.max_frames)
            tables[name] = Table.pack(ragged if self.frames else pool(ragged), where, count)
        features = Features(tuple(map(str, range(count))), tables)
        bare = np.flatnonzero(~features.present.numpy())
        if len(bare):
            raise ZooError(f"clip {bare[0]} has no features at all", "leave it out")
        return mean_probs(self.modules, features, torch.arange(count))

    def _count(self, clips: Mapping[str, Sequence[Any]]) -> int:
        for name in clips:
            if name not in self.inputs.chosen:
                raise UnknownName(f"input of {self.name}", name, self.inputs.chosen)
        counts = {name: len(arrays) for name, arrays in clips.items()}
        if not any(counts.values()):
            raise ZooError("there is no clip to predict")
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise BadInput(
                f"inputs have different numbers of clips ({told})", "give None where one is missing"
            )
        return next(iter(counts.values()))


def _rows(name: str, i: int, array: Any, width: int) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(array, np.float32))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise BadInput(
            f"{name} of clip {i} has the shape {np.shape(array)}", f"give [T, {width}] or [{width}]"
        )
    return rows


def load(folder: Path | str) -> Exported:
    """Load what `mer-zoo export` wrote.

    Raises:
        ZooError: The folder is no exported run, or a newer version wrote it.
        UnknownName: The plugin that brings the model is not installed.
    """
    from safetensors.torch import load_file

    from mer_zoo.prepared import Prepared, blank_statistics
    from mer_zoo.registry import build_model, find_model

    folder = Path(folder)
    config = _config(folder)
    card, inputs = find_model(config["model"]), Inputs.from_json(config["inputs"])
    widths = {name: chosen.width for name, chosen in inputs.chosen.items()}
    modules = []
    for fold in range(config["folds"]):
        model = build_model(card, widths, len(config["classes"]), config["params"])
        module = Prepared(model, blank_statistics(widths) if config["standardise"] else {})
        module.load_state_dict(load_file(folder / weights_file(fold)))
        modules.append(module.eval())
    return Exported(config["name"], tuple(config["classes"]), inputs, tuple(modules), card.frames)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(f"{folder} is no exported run", "make one: mer-zoo export RUN --to DIR") from error
    if config["format"] > FORMAT:
        raise ZooError(
            f"{folder} has format {config['format']}; this version reads up to {FORMAT}",
            "upgrade mer-fs: pip install -U mer-fs",
        )
    return config
